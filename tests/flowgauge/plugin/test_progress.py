# SPDX-License-Identifier: Apache-2.0
"""A long run says how far it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.plugin.progress import Progress, clock


def test_the_bar_tells_how_long_the_run_takes() -> None:
    """A quarter done in two minutes makes a run of eight."""
    shown = Progress(40)
    assert shown.bar("test_a", 0, 80) == f"{'-' * 20} 0:00 · test_a"
    shown.done = 10
    assert shown.bar("test_a", 120, 80) == f"{'#' * 5}{'-' * 15} 2:00 of about 8:00 · test_a"


def test_what_an_earlier_run_did_took_no_time_of_this_one() -> None:
    """A run that was resumed estimates by what it has measured itself."""
    shown = Progress(40, done=20, earlier=20)
    assert "of about" not in shown.bar("test_a", 60, 80)
    shown.done = 30
    assert "1:00 of about 2:00" in shown.bar("test_a", 60, 80)


@given(st.integers(0, 30), st.integers(0, 30), st.text(max_size=80), st.integers(2, 200))
def test_the_bar_is_one_line(done: int, total: int, name: str, columns: int) -> None:
    """However long a name is, the bar is narrower than the terminal."""
    assert len(Progress(max(total, done), done).bar(name, 7, columns)) < columns


@given(st.floats(0, 1e5))
def test_a_clock_has_minutes_and_seconds(seconds: float) -> None:
    """Minutes and two digits of seconds say the time to the second."""
    minutes, rest = clock(seconds).split(":")
    assert 60 * int(minutes) + int(rest) == int(seconds)
    assert len(rest) == 2
