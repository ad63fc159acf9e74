# SPDX-License-Identifier: Apache-2.0
"""Medians and their bootstrap intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from flowgauge.results.interval import Interval

RESAMPLES = 10_000
LEAST_FOR_BCA = 10
"""The number of rounds from which on the interval is corrected for bias and acceleration."""


def median_interval(sample: Sequence[float]) -> Interval:
    """Return the median of a sample and its 95 % bootstrap interval.

    The interval is corrected for bias and acceleration (BCa) where that is possible. Where the
    jackknife of the median does not vary (as with equal rounds), or where there are so few rounds
    that the correction would be noise, it is the percentile interval.

    Args:
        sample: One figure for each round, at least one.

    Returns:
        The median and the ends of its interval; for a single round both ends are the median.

    Raises:
        ValueError: If the sample is empty.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 14.
    """
    import numpy as np

    values = np.asarray(sample, dtype=float)
    if not values.size:
        raise ValueError("a median needs at least one round")
    middle = float(np.median(values))
    if values.size == 1:
        return Interval.exact(middle)
    ends = _ends(values, "BCa") if values.size >= LEAST_FOR_BCA else None
    low, high = ends or _ends(values, "percentile") or (middle, middle)
    return Interval(middle, min(low, middle), max(high, middle))


def relative_iqr(sample: Sequence[float]) -> float:
    """Return the interquartile range of a sample as a share of its median.

    Args:
        sample: One figure for each round, at least one.

    Returns:
        The relative IQR; zero where the median is zero.
    """
    import numpy as np

    low, middle, high = np.quantile(np.asarray(sample, dtype=float), (0.25, 0.5, 0.75))
    return float((high - low) / middle) if middle else 0.0


def _ends(values: Any, method: str) -> tuple[float, float] | None:
    """Return the ends of an interval, or None where the method cannot compute them."""
    import numpy as np
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        # Undefined ends are not finite; that is checked below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        # A fixed seed: the same rounds give the same report.
        interval = bootstrap(
            (values,), np.median, n_resamples=RESAMPLES, method=method, rng=0
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
