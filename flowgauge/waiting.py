# SPDX-License-Identifier: Apache-2.0
"""Waits for conditions. A deadline here only guards against hanging: it is never a claim."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GUARD_SECONDS = 300.0
"""Seconds after which what is waited for is taken to hang, on any machine that works."""
SCALE = "FLOWGAUGE_PATIENCE"
"""The environment variable that all guards are multiplied with, for a machine that is very slow."""
_PAUSE_SECONDS = 0.05


def patience(seconds: float = GUARD_SECONDS) -> float:
    """Return how long to wait for what should come, before it is taken to hang.

    Args:
        seconds: On any machine that works.

    Returns:
        Seconds, multiplied with the environment variable `FLOWGAUGE_PATIENCE` where it is set.
    """
    return seconds * float(os.environ.get(SCALE) or 1)


def wait_until(
    condition: Callable[[], T | None],
    what: str | Callable[[], str] = "the condition",
    *,
    seconds: float = GUARD_SECONDS,
    pause: float = _PAUSE_SECONDS,
) -> T:
    """Wait until a condition holds.

    Args:
        condition: Is called again and again; what it raises is raised here.
        what: What is waited for, or what tells of it at the end, for the message.
        seconds: After how long it is taken to hang; `FLOWGAUGE_PATIENCE` scales it.
        pause: Seconds between two calls.

    Returns:
        The first true value that the condition gives.

    Raises:
        TimeoutError: If it never holds.
    """
    deadline = time.monotonic() + patience(seconds)
    # Not `time.sleep`, which a test may have made virtual.
    never = threading.Event()
    while not (value := condition()):
        if time.monotonic() >= deadline:
            told = what if isinstance(what, str) else what()
            raise TimeoutError(f"waited {patience(seconds):g} s in vain for {told}")
        never.wait(pause)
    return value
