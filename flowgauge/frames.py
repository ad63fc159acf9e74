# SPDX-License-Identifier: Apache-2.0
"""The frames of all threads."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

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
