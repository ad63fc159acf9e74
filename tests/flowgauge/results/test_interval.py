# SPDX-License-Identifier: Apache-2.0
"""A figure with its interval."""

from __future__ import annotations

import math

import pytest

from flowgauge.results.interval import Interval


@pytest.mark.parametrize(
    ("interval", "half_width"),
    [
        (Interval(10.0, 8.0, 11.0), 0.2),
        (Interval(10.0, 9.0, 13.0), 0.3),
        (Interval(-10.0, -12.0, -9.0), 0.2),
        (Interval.exact(0.0), 0.0),
        (Interval(0.0, 0.0, 1.0), math.inf),
    ],
)
def test_the_half_width_is_relative(interval: Interval, half_width: float) -> None:
    """It is the distance to the farther end, as a share of the median."""
    assert interval.half_width == pytest.approx(half_width)
