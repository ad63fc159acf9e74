# SPDX-License-Identifier: Apache-2.0
"""What a virtual clock told that it could not skip."""

from __future__ import annotations

from flowgauge.clock.virtual_clock import VirtualClock

OF_THE_TEST = "waited in real time for code of the test, which is at "


def is_told(clock: VirtualClock, *words: str) -> bool:
    """Return whether one sentence has all these words; on a slow machine there may be others."""
    return any(all(word in sentence for word in words) for sentence in tuple(clock.unskipped))


def assert_told(clock: VirtualClock, *words: str) -> None:
    """Check that the clock could not skip something, and take the warning back."""
    assert is_told(clock, *words), clock.unskipped
    clock.unskipped.clear()
