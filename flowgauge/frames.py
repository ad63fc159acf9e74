# SPDX-License-Identifier: Apache-2.0
"""Frames: those of all threads, their callers, and where the code is that they execute."""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from types import FrameType

STDLIB = sysconfig.get_path("stdlib")
"""The folder of Python's standard library."""

SITE = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
"""The folders of installed packages."""

_DYNAMIC = "<dynamic-code>"
"""The file of code that was sent to another process."""

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


def place_in(frames: Iterable[FrameType]) -> str:
    """Return the innermost place that is in no library.

    Args:
        frames: Frames, the innermost first.

    Returns:
        File and line.
    """
    for frame in frames:
        file, line = frame.f_code.co_filename, frame.f_lineno
        module = str(frame.f_globals.get("__name__", ""))
        if file == _DYNAMIC:
            return f"line {line} of {frame.f_code.co_name}"
        if not file.startswith(("<", STDLIB, *SITE)) and not module.startswith("flowgauge"):
            shown = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
            return f"{shown}:{line}"
    return "in a library"
