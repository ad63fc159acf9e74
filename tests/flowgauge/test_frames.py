# SPDX-License-Identifier: Apache-2.0
"""The frames of all threads."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

import pytest

from flowgauge.frames import frames_by_thread


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_frames_are_read(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No garbage is collected while CPython reads the frames of all threads, only afterwards."""
    stock, during = sys._current_frames, []

    def read() -> dict[int, FrameType]:
        during.append(gc.isenabled())
        return stock()

    monkeypatch.setattr(sys, "_current_frames", read)
    if not collects:
        gc.disable()
    try:
        frames = frames_by_thread()
        afterwards = gc.isenabled()
    finally:
        gc.enable()
    assert (during, afterwards) == ([False], collects)
    assert {thread.ident for thread in threading.enumerate()} <= frames.keys()
