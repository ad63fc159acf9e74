# SPDX-License-Identifier: Apache-2.0
"""METG is found in few runs, wherever it lies, and is "never" where it does not exist."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowgauge.measure.metg import Sample, measure_curve, metg

few = settings(max_examples=30)
"""For tests in which each example resamples a thousand times to get the interval."""
OVERHEADS = st.floats(5e-5, 0.3)
Measure = Callable[[float], Sequence[Sample]]


class Machine:
    """A task runner described by a formula: each task has the same overhead."""

    def __init__(self, overhead: float, ceiling: float = 1.0, noise: float = 0.0) -> None:
        self.overhead, self.ceiling, self.noise = overhead, ceiling, noise
        self.chance = random.Random(1)
        self.runs = 0

    def __call__(self, seconds: float) -> list[Sample]:
        """Run tasks with this much work three times."""
        self.runs += 1
        granularity = (seconds + self.overhead) / self.ceiling
        return [
            Sample(granularity * (1 + self.chance.uniform(-self.noise, self.noise)), seconds)
            for _ in range(3)
        ]

    def metg(self, target: float) -> float:
        """Return its METG: where ceiling x work / (work + overhead) is the target."""
        return self.overhead / (self.ceiling - target)


@few
@given(OVERHEADS, st.sampled_from([1.0, 0.97]), st.sampled_from([0.5, 0.9]))
def test_metg_is_found(overhead: float, ceiling: float, target: float) -> None:
    """For any overhead, ten measurements at most find METG to within a tenth."""
    machine = Machine(overhead, ceiling)
    found = metg(measure_curve(machine, longest=60), target)
    assert found.seconds is not None
    assert found.seconds.median == pytest.approx(machine.metg(target), rel=0.1)
    assert machine.runs <= 10


@few
@given(OVERHEADS, st.integers(0, 1000))
def test_noise_widens_the_interval(overhead: float, seed: int) -> None:
    """If runs vary by a tenth, METG(50 %) is still found to within a quarter.

    Its interval contains the median and is wider than zero.
    """
    machine = Machine(overhead, noise=0.1)
    machine.chance = random.Random(seed)
    found = metg(measure_curve(machine, [0.5], longest=60), 0.5)
    assert found.seconds is not None
    assert found.seconds.low <= found.seconds.median <= found.seconds.high
    assert found.seconds.low < found.seconds.high
    assert found.seconds.median == pytest.approx(machine.metg(0.5), rel=0.25)


@given(OVERHEADS, st.floats(0.1, 0.85), st.sampled_from([0.5, 0.9]))
def test_a_target_above_the_ceiling_has_no_metg(
    overhead: float, ceiling: float, target: float
) -> None:
    """METG is found for a target below the ceiling; for one above it, the ceiling is reported."""
    assume(abs(ceiling - target) >= 0.1)
    found = metg(measure_curve(Machine(overhead, ceiling), longest=60), target)
    if ceiling > target:
        assert found.seconds is not None
        assert found.seconds.median == pytest.approx(overhead / (ceiling - target), rel=0.15)
    else:
        assert found.seconds is None
        assert found.ceiling == pytest.approx(ceiling, rel=0.1)


def test_a_ceiling_just_below_the_target_is_below() -> None:
    """A task runner with a ceiling of 87 % has no METG(90 %), however close that is."""
    found = metg(measure_curve(Machine(0.01, 0.87), longest=60), 0.9)
    assert found.seconds is None
    assert found.ceiling == pytest.approx(0.87)


@given(OVERHEADS, st.floats(-0.019, 0.019))
def test_a_ceiling_at_the_target_ends_the_search(overhead: float, above: float) -> None:
    """With a ceiling at the target, no tasks longer than 100 times the overhead are tried.

    Such is the ceiling of one task at a time on two workers. Unless some length happens to reach
    the target, there is no METG.
    """
    machine = Machine(overhead, 0.5 + above)
    asked: list[float] = []

    def measure(seconds: float) -> Sequence[Sample]:
        asked.append(seconds)
        return machine(seconds)

    curve = measure_curve(measure, [0.5], longest=1000)
    if not any(sum(run.efficiency for run in runs) / 3 >= 0.5 for runs in curve.values()):
        assert metg(curve, 0.5).seconds is None
    assert max(asked) <= 100 * overhead


def test_efficiency_that_rises_late_is_not_never() -> None:
    """If the first lengths gain little, and much longer tasks gain more, METG is found."""

    def measure(seconds: float) -> Sequence[Sample]:
        # Up to 6 ms the same share is lost whatever the length, and beyond that less and less.
        lost = min(0.4, 0.0024 / seconds) if seconds else 0.0
        granularity = (seconds + 0.001) / (1 - lost)
        return [Sample(granularity, seconds)] * 3

    found = metg(measure_curve(measure, longest=60), 0.9)
    assert found.seconds is not None
    assert found.seconds.median == pytest.approx(0.0367, rel=0.15)


@given(OVERHEADS, st.floats(0.3, 0.85))
def test_never_requires_long_tasks(overhead: float, ceiling: float) -> None:
    """If tasks of any length lose the same share, "never" is reported only after long tasks."""
    for longest, is_never in ((6 * overhead, False), (2000 * overhead, True)):
        found = metg(measure_curve(Machine(overhead, ceiling), longest=longest), 0.9)
        assert (found.seconds, found.is_never) == (None, is_never)


@pytest.mark.parametrize(("depth", "is_never"), [(16, True), (4, False)])
def test_never_requires_runs_of_equal_depth(depth: int, is_never: bool) -> None:
    """METG is "never" only if runs of the longest tasks are as deep as those of shorter ones.

    A loss that occurs once in a run weighs more in a shallow run, and does not show a limit.
    """
    curve = {
        work: [Sample((work + 0.001) / 0.7, work, 16 if work < 0.1 else depth)] * 3
        for work in (0.002, 0.004, 0.1, 0.2)
    }
    found = metg(curve, 0.9)
    assert (found.seconds, found.is_never) == (None, is_never)


@pytest.mark.parametrize(("best", "is_never"), [(0.80, True), (0.89, False), (0.93, False)])
def test_one_run_near_the_target_is_not_never(best: float, is_never: bool) -> None:
    """If one run of the longest tasks came close to the target, the outcome is not "never"."""
    shares = {0.02: 0.5, 0.04: 0.6, 0.21: 0.8}
    curve = {long: [Sample(long, share * long)] * 3 for long, share in shares.items()}
    curve[0.21] = [*curve[0.21], Sample(0.21, best * 0.21)]
    assert metg(curve, 0.9).is_never is is_never


def test_nearly_reaching_the_target_is_not_enough() -> None:
    """If longer tasks gain nothing more, coming near the target does not count as reaching it."""
    curve = {1.0: [Sample(1 / 0.87, 1.0)], 2.0: [Sample(2 / 0.87, 2.0)]}
    assert metg(curve, 0.9).seconds is None


@pytest.mark.parametrize("longer", [{0.022: 0.40}, {0.022: 0.47, 0.04: 0.42}])
def test_a_target_that_was_reached_stays_reached(longer: dict[float, float]) -> None:
    """If 50 % was reached, longer tasks that did worse by chance do not change that."""
    shares = {0.02: 0.56, **longer}
    curve = {work: [Sample(work + 0.03, share * (work + 0.03))] for work, share in shares.items()}
    found = metg(curve, 0.5)
    assert found.seconds is not None
    assert 0.04 < found.seconds.median < 0.065


def test_two_lengths_that_look_alike_do_not_end_the_search() -> None:
    """If the second length is by chance no better than the first, METG is still found."""
    unlucky = iter([0.44, 0.43])

    def measure(seconds: float) -> Sequence[Sample]:
        wall = seconds + 0.01
        share = next(unlucky, seconds / wall) if seconds else 0.0
        return [Sample(wall, share * wall)]

    assert metg(measure_curve(measure, [0.5], longest=60), 0.5).seconds is not None


@few
@given(OVERHEADS, st.floats(0.3, 1.0))
def test_a_busy_machine_needs_no_more_runs(overhead: float, pace: float) -> None:
    """If work takes longer than it should, METG is still found from at most four measurements."""
    machine = Machine(overhead)

    def measure(seconds: float) -> Sequence[Sample]:
        return machine(seconds / pace)

    curve = measure_curve(measure, [0.5], longest=60)
    found = metg(curve, 0.5).seconds
    assert found is not None
    assert found.median == pytest.approx(2 * overhead, rel=0.15)
    assert len(curve) <= 4


def test_tasks_longer_than_allowed_are_not_run() -> None:
    """Tasks longer than the limit are not run, and no METG is made up."""
    asked: list[float] = []
    machine = Machine(10.0)

    def measure(seconds: float) -> Sequence[Sample]:
        asked.append(seconds)
        return machine(seconds)

    found = metg(measure_curve(measure, longest=2.0), 0.9)
    assert found.seconds is None
    assert not found.is_never
    assert found.best == pytest.approx(2 / 12)
    assert max(asked) == 2.0


def test_a_little_beyond_the_longest_is_extrapolated() -> None:
    """If the longest tasks allowed come close to the target, METG is read off the fitted line."""
    found = metg(measure_curve(Machine(1.0), longest=4.0), 0.9)
    assert found.seconds is not None
    assert found.seconds.median == pytest.approx(10.0, rel=0.1)


def test_two_lengths_near_each_other_give_no_slope() -> None:
    """If by chance slightly longer tasks are hardly more efficient, METG stays near both."""
    shares = {0.0174: (0.353, 0.543), 0.0222: (0.418, 0.496)}
    curve = {ideal: [Sample(ideal / e, ideal) for e in both] for ideal, both in shares.items()}
    found = metg(curve, 0.5)
    assert found.seconds is not None
    assert 0.04 < found.seconds.median < 0.06
    assert found.seconds.high < 3 * found.seconds.median


@few
@given(
    st.lists(st.floats(0.05, 0.45), min_size=1, max_size=4),
    st.lists(st.floats(0.55, 0.95), min_size=1, max_size=4),
)
def test_metg_lies_between_lengths_below_and_above_the_target(
    short: list[float], enough: list[float]
) -> None:
    """METG lies between the lengths that fall short of the target and those that reach it.

    This holds in whatever order chance puts the efficiencies of each group.
    """
    ideals = [0.002 * 2**number for number in range(len(short) + len(enough))]
    both = zip(ideals, [*short, *enough], strict=True)
    found = metg({ideal: [Sample(ideal / e, ideal)] for ideal, e in both}, 0.5)
    assert found.seconds is not None
    low, high = ideals[len(short) - 1], ideals[len(short)]
    assert low <= 0.5 * found.seconds.median <= high


def test_a_lucky_run_of_short_tasks_does_not_decide() -> None:
    """Short tasks that reached the target by luck do not set METG if longer ones fell short."""
    shares = {0.005: 0.52, 0.01: 0.35, 0.02: 0.42, 0.04: 0.75}
    found = metg({ideal: [Sample(ideal / e, ideal)] for ideal, e in shares.items()}, 0.5)
    assert found.seconds is not None
    assert 0.02 <= 0.5 * found.seconds.median <= 0.04


def test_extrapolation_does_not_exceed_the_whole_machine() -> None:
    """Extrapolation assumes a ceiling of at most 100 %, and the overhead of the longest tasks."""
    shares = {0.1: 0.35, 0.2: 0.6}
    found = metg({ideal: [Sample(ideal / e, ideal)] for ideal, e in shares.items()}, 0.75)
    assert found.seconds is not None
    assert found.seconds.median == pytest.approx((0.2 / 0.6 - 0.2) / (1 - 0.75))


def test_few_runs_are_made() -> None:
    """If each task has the same overhead, METG(50 %) needs at most three measurements."""
    machine = Machine(0.01)
    measure_curve(machine, [0.5], longest=60)
    assert machine.runs <= 3
