# SPDX-License-Identifier: Apache-2.0
"""Errors of predictions are split into those of the overhead and those of the computing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.predict.errors import FREEDOM, Miss, Parts, Spread, draw_makespans
from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
from flowgauge.workflows.shapes import random_layered, shape
from flowgauge.workflows.workflow import Kernel

COSTS = Costs(submit=0.01, task=0.05, dependency_latency=0.01, byte=1e-9, background=0.01)


def misses(overhead: float, computing: float, rows: int) -> list[Miss]:
    """Return misses drawn with these scales: half of the rows compute, half have overhead only."""
    rng = np.random.default_rng(1)
    found = []
    for row in range(rows):
        work = 5.0 if row % 2 else 0.0
        own, machine = rng.standard_t(FREEDOM, 2)
        found.append(Miss(work, 0.2, 0.2 * overhead * own + work * computing * machine))
    return found


@pytest.mark.parametrize(("overhead", "computing"), [(0.2, 0.05), (0.05, 0.2), (0.4, 0.02)])
def test_the_scales_of_both_errors_are_found(overhead: float, computing: float) -> None:
    """From rows with and without computing, both scales are found to within a third."""
    found = Spread.of(misses(overhead, computing, 400))
    assert found.overhead == pytest.approx(overhead, rel=1 / 3)
    assert found.computing == pytest.approx(computing, rel=1 / 3)


def test_a_few_bad_rows_hardly_widen_the_rest() -> None:
    """One row in twenty that is off by fifty times the usual does not double the scale."""
    good = misses(0.05, 0.05, 120)
    bad = [Miss(0.0, 0.2, 0.5)] * 3
    assert Spread.of([*good, *bad]).overhead < 2 * Spread.of(good).overhead


def test_a_handful_of_rows_promises_nothing() -> None:
    """Two rows without any error leave a typical one; a hundred do not."""
    exact = [Miss(0.0, 1.0, 0.0), Miss(1.0, 0.0, 0.0)]
    few, many = Spread.of(exact), Spread.of(exact * 50)
    assert few.overhead > 0.05 > many.overhead
    assert few.computing > 0.02 > many.computing


@settings(max_examples=30)
@given(
    st.sampled_from(["sequential", "threads", "processes", "dask-processes"]),
    st.sampled_from(["wait", "python", "native"]),
    st.integers(0, 100),
    st.floats(0, 2),
)
def test_parts_add_up(runner: str, kernel: Kernel, seed: int, load: float) -> None:
    """The parts are those of the simulated makespan, and nothing is below the lower bound."""
    workflow = random_layered(3, 3, seed=seed, seconds=0.1, kernel=kernel)
    machine = Machine(2, 2.0, load)
    parts = Parts.of(workflow, runner, COSTS, machine)
    assert parts.makespan == pytest.approx(simulated_makespan(workflow, runner, COSTS, machine))
    assert parts.least <= parts.ideal * (1 + 1e-9)
    assert parts.overhead >= 0
    assert parts.computing == pytest.approx(0.0 if kernel == "wait" else parts.ideal)
    drawn = draw_makespans(parts, np.full(1000, parts.overhead), Spread(1.0, 1.0), runner)
    assert drawn.min() >= parts.least


def test_stated_work_has_no_error() -> None:
    """Of 100 s of waiting, only the overhead of a second is uncertain."""
    workflow = shape("trivial", 20, 1, seconds=10.0, kernel="wait")
    parts = Parts.of(workflow, "processes", COSTS, Machine(2, 2.0))
    drawn = draw_makespans(parts, np.full(1000, parts.overhead), Spread(0.2, 0.2), "processes")
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert 100.0 <= low < parts.makespan < high < 102.0


def test_the_error_of_the_machine_is_the_same_for_all_runners() -> None:
    """If two runners compute equally much, draw by draw the difference is that of the overhead."""
    parts = Parts(least=0.0, ideal=100.0, computing=100.0, overhead=1.0)
    one, other = (
        draw_makespans(parts, np.full(1000, overhead), Spread(0.01, 0.1), name)
        for name, overhead in (("threads", 1.0), ("processes", 2.0))
    )
    assert np.std(one) > 5
    assert np.std(other - one) < 0.1
