# SPDX-License-Identifier: Apache-2.0
"""Medians and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A median with the interval that a bootstrap gives it, in the unit of its sample."""

    median: float
    low: float
    high: float


def median_interval(sample: Sequence[float]) -> Interval:
    """Return the median of a sample and its 95 % percentile bootstrap interval.

    The percentile method is used and not BCa, which is undefined where the jackknife of a
    median has no spread: with the few, often equal, rounds of a quick run that is common.

    Args:
        sample: One figure for each round, at least one.

    Returns:
        The median and the ends of its interval; both are the median for a single round.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np
    from scipy.stats import bootstrap

    values = np.asarray(sample, dtype=float)
    if not values.size:
        raise ValueError("a median needs at least one round")
    middle = float(np.median(values))
    if values.size == 1:
        return Interval(middle, middle, middle)
    # A fixed seed: the same rounds give the same report.
    spread = bootstrap(
        (values,), np.median, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Interval(middle, float(spread.low), float(spread.high))
