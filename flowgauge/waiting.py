# SPDX-License-Identifier: Apache-2.0
"""Waiting for conditions. Deadlines only guard against hanging; none is an assertion."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GUARD_SECONDS = 300.0
"""Seconds after which a wait is considered hung, on any working machine."""
SCALE = "FLOWGAUGE_PATIENCE"
"""The environment variable that multiplies all these guards, for very slow machines."""
_PAUSE_SECONDS = 0.05


def patience(seconds: float = GUARD_SECONDS) -> float:
    """Return how long to wait before considering something hung.

    Args:
        seconds: The wait on any working machine.

    Returns:
        Seconds, multiplied by the environment variable `FLOWGAUGE_PATIENCE` if it is set.
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
        condition: Called repeatedly; its exceptions propagate.
        what: A description for the error message, or a function that returns it at the end.
        seconds: How long before it is considered hung; `FLOWGAUGE_PATIENCE` scales it.
        pause: Seconds between two calls.

    Returns:
        The first truthy value that the condition returns.

    Raises:
        TimeoutError: If the condition does not hold in time.
    """
    deadline = time.monotonic() + patience(seconds)
    # Not `time.sleep`: a test may have made that virtual.
    pause_event = threading.Event()
    while not (value := condition()):
        if time.monotonic() >= deadline:
            description = what if isinstance(what, str) else what()
            raise TimeoutError(f"waited {patience(seconds):g} s in vain for {description}")
        pause_event.wait(pause)
    return value
