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


@pytest.mark.parametrize("sample", [[3.0] * 20, [3.0] * 19 + [4.0], [1.0, 2.0]])
def test_rounds_that_allow_no_correction_have_an_interval(sample: list[float]) -> None:
    """Equal rounds, and few, have the percentile interval: no warning, and no figure missing."""
    interval = median_interval(sample)
    assert min(sample) <= interval.low <= interval.median <= interval.high <= max(sample)


def test_the_interval_is_corrected() -> None:
    """From ten rounds on the interval of a skewed sample is not the percentile one."""
    # A second of imports, which would be spent wherever tests are collected.
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
def test_the_spread_is_a_share(sample: list[float], times: float) -> None:
    """The spread of rounds is none if they are equal, and the same on a machine twice as slow."""
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
    """A report made again from the same rounds says the same."""
    sample = [1.0, 4.0, 2.0, 8.0, 5.0]
    assert median_interval(sample) == median_interval(sample)


def test_no_rounds_are_an_error() -> None:
    """Nothing measured has no median."""
    with pytest.raises(ValueError, match="at least one round"):
        median_interval([])
