# SPDX-License-Identifier: Apache-2.0
"""A benchmark goes on until its figure is precise, or its time is used."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.measure.budget import LEAST_TO_JUDGE, MAX_ROUNDS, Budget, TimeLeft
from flowgauge.measure.intervals import median_interval

PATIENT = Budget(min_rounds=1, max_time=1e9)


def rounds_of(budget: Budget, draw: random.Random, spread: float) -> list[float]:
    """Return the seconds of the rounds that a benchmark makes whose rounds vary by chance."""
    times: list[float] = []
    while not budget.is_used(times, sum(times)):
        times.append(draw.lognormvariate(0.0, spread))
    return times


@given(st.integers(1, 100), st.floats(0, 100), st.floats(0, 100))
def test_it_never_does_too_few_rounds_nor_too_many(
    least: int, max_time: float, seconds: float
) -> None:
    """Slow work still gets the minimum number of rounds, and no work gets unlimited rounds."""
    budget = Budget(least, max_time, precision=0.0)
    times: list[float] = []
    while not budget.is_used(times, seconds * len(times)):
        times.append(seconds + len(times) % 2)
    assert least <= len(times) <= max(least, MAX_ROUNDS)
    assert len(times) == least or seconds * len(times) <= max_time * 1.000001


def test_it_ends_when_no_other_round_fits() -> None:
    """Rounds of three seconds whose times vary fill twelve seconds, and no more."""
    budget = Budget(min_rounds=1, max_time=12.0, precision=0.0)
    times = [1.0, 2.0, 1.5]
    assert not budget.is_used(times, 9.0)
    assert budget.is_used([*times, 2.5], 12.0)


def test_rounds_that_vary_more_get_more() -> None:
    """Equal rounds end after the fewest to judge by; the more they vary, the more there are."""
    draw = random.Random(3)
    numbers = [
        statistics.median(len(rounds_of(PATIENT, draw, spread)) for _ in range(15))
        for spread in (0.0, 0.1, 0.2)
    ]
    assert numbers[0] == LEAST_TO_JUDGE
    assert numbers == sorted(set(numbers))


def test_it_ends_when_the_figure_is_precise() -> None:
    """If time was left, the interval that the row shows is as narrow as was asked for."""
    draw = random.Random(4)
    for precision in (0.02, 0.05, 0.1):
        times = rounds_of(Budget(1, 1e9, precision), draw, 0.1)
        assert len(times) < MAX_ROUNDS
        assert median_interval(times).half_width <= precision


def test_intervals_still_hold_the_true_median() -> None:
    """An interval that ended the rounds holds the true median in about 95 % of benchmarks.

    Ending when it is narrow favours intervals that are narrow by chance; that costs little.
    """
    draw = random.Random(5)
    intervals = [median_interval(rounds_of(PATIENT, draw, 0.15)) for _ in range(300)]
    share = sum(interval.low <= 1.0 <= interval.high for interval in intervals) / 300
    assert 0.90 <= share <= 0.99


@pytest.mark.parametrize("count", range(1, LEAST_TO_JUDGE))
def test_few_rounds_are_never_precise(count: int) -> None:
    """Too few rounds say nothing about precision, even if they are equal."""
    assert not PATIENT.is_used([1.0] * count, 0.0)
    assert PATIENT.is_used([1.0] * LEAST_TO_JUDGE, 0.0)


@pytest.mark.parametrize(("times", "is_enough"), [(0.5, True), (1.0, False), (2.0, True)])
def test_a_ratio_near_one_must_be_precise(times: float, is_enough: bool) -> None:
    """If the reference varies, there are more rounds, unless its ratio is far from 1 anyway."""
    references = [1.0, 1.2, 0.8] * 4
    assert PATIENT.is_used([times] * 12, 0.0, references) == is_enough
    assert PATIENT.is_used([times] * 12, 0.0, [1.0] * 12)


@given(
    st.floats(0.1, 10), st.lists(st.tuples(st.floats(0, 1), st.sampled_from([1, 3])), max_size=50)
)
def test_all_benchmarks_together_use_their_shares_at_most(
    share: float, wanted: list[tuple[float, int]]
) -> None:
    """A benchmark may use what others left, up to four shares, and never less than its own."""
    time, used, shares = TimeLeft(), 0.0, 0.0
    for part, own in wanted:
        most = time.most(share, own)
        left = shares - used
        assert most == pytest.approx(min(own * share + left, 4 * share))
        time.use(own * share, part * most)
        shares += own * share
        used += part * most
    assert used <= shares * 1.000001


def test_a_benchmark_that_took_too_long_takes_nothing_from_others() -> None:
    """Slow work whose minimum number of rounds takes longer than its share leaves others theirs."""
    time = TimeLeft()
    time.use(1.0, 30.0)
    assert time.most(1.0) == 1.0
