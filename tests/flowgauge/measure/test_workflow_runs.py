# SPDX-License-Identifier: Apache-2.0
"""A workflow is scaled to be replayed, and its makespan is compared with its lower bound."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.measure.budget import LEAST_TO_JUDGE, Budget
from flowgauge.measure.graph_flow import run_on_pool
from flowgauge.measure.workflow_runs import (
    MAX_TASK_BYTES,
    MAX_WORKFLOW_BYTES,
    Makespans,
    run_in_turn,
    scaled,
)
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import random_layered
from flowgauge.workflows.work_items import TaskResult, WrongInputError
from flowgauge.workflows.workflow import GraphError, Kernel, Workflow

SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 10_000.0))


def trace(seconds: float = 60.0, output_bytes: int = 10**9) -> Workflow:
    """Return a workflow like a real trace: minutes of work and gigabytes of output."""
    return random_layered(4, 4, seed=3, seconds=seconds, output_bytes=output_bytes)


@given(st.floats(0.01, 100), st.integers(1, 64))
def test_the_lower_bound_is_fitted(seconds: float, workers: int) -> None:
    """Without a time scale the lower bound becomes the requested one; edges are unchanged."""
    made = scaled(trace(), workers, seconds=seconds)
    assert made.lower_bound(workers) == pytest.approx(seconds)
    assert [task.parents for task in made.tasks] == [task.parents for task in trace().tasks]


@given(st.floats(0, 1e3), st.floats(0, 1e6), st.integers(0, 10**12))
def test_payloads_are_bounded(time_scale: float, bytes_scale: float, size: int) -> None:
    """Work scales as requested; results, alone and together, never exceed their limits."""
    made = scaled(trace(output_bytes=size), 2, time_scale=time_scale, bytes_scale=bytes_scale)
    assert made.total_work == pytest.approx(trace().total_work * time_scale)
    assert max(task.output_bytes for task in made.tasks) <= MAX_TASK_BYTES
    assert sum(task.output_bytes for task in made.tasks) <= MAX_WORKFLOW_BYTES


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_an_invalid_scale_is_reported(scale: float) -> None:
    """The error says which scale is wrong."""
    with pytest.raises(GraphError, match="the time scale"):
        scaled(trace(), 2, time_scale=scale)
    with pytest.raises(GraphError, match="the bytes scale"):
        scaled(trace(), 2, bytes_scale=scale)


def test_a_run_is_timed_and_kept() -> None:
    """A run returns its makespan, paired with the lower bound, and keeps its timeline."""
    workflow = scaled(trace(), 2, seconds=0.02)
    with ThreadPoolExecutor(2) as pool:
        runs = Makespans(workflow, "x", lambda graph: run_on_pool(graph, pool, SPEEDS), SPEEDS, 2)
        seconds = [runs(), runs(), runs()]
    assert [each.makespan for each in runs.timelines] == pytest.approx(seconds, abs=1e-5)
    assert runs.typical().makespan == pytest.approx(sorted(seconds)[1], abs=1e-5)
    assert {span.task for span in runs.typical().spans} == {task.id for task in workflow.tasks}
    assert runs.rounds().reference == pytest.approx((0.02,) * 3)


def test_a_run_with_a_wrong_answer_is_rejected() -> None:
    """A run in which one task returned a wrong answer is rejected."""

    def wrong(graph: Workflow) -> dict[str, TaskResult]:
        with ThreadPoolExecutor(2) as pool:
            outputs = run_on_pool(graph, pool, SPEEDS)
        last = graph.tasks[-1].id
        outputs[last] = dataclasses.replace(outputs[last], answer=-1)
        return outputs

    with pytest.raises(WrongInputError, match="wrong answer"):
        Makespans(scaled(trace(), 2, seconds=0.01), "x", wrong, SPEEDS, 2)()


def test_workflows_are_run_in_turn_until_all_are_precise() -> None:
    """Each workflow runs as often as the others, until the one that varies most has enough."""
    order: list[str] = []

    class Steady(Makespans):
        """Takes the same time in each round."""

        seconds_of_round = 1.0

        def __call__(self) -> float:
            order.append(self.runner)
            self.seconds.append(self.seconds_of_round)
            return self.seconds[-1]

    class Varying(Steady):
        """Takes another time in each round."""

        @property
        def seconds_of_round(self) -> float:  # type: ignore[override]
            return 1.0 + 0.3 * (len(self.seconds) % 2)

    steady, varying = (
        kind(trace(), kind.__name__, lambda graph: {}, SPEEDS, 2) for kind in (Steady, Varying)
    )
    run_in_turn(Budget(2, max_time=1e6), steady)
    assert len(steady.seconds) == LEAST_TO_JUDGE
    steady.seconds.clear()
    order.clear()
    run_in_turn(Budget(2, max_time=23.0), steady, varying)
    assert order == ["Steady", "Varying"] * 10
