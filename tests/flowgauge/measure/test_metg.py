# SPDX-License-Identifier: Apache-2.0
"""METG is found in few runs, wherever it lies, and "never" is said where it does not exist."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowgauge.measure.metg import Sample, measure_curve, metg

OVERHEADS = st.floats(5e-5, 0.3)
Measure = Callable[[float], Sequence[Sample]]


class Machine:
    """A runner that a formula describes: each task costs the same on top of its work."""

    def __init__(self, overhead: float, ceiling: float = 1.0, noise: float = 0.0) -> None:
        self.overhead, self.ceiling, self.noise = overhead, ceiling, noise
        self.chance = random.Random(1)
        self.runs = 0

    def __call__(self, seconds: float) -> list[Sample]:
        """Run tasks three times."""
        self.runs += 1
        granularity = (seconds + self.overhead) / self.ceiling
        return [
            Sample(granularity * (1 + self.chance.uniform(-self.noise, self.noise)), seconds)
            for _ in range(3)
        ]

    def metg(self, target: float) -> float:
        """Return its METG: where ceiling x work / (work + overhead) is the target."""
        return self.overhead / (self.ceiling - target)


@given(OVERHEADS, st.sampled_from([1.0, 0.97]), st.sampled_from([0.5, 0.9]))
def test_it_is_found(overhead: float, ceiling: float, target: float) -> None:
    """For any overhead, METG is the granularity that the formula gives, to within a tenth."""
    machine = Machine(overhead, ceiling)
    found = metg(measure_curve(machine, longest=60), target)
    assert found.seconds == pytest.approx(machine.metg(target), rel=0.1)
    assert machine.runs <= 10


@given(OVERHEADS, st.integers(0, 1000))
def test_noise_widens_the_interval(overhead: float, seed: int) -> None:
    """With runs that differ by a tenth, METG(50 %) is still found to within a quarter."""
    machine = Machine(overhead, noise=0.1)
    machine.chance = random.Random(seed)
    found = metg(measure_curve(machine, [0.5], longest=60), 0.5)
    assert found.seconds is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.seconds <= found.high
    assert found.low < found.high
    assert found.seconds == pytest.approx(machine.metg(0.5), rel=0.25)


@given(OVERHEADS, st.floats(0.1, 0.85), st.sampled_from([0.5, 0.9]))
def test_never_is_said_with_the_ceiling(overhead: float, ceiling: float, target: float) -> None:
    """A runner that uses half of the machine at best never comes to 90 %, and its half is told."""
    assume(abs(ceiling - target) >= 0.1)
    found = metg(measure_curve(Machine(overhead, ceiling), longest=60), target)
    if ceiling > target:
        assert found.seconds == pytest.approx(overhead / (ceiling - target), rel=0.15)
    else:
        assert found.seconds is None
        assert found.ceiling == pytest.approx(ceiling, rel=0.1)


def test_a_ceiling_just_below_is_below() -> None:
    """A runner that ends at 87 % never keeps its workers 90 % busy, however near that is."""
    found = metg(measure_curve(Machine(0.01, 0.87), longest=60), 0.9)
    assert (found.seconds, found.low, found.high) == (None, None, None)
    assert found.ceiling == pytest.approx(0.87)


@given(OVERHEADS, st.floats(-0.019, 0.019))
def test_what_ends_at_the_target_is_not_waited_for(overhead: float, above: float) -> None:
    """A runner whose end is the target itself, as one task at a time on two workers, is "never"."""
    machine = Machine(overhead, 0.5 + above)
    asked: list[float] = []

    def measure(seconds: float) -> Sequence[Sample]:
        asked.append(seconds)
        return machine(seconds)

    curve = measure_curve(measure, [0.5], longest=1000)
    if not any(sum(run.efficiency for run in runs) / 3 >= 0.5 for runs in curve.values()):
        assert metg(curve, 0.5).seconds is None
    assert max(asked) <= 100 * overhead


def test_nearly_there_for_ever_is_never() -> None:
    """Where longer tasks bring nothing any more, what is near the target is not taken for it."""
    curve = {1.0: [Sample(1 / 0.87, 1.0)], 2.0: [Sample(2 / 0.87, 2.0)]}
    assert metg(curve, 0.9).seconds is None


@pytest.mark.parametrize("longer", [{0.022: 0.40}, {0.022: 0.47, 0.04: 0.42}])
def test_what_was_reached_is_not_taken_back(longer: dict[float, float]) -> None:
    """Where half was reached, longer tasks that chance made worse do not make it "never"."""
    shares = {0.02: 0.56, **longer}
    curve = {work: [Sample(work + 0.03, share * (work + 0.03))] for work, share in shares.items()}
    found = metg(curve, 0.5)
    assert found.seconds is not None
    assert 0.04 < found.seconds < 0.06


def test_two_lengths_that_look_alike_decide_nothing() -> None:
    """Where chance makes the second length no better than the first, a longer one is tried."""
    unlucky = iter([0.44, 0.43])

    def measure(seconds: float) -> Sequence[Sample]:
        wall = seconds + 0.01
        share = next(unlucky, seconds / wall) if seconds else 0.0
        return [Sample(wall, share * wall)]

    assert metg(measure_curve(measure, [0.5], longest=60), 0.5).seconds is not None


@given(OVERHEADS, st.floats(0.3, 1.0))
def test_a_busy_machine_is_no_longer_way(overhead: float, pace: float) -> None:
    """Where work takes longer than it should, METG is found in as few runs."""
    machine = Machine(overhead)

    def measure(seconds: float) -> Sequence[Sample]:
        return machine(seconds / pace)

    curve = measure_curve(measure, [0.5], longest=60)
    assert metg(curve, 0.5).seconds == pytest.approx(2 * overhead, rel=0.15)
    assert len(curve) <= 4


def test_tasks_longer_than_allowed_are_not_run() -> None:
    """What would take longer than one has time for is left, and no figure is made up."""
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


def test_a_little_beyond_the_longest_is_told_from_the_line() -> None:
    """Where tasks that may be run come near to a target, the line says how long they must be."""
    found = metg(measure_curve(Machine(1.0), longest=4.0), 0.9)
    assert found.seconds == pytest.approx(10.0, rel=0.1)


def test_few_runs_are_made() -> None:
    """Where each task has the same overhead, three amounts of work tell METG(50 %)."""
    machine = Machine(0.01)
    measure_curve(machine, [0.5], longest=60)
    assert machine.runs <= 3
