# SPDX-License-Identifier: Apache-2.0
"""Figures are short, and never misleading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.report.model.formats import duration, mebibytes, quantity, ratio, seconds

_SIZES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
times = st.floats(1e-10, 1e6)


def read(text: str) -> float:
    """Return the seconds that a text stands for."""
    number, symbol = text.split(" ")
    return float(number.replace(",", "")) * _SIZES[symbol]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (25e-9, "25 ns"),
        (850e-6, "850 µs"),
        (0.0041, "4.1 ms"),
        (0.9996, "1.00 s"),
        (1.2, "1.2 s"),
        (75, "75 s"),
        (1234, "1,200 s"),
        (-0.0041, "-4.1 ms"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    """A time is written with the prefix that leaves the fewest digits."""
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0041, "4.1 ms"),
        (599, "599 s"),
        (600, "10 min"),
        (7199, "120 min"),
        (29000, "8.1 h"),
        (302400, "3.5 days"),
    ],
)
def test_duration(value: float, text: str) -> None:
    """Long times are written in minutes, hours or days."""
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.21, "×3.2"), (1234, "×1,200"), (0.83, "×0.83"), (1.04, "×1.04"), (0.0042, "×0.0042")],
)
def test_ratio(value: float, text: str) -> None:
    """A ratio is written with two significant digits, or near 1 with two decimals."""
    assert ratio(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "< 1 MiB"), (0.99, "< 1 MiB"), (4.62, "4.6 MiB"), (1234, "1,200 MiB")]
)
def test_mebibytes(value: float, text: str) -> None:
    """Memory has two digits, and below one MiB none, because that little is chance."""
    assert mebibytes(value) == text


def test_other_units() -> None:
    """A figure that is not a time is written with its unit."""
    assert quantity(12.4, "bytes") == "12 bytes"
    assert quantity(0.0124, "seconds") == "12 ms"
    assert [quantity(each, "share") for each in (0, 0.05, 1)] == ["0 %", "5 %", "100 %"]


@given(one=times, other=times)
def test_order_is_kept(one: float, other: float) -> None:
    """Of two times, the larger is never written as the smaller."""
    less, more = sorted((one, other))
    assert read(seconds(less)) <= read(seconds(more)) * (1 + 1e-12)


@given(value=times)
def test_writing_rounds_by_little(value: float) -> None:
    """What is written is within 6 % of what was measured."""
    assert read(seconds(value)) == pytest.approx(value, rel=0.06)


@given(value=times)
def test_writing_is_short(value: float) -> None:
    """No time takes more than eleven characters."""
    assert len(seconds(value)) <= len("1,000,000 s")
