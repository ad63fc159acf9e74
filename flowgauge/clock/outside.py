# SPDX-License-Identifier: Apache-2.0
"""Who else may act in a process: code of the test, or a worker, outside of all runs.

Before a run gives up waiting for someone else, whoever may still act has to be through with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Container, Iterable
from types import FrameType
from typing import Any

from flowgauge.clock.sightings import is_blocked
from flowgauge.event_loop import ENGINES, awaited_frames
from flowgauge.frames import SITE, STDLIB, frames_by_thread, outwards

SOON = 1.0
"""Seconds; who waits for less, in a thread, looks for something again and again."""

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
    if timer := next(filter(None, map(_timer_of_the_test, threading.enumerate())), ""):
        return timer
    for thread, frame in frames_by_thread().items():
        if thread == here or thread in run_threads:
            continue
        if loop := event_loop_in(frame):
            if place := code_in_loop(loop):
                return place
        elif (place := _users(outwards(frame))) and not _waits(frame):
            return place
    return ""


def _timer_of_the_test(thread: threading.Thread) -> str:
    """Return where the function of a timer is, if it is that of the test, or starts a service."""
    function = getattr(thread, "function", None)
    code = getattr(function, "__code__", None)
    if not isinstance(thread, threading.Timer) or code is None:
        return ""
    module = str(function.__module__)
    if not (_is_of_the_test(module, code.co_filename) or module.startswith("flowgauge.services.")):
        return ""
    return f"a timer, which will call {code.co_filename}:{code.co_firstlineno}"


def _is_of_the_test(module: str, file: str) -> bool:
    is_own = module.startswith(("flowgauge.", "prefect."))
    return not is_own and not file.startswith(("<", STDLIB, *SITE))


def _users(frames: Iterable[FrameType]) -> str:
    """Return the first place that is neither in a library nor in Flowgauge."""
    for frame in frames:
        file = frame.f_code.co_filename
        if _is_of_the_test(_module(frame), file):
            return f"code of the test, which is at {file}:{frame.f_lineno}"
    return ""


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _waits(frame: FrameType) -> bool:
    """Return whether a thread waits for others, and does not look again before long."""
    if any(_module(outer) == "socketserver" for outer in outwards(frame)):
        return frame.f_code.co_name == "select"
    if not is_blocked(frame):
        return False
    blocked = filter(is_blocked, outwards(frame))
    limits = [limit for f in blocked if isinstance(limit := f.f_locals.get("timeout"), int | float)]
    return not limits or min(limits) < 0 or min(limits) >= SOON


def event_loop_in(frame: FrameType) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that waits in a thread, if one does.

    Args:
        frame: The innermost frame of the thread.

    Returns:
        The event loop.
    """
    if frame.f_code.co_name != "select" or _module(frame) != "selectors":
        return None
    loop = None if frame.f_back is None else frame.f_back.f_locals.get("self")
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def code_in_loop(loop: asyncio.AbstractEventLoop) -> str:
    """Return where a coroutine of the test sleeps, or which worker waits for work.

    Args:
        loop: The event loop that executes it.

    Returns:
        Who that is, and the file and line; empty if there is none.
    """
    tasks: set[asyncio.Task[Any]] = set()
    with contextlib.suppress(RuntimeError):  # It changes meanwhile; there is a second look.
        tasks = asyncio.all_tasks(loop)
    for task in tasks:
        frames = list(awaited_frames(task.get_coro()))
        modules = list(map(_module, frames))
        if any(module.startswith(_WORKERS) for module in modules):
            return "a worker that may start another run"
        sleeps = any(f.f_code.co_name == "sleep" and _module(f) == "asyncio.tasks" for f in frames)
        if not sleeps or any(module in ENGINES for module in modules):
            continue
        if place := _users(reversed(frames)):
            return place
    return ""
