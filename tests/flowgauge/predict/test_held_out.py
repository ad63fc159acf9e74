# SPDX-License-Identifier: Apache-2.0
"""Predictions are compared with measurements of other workflows, at the load of each round."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest

from flowgauge.measure.graph_flow import run_on_pool
from flowgauge.predict.errors import held_out_misses
from flowgauge.predict.fitting import fit
from flowgauge.predict.held_out import ADVISED, HOLDS, HeldOut, Timed, advice_row, time_workflows
from flowgauge.predict.simulation import FREE, Costs, Machine, simulated_makespan
from flowgauge.results.rows import Row
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import random_layered, shape
from flowgauge.workflows.work_items import TaskResult, WrongInputError
from flowgauge.workflows.workflow import Kernel, Workflow

SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 10_000.0))
COSTS = Costs(0.004, 0.03, 0.01, 1e-12)
TWO = Machine(2, 2.0)
KINDS: tuple[tuple[str, float, Kernel], ...] = (
    ("trivial", 0.0, "native"),
    ("trivial", 0.1, "native"),
    ("trivial", 0.1, "wait"),
    ("trivial", 0.01, "python"),
    ("chain", 0.0, "native"),
    ("stencil", 0.05, "native"),
)
FITTED = tuple(shape(name, 2, 5, seconds=seconds, kernel=kernel) for name, seconds, kernel in KINDS)
HELD_OUT = (random_layered(4, 4, seed=5, seconds=0.04, kernel="native"),)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads, which is enough to hash a few blocks."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, range(2)))
        yield pool


def timed(workflow: Workflow, *paces: float, wrong: float = 1.0) -> Timed:
    """Return rounds at these paces, timed by the simulation."""
    seconds = tuple(
        wrong * simulated_makespan(workflow, "processes", COSTS, TWO.at_pace(pace))
        for pace in paces
    )
    return Timed(workflow, seconds, paces)


def rows(*rounds: Timed, fitted: Iterable[Timed] | None = None) -> list[Row]:
    """Return the rows of a runner whose costs are fitted to rounds without load, or to others."""
    fitted = [timed(each, 1.0, 0.9) for each in FITTED] if fitted is None else fitted
    return list(HeldOut.of("processes", list(fitted), rounds, TWO).rows())


def test_each_round_is_predicted_at_its_load() -> None:
    """Rounds on a machine with growing load are predicted to within 3 % at the median."""
    found, ideal, held = rows(timed(HELD_OUT[0], 1.0, 0.6, 0.4))
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(1.0, abs=0.03)
    assert found.value.median == timed(HELD_OUT[0], 0.6).seconds[0]
    assert (found.group, found.runner, found.rounds) == ("prediction", "processes", 3)
    costless = simulated_makespan(HELD_OUT[0], "processes", FREE, TWO.at_pace(0.6))
    assert ideal.value.median == pytest.approx(costless)
    assert (held.id, held.value.median, held.rounds) == (HOLDS, 1.0, 3)


def test_a_wrong_prediction_shows_in_the_rows() -> None:
    """If rounds took twice the predicted time, the ratio is a half, and the interval is missed."""
    found, _, held = rows(timed(HELD_OUT[0], 1.0, 1.0, wrong=2.0))
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(0.5, abs=0.02)
    assert held.value.median == 0.0


def test_work_that_was_sized_on_a_slower_machine_is_less() -> None:
    """At a pace above one, the bare pool shows that tasks have less work than they should."""
    half = [
        dataclasses.replace(timed(scaled(each, time_scale=0.5), 1.0), workflow=each, paces=(2.0,))
        for each in (*FITTED, *HELD_OUT)
    ]
    found, *_ = rows(half[-1], fitted=half[:-1])
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(1.0, abs=0.05)


def scaled(workflow: Workflow, *, time_scale: float) -> Workflow:
    """Return a workflow whose tasks work this many times as long."""
    tasks = (dataclasses.replace(t, seconds=t.seconds * time_scale) for t in workflow.tasks)
    return Workflow(workflow.name, tuple(tasks))


def test_predictions_that_were_held_out_give_the_errors_of_later_ones() -> None:
    """What held-out predictions missed by is read back from their rows, and sets the errors."""
    held_out = [
        dataclasses.replace(random_layered(4, 4, seed=seed, seconds=0.04), name=str(seed))
        for seed in range(8)
    ]
    factors = (0.7, 1.4) * 4
    rounds = [timed(one, 1.0, wrong=by) for one, by in zip(held_out, factors, strict=True)]
    found = rows(*rounds)
    misses = list(held_out_misses("processes", found))
    assert len(misses) == 8
    for miss, by in zip(misses, factors, strict=True):
        assert (miss.seconds > 0) is (by > 1)
        assert miss.computing == 0
    observed = [one for each in FITTED for one in timed(each, 1.0).observed(TWO)]
    exact, unsure = fit("processes", observed, TWO), fit("processes", observed, TWO, found)
    assert unsure.spread.overhead > 0.2 > exact.spread.overhead
    assert list(held_out_misses("threads", found)) == []


def world(
    name: str, rng: np.random.Generator, workflows: Sequence[Workflow], rounds: int
) -> list[Timed]:
    """Return rounds on a machine and a task runner with errors of their own.

    The load of a round is the same on all task runners.
    """
    base = {"threads": 0.008, "processes": 0.09, "lean-processes": 0.02}.get(name, 0.05)
    costs = Costs(base / 8, base, base / 4, 1e-12, base / 8)
    found = []
    for number, workflow in enumerate(workflows):
        loads = np.random.default_rng(number)
        seconds, paces = [], []
        for _ in range(rounds):
            pace, slower = loads.uniform(0.6, 1.0), math.exp(0.07 * rng.standard_t(5))
            real = TWO.at_pace(min(pace * math.exp(0.03 * rng.standard_t(5)), 1.0))
            paid = Costs(*(cost * slower for cost in dataclasses.astuple(costs)))
            seconds.append(simulated_makespan(workflow, name, paid, real))
            paces.append(pace)
        found.append(Timed(workflow, tuple(seconds), tuple(paces)))
    return found


def test_predictions_of_a_noisy_machine_are_good() -> None:
    """With costs that vary by a tenth, predictions are off by less than that at the median.

    Their 95 % intervals hold 90 to 99 % of the makespans, and the advised runner is within a tenth
    of the best for at least 95 % of the workflows.
    """
    rng = np.random.default_rng(3)
    kernels: tuple[Kernel, ...] = ("native", "python", "wait")
    held_out = [
        random_layered(
            int(rng.integers(2, 6)),
            int(rng.integers(2, 6)),
            seed=seed,
            seconds=float(rng.choice([0.0, 0.01, 0.03, 0.1, 0.5])),
            kernel=kernels[seed % 3],
        )
        for seed in range(40)
    ]
    runners = ("threads", "processes", "lean-processes", "dask-processes")
    all_held = [
        HeldOut.of(name, world(name, rng, FITTED, 3), world(name, rng, held_out, 3), TWO)
        for name in runners
    ]
    found = [row for held in all_held for row in held.rows()]
    errors = [abs(row.ratio.median - 1) for row in found if row.ratio is not None]
    assert len(errors) == 40 * len(runners)
    assert statistics.median(errors) <= 0.1
    held = [row.value.median for row in found if row.id == HOLDS]
    assert 0.9 <= statistics.fmean(held) <= 0.99
    advised = advice_row(all_held)
    assert (advised.id, advised.rounds) == (ADVISED, 40)
    assert advised.value.median >= 0.95


def test_bad_advice_is_counted() -> None:
    """Advice is good where the advised task runner was the quickest, and bad where it was not."""
    rng = np.random.default_rng(4)
    held_out = [random_layered(3, 4, seed=seed, seconds=0.01) for seed in range(3)]
    threads, processes = (world(name, rng, held_out, 1) for name in ("threads", "processes"))

    def share(on_threads: list[Timed], on_processes: list[Timed]) -> float:
        measured = {"threads": on_threads, "processes": on_processes}
        all_held = [
            HeldOut.of(name, world(name, rng, FITTED, 3), rounds, TWO)
            for name, rounds in measured.items()
        ]
        return advice_row(all_held).value.median

    assert share(threads, processes) == 1.0
    assert share([*threads[:1], *processes[1:]], [*processes[:1], *threads[1:]]) == 1 / 3


def test_workflows_are_timed_in_turn(pool: ThreadPoolExecutor) -> None:
    """Each round runs every workflow once, so changes of the machine affect all workflows."""
    ran: list[str] = []

    def run(workflow: Workflow) -> Mapping[str, TaskResult]:
        ran.append(workflow.name)
        return run_on_pool(workflow, pool, SPEEDS)

    workflows = (shape("trivial", 2, 2, seconds=0.01), shape("chain", 2, 2, seconds=0.01))
    found = time_workflows(workflows, run, pool, SPEEDS, 2, rounds=2)
    assert ran == [each.name for each in workflows] * 2
    for each in found:
        assert len(each.seconds) == len(each.paces) == 2
        assert all(seconds >= 0.02 for seconds in each.seconds)
        assert all(pace > 0 for pace in each.paces)


def test_a_wrong_answer_is_not_timed(pool: ThreadPoolExecutor) -> None:
    """A run with a wrong answer is rejected."""

    def lazy(workflow: Workflow) -> Mapping[str, TaskResult]:
        outputs = run_on_pool(workflow, pool, SPEEDS)
        last = workflow.tasks[-1].id
        return outputs | {last: dataclasses.replace(outputs[last], answer=-1)}

    with pytest.raises(WrongInputError, match="wrong answer"):
        time_workflows((shape("chain", 1, 2, seconds=0.01),), lazy, pool, SPEEDS, 2, rounds=1)
