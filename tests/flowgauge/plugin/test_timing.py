# SPDX-License-Identifier: Apache-2.0
"""The line that says what a run spent its time on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.plugin.timing import format_duration

UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


def read(text: str) -> float:
    """Return the seconds that a formatted duration means."""
    parts = re.findall(r"([\d.]+) (\w+)", text)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


@given(st.floats(0, 1e8))
def test_a_spelled_time_means_the_time(seconds: float) -> None:
    """A formatted duration is right to a twentieth, and uses two units at most."""
    text = format_duration(seconds)
    assert read(text) == pytest.approx(seconds, rel=0.05, abs=0.051)
    assert len(text.split()) in (2, 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3_725, "62 min 5 s"),
        (96_000, "26 h 40 min"),
        (172_800, "2 days"),
    ],
)
def test_times_are_spelled_as_people_say_them(seconds: float, text: str) -> None:
    """Short times have decimals, long ones two units."""
    assert format_duration(seconds) == text


def test_a_run_without_flows_has_no_line(pytester: pytest.Pytester) -> None:
    """Where no test uses the server, nothing is said."""
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*flowgauge: start-up*")
