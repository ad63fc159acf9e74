# SPDX-License-Identifier: Apache-2.0
"""What the task run in a thread waits for, read from the frames of the thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from flowgauge.clock.sightings import awaited_futures, is_blocked
from flowgauge.frames import outwards, place_in

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.tasks import Task

_RUNS = ("run_task_sync", "run_task_async")


@dataclass(frozen=True)
class Wait:
    """The wait of a task run for others, which ends only when one of them ends.

    Attributes:
        task: The task whose run occupies the thread; it may have called the one that waits.
        task_run_id: The identifier of that run, if whoever submitted it chose one.
        futures: The futures of the task runs that it waits for.
        where: File and line of the code that waits.
        limited: Whether one of the tasks that the thread executes has a time limit.
    """

    task: Task[..., Any]
    task_run_id: str
    futures: tuple[PrefectFuture[Any], ...]
    where: str
    limited: bool


def wait_in(frame: FrameType) -> Wait | None:
    """Return what the task run in a thread waits for, if the wait has no time limit.

    Args:
        frame: The innermost frame of the thread.

    Returns:
        The wait; None if no task runs in the thread, or it may go on by itself.
    """
    if not is_blocked(frame):
        return None
    frames = list(outwards(frame))
    runs = [f for f in frames if f.f_code.co_name in _RUNS and _module(f) == "prefect.task_engine"]
    futures = futures_in(frames)
    if not runs or not futures or any(map(_is_limited, frames)):
        return None
    submitted = runs[-1].f_locals
    limited = any(run.f_locals["task"].timeout_seconds is not None for run in runs)
    task, task_run_id = submitted["task"], str(submitted["task_run_id"])
    return Wait(task, task_run_id, tuple(futures), place_in(frames), limited)


def futures_in(frames: Iterable[FrameType]) -> list[PrefectFuture[Any]]:
    """Return the futures for which the innermost frame of Prefect that waits for any does so.

    Args:
        frames: Frames, the innermost first.

    Returns:
        The futures.
    """
    return next(filter(None, map(awaited_futures, filter(_is_of_futures, frames))), [])


def _is_limited(frame: FrameType) -> bool:
    """Return whether a frame waits for futures with a time limit."""
    return _is_of_futures(frame) and frame.f_locals.get("timeout") is not None


def _is_of_futures(frame: FrameType) -> bool:
    # Nothing is read from other frames: each would keep what it has read until it ends.
    return _module(frame) == "prefect.futures" or _module(frame).startswith("prefect_dask.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
