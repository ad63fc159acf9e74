# SPDX-License-Identifier: Apache-2.0
"""Skipping of `sleep` in the code of tasks and flows, for tests that request it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import types
from typing import Any
from unittest.mock import patch

from flowgauge.clock.process import ClockProcess


def skip_sleep_in(
    process: ClockProcess, stack: contextlib.ExitStack, names: dict[str, Any]
) -> None:
    """Make `sleep` virtual where the code of a run calls it, also through an imported name.

    Args:
        process: This process's side of the clock.
        stack: Restores what is replaced when it is closed.
        names: The globals of the run's function.
    """
    import anyio

    for module in (time, asyncio, anyio):
        if not hasattr(module.sleep, "skips"):
            stack.enter_context(patch.object(module, "sleep", _skipping(process, module)))
    for name, value in list(names.items()):
        for module in (time, asyncio, anyio):
            if value is getattr(module.sleep, "skips", None):
                stack.enter_context(patch.dict(names, {name: module.sleep}))


def _skipping(process: ClockProcess, module: types.ModuleType) -> Any:
    stock = module.sleep

    def sleep(seconds: float, *args: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        is_internal = caller.startswith(("prefect.", "flowgauge.", "anyio."))
        if is_internal or not process.time.skips_sleep or not process.runs_here():
            return stock(seconds, *args)
        if module is time:
            return process.sleep(seconds)
        return process.sleep_async(seconds)

    sleep.skips = stock  # type: ignore[attr-defined]
    # A task sent to another process is pickled with this name, and finds that process's `sleep`.
    sleep.__module__, sleep.__qualname__ = module.__name__, "sleep"
    return sleep
