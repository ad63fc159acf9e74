# SPDX-License-Identifier: Apache-2.0
"""Predictions are compared with measurements of other workflows, at the load of each round."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from flowgauge.measure.graph_flow import run_on_pool
from flowgauge.predict.held_out import Timed, prediction_rows, time_workflows
from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
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


def test_each_round_is_predicted_at_its_load() -> None:
    """Rounds on a machine with growing load are predicted to within 3 % at the median."""
    fitted = [timed(each, 1.0, 0.9) for each in FITTED]
    (found,) = prediction_rows("processes", fitted, [timed(HELD_OUT[0], 1.0, 0.6, 0.4)], TWO)
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(1.0, abs=0.03)
    assert found.value.median == timed(HELD_OUT[0], 0.6).seconds[0]
    assert (found.group, found.runner, found.rounds) == ("prediction", "processes", 3)


def test_a_wrong_prediction_shows_in_the_ratio() -> None:
    """If rounds took twice the predicted time, the ratio is a half."""
    fitted = [timed(each, 1.0) for each in FITTED]
    held_out = [timed(HELD_OUT[0], 1.0, 1.0, wrong=2.0)]
    (found,) = prediction_rows("processes", fitted, held_out, TWO)
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(0.5, abs=0.02)


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
        assert all(0 < pace <= 1 for pace in each.paces)


def test_a_wrong_answer_is_not_timed(pool: ThreadPoolExecutor) -> None:
    """A run with a wrong answer is rejected."""

    def lazy(workflow: Workflow) -> Mapping[str, TaskResult]:
        outputs = run_on_pool(workflow, pool, SPEEDS)
        last = workflow.tasks[-1].id
        return outputs | {last: dataclasses.replace(outputs[last], answer=-1)}

    with pytest.raises(WrongInputError, match="wrong answer"):
        time_workflows((shape("chain", 1, 2, seconds=0.01),), lazy, pool, SPEEDS, 2, rounds=1)
