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
_FAR = 4
"""How far from 1 a ratio must be, in units of the precision, to be no question of precision."""
_MOST_SHARES = 4
"""How many times its share of the time a benchmark may use, if others left so much."""
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

    def is_used(
        self, times: Sequence[float], spent: float, references: Sequence[float] = ()
    ) -> bool:
        """Return whether a benchmark has enough rounds, or no time for another one.

        Args:
            times: The seconds of each round so far.
            spent: The seconds that all rounds took so far, with their references and checks.
            references: The seconds of each reference, if there is one. The ratio to it must be
                precise as well, unless it is far from 1.

        Returns:
            Whether to end.
        """
        rounds = len(times)
        if rounds < max(self.min_rounds, 1):
            return False
        if rounds >= MAX_ROUNDS or spent + spent / rounds > self.max_time:
            return True
        if _ends(times).half_width > self.precision:
            return False
        if not references:
            return True
        ratio = _ends([ours / theirs for ours, theirs in zip(times, references, strict=True)])
        far = _FAR * self.precision
        return ratio.high < 1 - far or ratio.low > 1 + far or ratio.half_width <= self.precision


@dataclass
class TimeLeft:
    """The time of all benchmarks of a run: what some don't use others may.

    Attributes:
        left: Seconds that were left so far.
    """

    left: float = 0.0

    def most(self, share: float, own: int = 1) -> float:
        """Return how long the next benchmark may measure.

        Args:
            share: The seconds that each may use.
            own: How many shares are its own.

        Returns:
            Its own, and of what is left as much as makes a few shares.
        """
        return own * share + min(max(self.left, 0.0), (_MOST_SHARES - own) * share)

    def use(self, share: float, seconds: float) -> None:
        """Note how long a benchmark measured."""
        self.left += share - seconds


def _ends(sample: Sequence[float]) -> Interval:
    """Return a median and the ranks between which the true one lies with 95 % confidence.

    They are farther apart than the ends of the bootstrap interval of the row, which takes long to
    compute. Those of too few rounds are infinitely far away.

    Source:
        Le Boudec, Performance Evaluation of Computer and Communication Systems (2010), section 2.2.
    """
    count = len(sample)
    if count < LEAST_TO_JUDGE:
        return Interval(1.0, -math.inf, math.inf)
    ordered = sorted(sample)
    rank = max(round(count / 2 - 0.98 * math.sqrt(count)), 1)
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[count - rank])
