# SPDX-License-Identifier: Apache-2.0
"""Frames: those of all threads, their callers, and whether their code is installed."""

from __future__ import annotations

import gc
import sys
import sysconfig
import threading
from collections.abc import Iterator
from types import FrameType

STDLIB = sysconfig.get_path("stdlib")
"""The folder of Python's standard library."""

SITE = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
"""The folders of installed packages."""

_only_one = threading.Lock()


def frames_by_thread() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, without a garbage collection meanwhile.

    In CPython before 3.11.9 the whole process hangs if one happens there: it may let another
    thread run, and that thread may wait for what this one holds (python/cpython#106883).

    Returns:
        The frames, by the identifiers of their threads.
    """
    with _only_one:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame, its caller, the caller of that one and so on.

    Args:
        frame: The innermost frame.

    Yields:
        The frames.
    """
    while frame is not None:
        yield frame
        frame = frame.f_back
