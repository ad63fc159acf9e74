# SPDX-License-Identifier: Apache-2.0
"""Advice on the task runner, on calls per task run, and on when to switch the task runner."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.predict.advice import NOTICED, WORTH, advise_mapped, advise_workflow
from flowgauge.predict.errors import Spread
from flowgauge.predict.mapped import Mapped
from flowgauge.predict.prediction import BYTES_BEYOND, TASKS_BEYOND, Predictor
from flowgauge.predict.simulation import Costs, Machine
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.workflow import Kernel


def runner(name: str, task: float, *, spread: float = 0.01, **more: Any) -> Predictor:
    """Return the predictor of a task runner with this cost per task (seconds on a worker)."""
    import numpy as np

    fields: dict[str, Any] = {
        "costs": Costs(task / 10, task, task / 100, 1e-9),
        "machine": Machine(2, 2.0),
        "start": 0.0,
        "knows_edges": True,
        "most_bytes": 10**6,
        "most_tasks": 100,
        "draws": np.zeros((1000, 5)),
        "spread": Spread(spread, 0.01),
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
    assert forecast.batched is not None
    assert forecast.makespan is not None
    assert forecast.batched.median <= forecast.makespan.median * (1 + 1e-9)
    # No batch is faster than the bare work divided between two workers.
    assert forecast.batched.low >= seconds * tasks / 2 * (1 - 1e-9)


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


def test_the_quickest_changes_where_both_are_about_equal() -> None:
    """From the call length on at which another task runner saves a twentieth, it is named."""
    (start, first), (edge, second) = advise_mapped(Mapped(0.01, 100, "python"), BOTH).changes
    assert (start, first, second) == (0.0, "threads", "processes")
    at_edge = Mapped(edge, 100, "python").sample(1, 2)[0]
    equal = PROCESSES.seconds(at_edge) * (1 + NOTICED)
    assert THREADS.seconds(at_edge) == pytest.approx(equal, rel=0.02)


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


def test_the_simplest_of_equals_is_advised() -> None:
    """Without a difference seen, the task runner that is first in the table is advised.

    If the errors are large no difference is seen; if they are small, the quickest is advised.
    """
    workflow = shape("trivial", 10, 1, seconds=0.0)
    for spread, advised, tied in (
        (0.2, "processes", ("dask-processes",)),
        (0.01, "dask-processes", ()),
    ):
        rivals = (
            runner("processes", 0.05, spread=spread),
            runner("dask-processes", 0.045, spread=spread),
        )
        advice = advise_workflow(workflow, rivals)
        assert advice.advised is not None
        assert (advice.advised.runner, advice.tied) == (advised, tied)
        assert advice.forecasts[0].runner == "dask-processes"
        assert (advice.gain > 0.005 * 10 / 2) is bool(tied)


def test_a_small_saving_is_not_worth_a_less_simple_runner() -> None:
    """A certain saving of less than a twentieth counts as no difference."""
    workflow = shape("trivial", 10, 1, seconds=1.0)
    for cost, advised in ((0.06, "processes"), (0.4, "dask-processes")):
        rivals = (runner("processes", cost), runner("dask-processes", 0.05))
        advice = advise_workflow(workflow, rivals)
        assert advice.advised is not None
        assert advice.advised.runner == advised


def test_a_common_error_does_not_hide_a_difference() -> None:
    """Intervals may overlap because the machine's pace is uncertain, and the difference be seen."""
    workflow = shape("trivial", 10, 1, seconds=1.0, kernel="native")
    rivals = [
        runner(name, cost, spread=0.05) for name, cost in (("processes", 1.0), ("lean-dask", 0.5))
    ]
    uncertain = [replace(rival, spread=Spread(0.05, 0.2)) for rival in rivals]
    advice = advise_workflow(workflow, uncertain)
    quick, slow = (forecast.makespan for forecast in advice.forecasts)
    assert quick is not None
    assert slow is not None
    assert quick.high > slow.low
    assert advice.advised == advice.forecasts[0]
    assert advice.tied == ()


@settings(max_examples=30)
@given(
    st.sampled_from(list(RUNNERS)),
    st.floats(0, 100),
    st.integers(1, 60),
    st.sampled_from(["python", "native", "wait"]),
    st.floats(0, 2),
    st.floats(0, 2),
)
def test_no_interval_is_below_the_lower_bound(
    name: str, seconds: float, tasks: int, kernel: Kernel, overhead: float, computing: float
) -> None:
    """However uncertain the costs and the machine are, the stated work is not done faster."""
    unsure = runner(name, 0.05, spread=overhead)
    unsure = replace(unsure, spread=Spread(overhead, computing))
    (forecast,) = advise_mapped(Mapped(seconds, tasks, kernel), (unsure,)).forecasts
    workers = 1 if RUNNERS[name].execution.inline else 2
    if RUNNERS[name].execution.one_interpreter and kernel == "python":
        workers = 1
    assert forecast.makespan is not None
    least = max(seconds, seconds * tasks / workers)
    assert forecast.makespan.low >= least * (1 - 1e-9)


@pytest.mark.parametrize(
    ("mapped", "beyond"),
    [
        (Mapped(0.1, 20, "native", 10**6 * BYTES_BEYOND), ""),
        (Mapped(0.1, 20, "native", 10**6 * BYTES_BEYOND + 1), "such payloads"),
        (Mapped(0.0, 100 * TASKS_BEYOND, "native"), ""),
    ],
)
def test_what_is_far_beyond_measurements_is_not_predicted(mapped: Mapped, beyond: str) -> None:
    """Without a forecast for any task runner, none is advised."""
    advice = advise_mapped(mapped, BOTH)
    assert {forecast.beyond for forecast in advice.forecasts} == {beyond}
    assert (advice.advised is None) is bool(beyond)


def test_a_runner_without_measured_payloads_is_not_advised() -> None:
    """Where payloads were not measured they are not free: another task runner is advised."""
    unknown = replace(THREADS, most_bytes=0)
    for payload, advised in ((1000, "threads"), (1001, "processes")):
        advice = advise_mapped(Mapped(0.01, 10, "native", payload), (unknown, PROCESSES))
        assert advice.advised is not None
        assert advice.advised.runner == advised
    assert advice.forecasts[-1].runner == "threads"
    assert (advice.forecasts[-1].makespan, advice.forecasts[-1].beyond) == (None, "payloads")


def test_a_runner_without_measured_edges_is_not_advised() -> None:
    """Where dependent tasks were not measured, a workflow with edges has no forecast."""
    unknown = replace(THREADS, knows_edges=False)
    advice = advise_workflow(shape("chain", 2, 3), (unknown, PROCESSES))
    assert advice.advised is not None
    assert advice.advised.runner == "processes"
    assert advice.forecasts[-1].beyond == "dependent tasks"


def test_so_many_calls_are_predicted_in_batches_only() -> None:
    """More task runs than can be predicted have no forecast, but batches of them have one."""
    advice = advise_mapped(Mapped(0.01, 101 * TASKS_BEYOND, "native"), (THREADS,))
    assert advice.advised is not None
    assert (advice.advised.makespan, advice.advised.beyond) == (None, "so many tasks")
    assert advice.advised.batch > 1
    assert advice.advised.batched is not None


def test_a_workflow_is_not_batched() -> None:
    """A workflow is not batched, and its advice has no thresholds."""
    advice = advise_workflow(shape("tree", 8, 4, seconds=0.01), BOTH)
    assert [each.batch for each in advice.forecasts] == [1, 1]
    assert (advice.batch_below, advice.changes) == (None, ())
