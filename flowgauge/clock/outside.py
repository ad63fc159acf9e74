# SPDX-License-Identifier: Apache-2.0
"""Who else may act in a process: code of the test, or a worker, outside of all runs.

Before a run gives up waiting for someone else, whoever may still act has to be through with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import site
import sysconfig
import threading
from collections.abc import Container, Iterator
from types import CodeType, FrameType
from typing import Any

from flowgauge.frames import frames_by_thread

SOON = 1.0
"""Seconds; who waits for less, in a thread, looks for something again and again."""

_ENGINES = ("prefect.flow_engine", "prefect.task_engine")
_WORKERS = ("prefect.runner.", "prefect.workers.")


def code_outside(run_threads: Container[int]) -> str:
    """Return where code outside of all runs is, if it may go on by itself.

    Code that waits for others, such as a server that waits for requests, may not.

    Args:
        run_threads: The identifiers of threads that execute the code of runs.

    Returns:
        Who that is, and the file and line; empty if there is none.
    """
    here = threading.get_ident()
    for thread, frame in frames_by_thread().items():
        if thread == here or thread in run_threads:
            continue
        if loop := _event_loop(frame):
            if place := _in_loop(loop):
                return place
        elif (place := _users(_outwards(frame))) and not _waits(frame):
            return place
    return ""


def _outwards(frame: FrameType | None) -> Iterator[tuple[CodeType, int, str]]:
    """Return code, line and module of a frame and those that called it."""
    while frame is not None:
        yield frame.f_code, frame.f_lineno, frame.f_globals.get("__name__", "")
        frame = frame.f_back


def _users(frames: Iterator[tuple[CodeType, int, str]]) -> str:
    """Return the first place that is neither in a library nor in Flowgauge."""
    for code, line, module in frames:
        if not module.startswith(("flowgauge.", "prefect.")) and not _in_library(code.co_filename):
            return f"code of the test, which is at {code.co_filename}:{line}"
    return ""


@functools.cache
def _in_library(file: str) -> bool:
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return file.startswith(("<", *folders, *site.getsitepackages(), site.getusersitepackages()))


def _waits(frame: FrameType) -> bool:
    """Return whether a thread waits for others, and does not look again before long."""
    seen = list(_frames(frame))
    if any(f.f_globals.get("__name__") == "socketserver" for f in seen):
        return frame.f_code.co_name == "select"
    blocked = [f for f in seen if f.f_globals.get("__name__") in ("threading", "queue")]
    if frame not in blocked:
        return False
    limits = [limit for f in blocked if isinstance(limit := f.f_locals.get("timeout"), int | float)]
    return not limits or min(limits) < 0 or min(limits) >= SOON


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _event_loop(frame: FrameType) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that waits in a thread, if one does."""
    if frame.f_code.co_name != "select" or frame.f_globals.get("__name__") != "selectors":
        return None
    loop = None if frame.f_back is None else frame.f_back.f_locals.get("self")
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def _in_loop(loop: asyncio.AbstractEventLoop) -> str:
    """Return where a coroutine of the test sleeps, or which worker waits for work."""
    tasks: set[asyncio.Task[Any]] = set()
    with contextlib.suppress(RuntimeError):  # It changes meanwhile; there is a second look.
        tasks = asyncio.all_tasks(loop)
    for task in tasks:
        awaited = list(_awaited(task.get_coro()))
        modules = [module for _, _, module in awaited]
        if any(module.startswith(_WORKERS) for module in modules):
            return "a worker that may start another run"
        sleeps = any(code.co_name == "sleep" and m == "asyncio.tasks" for code, _, m in awaited)
        if not sleeps or any(module in _ENGINES for module in modules):
            continue
        if place := _users(iter(reversed(awaited))):
            return place
    return ""


def _awaited(coroutine: Any) -> Iterator[tuple[CodeType, int, str]]:
    """Return code, line and module of a coroutine and those that it awaits."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame.f_code, frame.f_lineno, frame.f_globals.get("__name__", "")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
