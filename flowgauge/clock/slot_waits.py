# SPDX-License-Identifier: Apache-2.0
"""Notes which code waits for slots of concurrency limits, if nothing else ends its wait."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from flowgauge.clock.outside import code_in_loop
from flowgauge.clock.slot_log import Code, SlotWait, noted_wait
from flowgauge.event_loop import awaited_frames
from flowgauge.frames import outwards, place_in

_RUNS = {
    ("prefect.task_engine", "run_task_sync"): "task",
    ("prefect.task_engine", "run_task_async"): "task",
    ("prefect.flow_engine", "run_flow_sync"): "flow",
    ("prefect.flow_engine", "run_flow_async"): "flow",
}
"""What executes a run, and its variable with the task or flow."""


def noted_slot_waits(home: Path) -> contextlib.ExitStack:
    """Note the waits for slots of this process in the log of a pytest run.

    Args:
        home: The folder of the pytest run.

    Returns:
        A stack that ends that when closed.
    """
    from prefect.concurrency import _asyncio, _sync

    stock_sync: Any = _sync.acquire_concurrency_slots_with_lease
    stock_async: Any = _asyncio.aacquire_concurrency_slots_with_lease

    @functools.wraps(stock_sync)
    def acquire(*args: Any, **options: Any) -> Any:
        with _noted(home, _arguments(stock_sync, *args, **options)):
            return stock_sync(*args, **options)

    @functools.wraps(stock_async)
    async def acquire_async(*args: Any, **options: Any) -> Any:
        arguments = _arguments(stock_async, *args, **options)
        with contextlib.nullcontext() if _may_be_cancelled() else _noted(home, arguments):
            return await stock_async(*args, **options)

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(_sync, stock_sync.__name__, acquire))
    stack.enter_context(patch.object(_asyncio, stock_async.__name__, acquire_async))
    return stack


def _arguments(function: Any, *args: Any, **options: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **options)
    bound.apply_defaults()
    return bound.arguments


def _noted(home: Path, wanted: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Note a wait of the code that calls this, unless it ends by itself."""
    limits = (wanted["timeout_seconds"], wanted["max_retries"])
    ends = wanted["mode"] != "concurrency" or any(limit is not None for limit in limits)
    frames = list(outwards(sys._getframe(2)))
    runs = [run for run in map(_run_in, frames) if run is not None]
    # In other threads, Prefect can't interrupt sync code, and the time limits of async code are
    # timers of its event loop.
    is_interrupted = threading.current_thread() is threading.main_thread()
    if ends or (is_interrupted and any(run.timeout_seconds is not None for _, run in runs)):
        return contextlib.nullcontext()
    name = "code outside of a flow"
    if runs:
        kind, run = runs[0]
        name = f"{kind} {run.name!r}"
    names, slots = tuple(wanted["names"]), wanted["slots"]
    return noted_wait(home, SlotWait(Code.here(), name, names, slots, place_in(frames)))


def _run_in(frame: FrameType) -> tuple[str, Any] | None:
    """Return whether a frame executes a task or a flow, and which one."""
    kind = _RUNS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
    return None if kind is None else (kind, frame.f_locals[kind])


def _may_be_cancelled() -> bool:
    """Return whether code of this event loop waits for a time, and may then cancel this task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    timers = getattr(loop, "_scheduled", None)
    if timers is None or any(_is_limit(timer, task) for timer in list(timers)):
        return True
    return code_in_loop(loop) != ""


def _is_limit(timer: asyncio.TimerHandle, task: asyncio.Task[Any] | None) -> bool:
    """Return whether a timer is a time limit, and not that of a request of another task."""
    callback: Any = timer._callback  # type: ignore[attr-defined]
    is_sleep = getattr(callback, "__name__", "") == "_set_result_unless_cancelled"
    if timer.cancelled() or is_sleep:
        return False
    owner = getattr(callback, "__self__", None)
    # Those of asyncio.timeout and of AnyIO.
    host = getattr(owner, "_task", None) or getattr(owner, "_host_task", None)
    if host is None or host is task:
        return True
    modules = (str(f.f_globals.get("__name__", "")) for f in awaited_frames(host.get_coro()))
    return not any(module.startswith("httpcore") for module in modules)
