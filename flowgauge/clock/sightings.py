# SPDX-License-Identifier: Apache-2.0
"""What the threads of a process are doing, judging from their frames."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

from flowgauge.frames import outwards

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture


_LIBRARIES = ("threading", "queue", "concurrent.", "distributed", "prefect", "ray.")
"""Modules whose code waits on behalf of others."""


def is_blocked(frame: FrameType) -> bool:
    """Return whether a thread waits for another one, judging from its innermost frame.

    Args:
        frame: The innermost frame of the thread.

    Returns:
        Whether it does.
    """
    module = frame.f_globals.get("__name__")
    # Ray waits for the result of a task outside of Python.
    in_ray = module == "ray._private.worker" and frame.f_code.co_name == "get_objects"
    return in_ray or module in ("threading", "queue")


def look_at(frame: FrameType, *, is_async: bool) -> tuple[str, list[str], str]:
    """Return what a thread is doing, judging from its innermost frame.

    Args:
        frame: The innermost frame of a thread.
        is_async: Whether an event loop runs in the thread.

    Returns:
        What it is doing, the keys of the runs it awaits, and the file and line where it is; see
            `flowgauge.clock.runs.RunStatus`.
    """
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if _waits_for_lock(frame):
        return "waits for runs", [], where
    if is_async and frame.f_code.co_name == "select" and frame.f_globals["__name__"] == "selectors":
        return "waits", [], where
    if not is_blocked(frame):
        return "running", [], where
    for outer in outwards(frame):
        module = outer.f_globals.get("__name__", "")
        if module == "threading" and outer.f_code.co_name == "start":
            # It waits until the thread that it starts runs, which is soon.
            return "running", [], where
        if futures := awaited_futures(outer):
            return "waits for runs", [str(future.task_run_id) for future in futures], where
        if not module.startswith(_LIBRARIES):
            where = f"{outer.f_code.co_filename}:{outer.f_lineno}"
            break
    return "waits", [], where


def awaited_futures(frame: FrameType) -> list[PrefectFuture[Any]]:
    """Return the futures that a frame waits for, on any task runner.

    Args:
        frame: A frame of a thread that waits for another one.

    Returns:
        The futures.
    """
    from prefect.futures import PrefectFuture

    names = frame.f_locals
    futures = (names.get("self"),)
    if frame.f_globals.get("__name__") == "prefect.futures" and "self" not in names:
        futures = names.get("not_done", names.get("pending", ()))
    return [future for future in futures if isinstance(future, PrefectFuture)]


def _waits_for_lock(frame: FrameType) -> bool:
    """Return whether a thread waits in a `MemoryLockManager` for a lock that another run holds."""
    if frame.f_globals.get("__name__") != "prefect.locking.memory":
        return False
    names = frame.f_locals
    info = names.get("existing_lock_info", names.get("lock_info"))
    return info is not None and bool(info["lock"].locked())
