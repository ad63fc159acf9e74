# SPDX-License-Identifier: Apache-2.0
"""Medians and their intervals."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.measure.intervals import LEAST_FOR_BCA, RESAMPLES, median_interval, relative_iqr

seconds = st.floats(1e-9, 1e4)


@settings(max_examples=30)
@given(st.lists(seconds, min_size=1, max_size=40))
def test_the_interval_contains_the_median_and_lies_in_the_sample(sample: list[float]) -> None:
    """The interval contains the median and never extends beyond the measurements."""
    interval = median_interval(sample)
    assert interval.median == pytest.approx(statistics.median(sample))
    assert interval.low <= interval.median <= interval.high
    assert min(sample) * 0.999999 <= interval.low
    assert interval.high <= max(sample) * 1.000001


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    """For about 95 % of many samples, the interval contains the true median."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(300):
        interval = median_interval(list(generator.exponential(size=25)))
        covered += interval.low <= np.log(2) <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize("sample", [[3.0] * 20, [3.0] * 19 + [4.0], [1.0, 2.0]])
def test_rounds_that_allow_no_correction_have_an_interval(sample: list[float]) -> None:
    """Rounds that are (almost) equal or few still have an interval, within the measurements."""
    interval = median_interval(sample)
    assert min(sample) <= interval.low <= interval.median <= interval.high <= max(sample)


def test_the_interval_is_corrected() -> None:
    """The interval of a skewed sample is BCa from ten rounds on, and percentile below."""
    # This import takes a second; at the top of the file, it would slow down every collection.
    from scipy.stats import bootstrap

    sample = [float(2**index) for index in range(LEAST_FOR_BCA)]
    corrected = bootstrap((sample,), np.median, n_resamples=RESAMPLES, method="BCa", rng=0)
    plain = bootstrap((sample,), np.median, n_resamples=RESAMPLES, method="percentile", rng=0)
    interval = median_interval(sample)
    ends = (interval.low, interval.high)
    assert ends == (corrected.confidence_interval.low, corrected.confidence_interval.high)
    assert ends != (plain.confidence_interval.low, plain.confidence_interval.high)
    few = median_interval(sample[:-1])
    again = bootstrap((sample[:-1],), np.median, n_resamples=RESAMPLES, method="percentile", rng=0)
    assert (few.low, few.high) == again.confidence_interval


@given(st.lists(seconds, min_size=1, max_size=40), st.floats(0.01, 100))
def test_the_spread_is_relative(sample: list[float], times: float) -> None:
    """The spread of equal rounds is zero, and it is the same on a slower or faster machine."""
    assert relative_iqr([sample[0]] * len(sample)) == 0
    slower = relative_iqr([each * times for each in sample])
    assert slower == pytest.approx(relative_iqr(sample), rel=1e-6, abs=1e-9)
    assert relative_iqr([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


def test_more_rounds_give_a_narrower_interval() -> None:
    """Ten times the rounds make the interval narrower."""
    generator = np.random.default_rng(1)
    few, many = (median_interval(list(generator.normal(10, 1, size))) for size in (10, 100))
    assert many.high - many.low < few.high - few.low


def test_the_same_rounds_give_the_same_interval() -> None:
    """Calculated again from the same rounds, the interval is the same."""
    sample = [1.0, 4.0, 2.0, 8.0, 5.0]
    assert median_interval(sample) == median_interval(sample)


def test_no_rounds_are_an_error() -> None:
    """Without any round there is an error instead of a median."""
    with pytest.raises(ValueError, match="at least one round"):
        median_interval([])
