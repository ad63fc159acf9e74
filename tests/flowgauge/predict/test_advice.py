# SPDX-License-Identifier: Apache-2.0
"""Advice on the task runner, on calls per task run, and on when to switch the task runner."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.predict.advice import WORTH, Mapped, advise_mapped, advise_workflow
from flowgauge.predict.prediction import Predictor
from flowgauge.predict.simulation import Costs, Machine
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.workflow import Kernel


def runner(name: str, task: float, *, spread: float = 0.01, **more: Any) -> Predictor:
    """Return the predictor of a task runner with this cost per task (seconds on a worker)."""
    import numpy as np

    fields: dict[str, Any] = {
        "costs": Costs(task / 10, task, task / 100, 1e-9),
        "machine": Machine(2, 2.0),
        "start": 0.0,
        "knows_bytes": True,
        "knows_edges": True,
        "draws": np.zeros((1000, 4)),
        "residuals": np.array([-spread, spread]),
    }
    return Predictor(name, **(fields | more))


THREADS, PROCESSES = runner("threads", 0.002), runner("processes", 0.05)
BOTH = (THREADS, PROCESSES)


@pytest.mark.parametrize(
    ("kernel", "seconds", "best"),
    [("python", 1.0, "processes"), ("python", 0.001, "threads"), ("wait", 1.0, "threads")],
)
def test_the_quickest_is_first(kernel: Kernel, seconds: float, best: str) -> None:
    """Threads are first for short or waiting calls, processes for long ones that hold the lock."""
    mapped = Mapped(seconds, 40, kernel)
    # So few calls that batches do not make up for a slow runner.
    advice = advise_mapped(replace(mapped, tasks=2), BOTH)
    assert advice.forecasts[0].runner == best
    totals = [each.total for each in advice.forecasts]
    assert totals == sorted(totals)


def test_start_up_counts() -> None:
    """A quick task runner that is slow to start comes first only if there is much work."""
    late = replace(THREADS, runner="processes", start=5.0)
    at_once = replace(THREADS, machine=Machine(1, 1.0))
    for tasks, best in ((2, "threads"), (100, "processes")):
        mapped = Mapped(1.0, tasks, "native")
        assert advise_mapped(mapped, (at_once, late)).forecasts[0].runner == best


@settings(max_examples=10)
@given(st.floats(0, 0.5), st.integers(1, 3000), st.sampled_from(["python", "native", "wait"]))
def test_a_batch_is_never_slower(seconds: float, tasks: int, kernel: Kernel) -> None:
    """A batch is at most a worker's share of the calls, and never slower than single calls."""
    (forecast,) = advise_mapped(Mapped(seconds, tasks, kernel), (PROCESSES,)).forecasts
    assert 1 <= forecast.batch <= math.ceil(tasks / 2)
    assert forecast.batched.median <= forecast.makespan.median * (1 + 1e-9)
    # No batch is faster than the bare work divided between two workers.
    assert forecast.batched.median >= seconds * tasks / 2 * (1 - 1e-9)


def test_batches_are_worth_it_below_a_threshold() -> None:
    """Batches are worth it if calls are shorter than the threshold, and not if they are longer."""
    mapped = Mapped(0.01, 1000, "native")
    edge = advise_mapped(mapped, (PROCESSES,)).batch_below
    assert edge is not None
    # A cost of 50 ms is a tenth of the makespan of tasks nine times as long.
    assert edge == pytest.approx(0.05 * (1 - WORTH) / WORTH, rel=0.2)
    for factor, pays in ((0.8, True), (1.25, False)):
        near = advise_mapped(replace(mapped, seconds=edge * factor), (PROCESSES,))
        assert (near.forecasts[0].batch > 1) is pays


def test_one_call_for_each_worker_is_not_batched() -> None:
    """If there are no more calls than workers, there is nothing to batch."""
    advice = advise_mapped(Mapped(0.001, 2, "native"), (PROCESSES,))
    assert advice.forecasts[0].batch == 1
    assert advice.batch_below is None


def test_the_quickest_changes_where_both_are_tied() -> None:
    """At the call length from which another task runner is the quickest, both take equally long."""
    (start, first), (edge, second) = advise_mapped(Mapped(0.01, 100, "python"), BOTH).changes
    assert (start, first, second) == (0.0, "threads", "processes")
    at_edge = Mapped(edge, 100, "python").sample(1, 2)[0]
    assert THREADS.seconds(at_edge) == pytest.approx(PROCESSES.seconds(at_edge), rel=0.02)


@settings(max_examples=10)
@given(st.integers(257, 5000), st.floats(0, 0.1))
def test_the_makespan_of_a_sample_is_scaled(tasks: int, seconds: float) -> None:
    """The scaled makespan of a sample is within 2 % of the makespan of all tasks."""
    mapped = Mapped(seconds, tasks, "native")
    part, factor = mapped.sample(1, 2)
    whole = shape("trivial", tasks, 1, seconds=seconds, kernel="native")
    assert PROCESSES.seconds(part) * factor == pytest.approx(PROCESSES.seconds(whole), rel=0.02)


@settings(max_examples=10)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 8))
def test_calls_are_distributed_evenly(tasks: int, batch: int, workers: int) -> None:
    """No call is lost or done twice, and task runs differ by at most one call."""
    whole, factor = Mapped(1.0, tasks, "wait", 10).sample(batch, workers)
    calls = [task.seconds for task in whole.tasks]
    assert max(calls) <= min(calls) + 1
    if factor == 1:
        assert sum(calls) == tasks
        assert sum(task.output_bytes for task in whole.tasks) == 10 * tasks


def test_a_sample_keeps_many_workers_busy() -> None:
    """Even for hundreds of workers, the simulated sample has at least four tasks for each."""
    mapped = Mapped(1.0, 5000, "wait")
    for workers in (2, 250):
        part, factor = mapped.sample(1, workers)
        assert len(part.tasks) >= 4 * workers
        assert len(part.tasks) * factor == pytest.approx(5000)


def test_a_batch_is_suggested_at_half_of_the_threshold() -> None:
    """If calls are too long for batches, the batch for calls of half the threshold is reported."""
    mapped = Mapped(2.0, 1000, "native")
    advice = advise_mapped(mapped, (PROCESSES,))
    assert advice.batch_below is not None
    assert advice.forecasts[0].batch == 1
    (at_half,) = advise_mapped(
        replace(mapped, seconds=advice.batch_below / 2), (PROCESSES,)
    ).forecasts
    assert advice.batch_at_half == at_half.batch > 1


def test_overlapping_intervals_are_tied() -> None:
    """A task runner is tied with the quickest if their intervals overlap, and only then."""
    rivals = [runner("processes", 0.05, spread=spread) for spread in (0.01, 0.2)]
    best = runner("dask-processes", 0.048)
    for rival, tied in zip(rivals, ((), ("processes",)), strict=True):
        workflow = shape("trivial", 10, 1, seconds=0.0)
        assert advise_workflow(workflow, (rival, best)).tied == tied


def test_a_workflow_is_not_batched() -> None:
    """A workflow is not batched, and its advice has no thresholds."""
    advice = advise_workflow(shape("tree", 8, 4, seconds=0.01), BOTH)
    assert [each.batch for each in advice.forecasts] == [1, 1]
    assert (advice.batch_below, advice.changes) == (None, ())
