# SPDX-License-Identifier: Apache-2.0
"""The flow and task runs that the event loop of this thread executes.

They stand still while a sync function in that thread waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import FrameType
from typing import Any

ENGINES = ("prefect.flow_engine", "prefect.task_engine")
"""The modules of Prefect that execute runs."""


def held_up() -> dict[str, str]:
    """Return the runs that other tasks of this thread's event loop execute.

    Returns:
        "flow run" or "task run", by the id of the run; empty if no loop runs in this thread.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return {}
    others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    runs = {}
    for task in others:
        for frame in awaited_frames(task.get_coro()):
            if frame.f_globals.get("__name__") in ENGINES:
                engine = frame.f_locals.get("engine")
                for kind in ("flow", "task"):
                    if (run := getattr(engine, f"{kind}_run", None)) is not None:
                        runs[str(run.id)] = f"{kind} run"
    return runs


def awaited_frames(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and those that it awaits.

    Args:
        coroutine: A coroutine or generator.

    Yields:
        The frames, outermost first.
    """
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
