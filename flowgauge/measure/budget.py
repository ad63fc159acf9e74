# SPDX-License-Identifier: Apache-2.0
"""How long a benchmark goes on: until its figure is precise, or its time is used."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from flowgauge.results.interval import Interval
from flowgauge.results.rows import PRECISION

MAX_ROUNDS = 200
"""The most rounds of one benchmark; so many are precise, or more would not help."""
LEAST_TO_JUDGE = 6
"""The fewest rounds whose smallest and largest hold the true median with 95 % confidence."""


@dataclass(frozen=True)
class Budget:
    """How long one benchmark may measure.

    Attributes:
        min_rounds: Rounds to run however long they take (`--benchmark-min-rounds`).
        max_time: Seconds that all rounds may take together (`--benchmark-max-time`).
        precision: How far the ends of the interval may be from the median, as a share of it
            (`--flow-precision`); with it, a benchmark ends before its time is used.
    """

    min_rounds: int
    max_time: float
    precision: float = PRECISION

    def is_used(self, times: Sequence[float], spent: float) -> bool:
        """Return whether a benchmark has enough rounds, or no time for another one.

        Args:
            times: The seconds of each round so far.
            spent: The seconds that all rounds took so far, with their references and checks.

        Returns:
            Whether to end.
        """
        rounds = len(times)
        if rounds < max(self.min_rounds, 1):
            return False
        if rounds >= MAX_ROUNDS or spent + spent / rounds > self.max_time:
            return True
        return is_precise(times, self.precision)


def is_precise(times: Sequence[float], precision: float) -> bool:
    """Return whether a median is known precisely enough.

    It is judged by the ranks between which the true median lies with 95 % confidence, not by the
    bootstrap interval of the row, which is narrower and takes long to compute.

    Args:
        times: The seconds of each round.
        precision: The largest distance from the median, as a share of it.

    Returns:
        Whether it is; always false for too few rounds to judge by.

    Source:
        Le Boudec, Performance Evaluation of Computer and Communication Systems (2010), section 2.2.
    """
    count = len(times)
    if count < LEAST_TO_JUDGE:
        return False
    ordered = sorted(times)
    rank = max(round(count / 2 - 0.98 * math.sqrt(count)), 1)
    low, high = ordered[rank - 1], ordered[count - rank]
    return Interval(statistics.median(ordered), low, high).half_width <= precision
