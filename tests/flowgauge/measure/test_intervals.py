# SPDX-License-Identifier: Apache-2.0
"""Medians and their intervals."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.measure.intervals import median_interval

seconds = st.floats(1e-9, 1e4)


@settings(max_examples=30)
@given(st.lists(seconds, min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_lies_in_the_sample(sample: list[float]) -> None:
    """The interval holds the median and never reaches beyond what was measured."""
    interval = median_interval(sample)
    assert interval.median == pytest.approx(statistics.median(sample))
    assert interval.low <= interval.median <= interval.high
    assert min(sample) * 0.999999 <= interval.low
    assert interval.high <= max(sample) * 1.000001


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    """Of many samples, about 95 in 100 have the true median in their interval."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(300):
        interval = median_interval(list(generator.exponential(size=25)))
        covered += interval.low <= np.log(2) <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_more_rounds_give_a_narrower_interval() -> None:
    """Ten times the rounds make the interval narrower."""
    generator = np.random.default_rng(1)
    few, many = (median_interval(list(generator.normal(10, 1, size))) for size in (10, 100))
    assert many.high - many.low < few.high - few.low


def test_the_same_rounds_give_the_same_interval() -> None:
    """A report made again from the same rounds says the same."""
    sample = [1.0, 4.0, 2.0, 8.0, 5.0]
    assert median_interval(sample) == median_interval(sample)


def test_no_rounds_are_an_error() -> None:
    """Nothing measured has no median."""
    with pytest.raises(ValueError, match="at least one round"):
        median_interval([])
