# SPDX-License-Identifier: Apache-2.0
"""Efficiency is measured beside a bare pool, on checked answers, for tasks of any length."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from flowgauge.graphs import Kernel, Workflow
from flowgauge.kernels import WAIT_SECONDS, Speeds
from flowgauge.measure.granularity import Cell, Granularity, measure_cell
from flowgauge.measure.graph_flow import run_on_pool
from flowgauge.orders import Output, WrongInputError

SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 1 / WAIT_SECONDS))
OVERHEAD = 0.01
WORKERS = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give a pool: threads do for what only waits."""
    with ThreadPoolExecutor(WORKERS) as pool:
        # Its threads start with its first work, and belong to no test.
        list(pool.map(time.sleep, [0.01] * WORKERS))
        yield pool


def slow(workflow: Workflow) -> Mapping[str, Output]:
    """Run a workflow as a runner would that takes some time for each task."""
    longer = tuple(
        dataclasses.replace(task, seconds=task.seconds + OVERHEAD) for task in workflow.tasks
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        done = run_on_pool(Workflow(workflow.name, longer), pool, SPEEDS)
    return {
        task.id: dataclasses.replace(done[task.id], answer=SPEEDS.iterations("wait", task.seconds))
        for task in workflow.tasks
    }


def measured(pool: ThreadPoolExecutor, shape: str, run: object = slow) -> Granularity:
    """Return what measures the slow runner on tasks that wait."""
    return Granularity(Cell("slow", "wait", shape), run, pool, SPEEDS, WORKERS, 3, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["trivial", "stencil"])
def test_efficiency_is_the_share_of_the_work(pool: ThreadPoolExecutor, shape: str) -> None:
    """Tasks as long as their overhead use half of the workers' time, longer ones more."""
    cell = measured(pool, shape)
    cell.steps = 6
    half, most = (
        sorted(cell(times * OVERHEAD), key=lambda sample: sample.efficiency)[1] for times in (1, 9)
    )
    assert 0.4 < half.efficiency < 0.6
    assert 0.8 < most.efficiency < 1
    assert half.granularity == pytest.approx(2 * OVERHEAD, rel=0.3)
    assert half.depth == {"trivial": 1, "stencil": cell.steps}[shape]


def test_a_shape_that_leaves_workers_idle_is_no_fault_of_the_runner(
    pool: ThreadPoolExecutor,
) -> None:
    """A tree begins with one task; the best there can be is what efficiency is the share of."""
    cell = measured(pool, "tree", lambda workflow: run_on_pool(workflow, pool, SPEEDS))
    cell.steps = 4
    assert sorted(sample.efficiency for sample in cell(0.05))[1] == pytest.approx(1, abs=0.1)


def test_long_tasks_are_few(pool: ThreadPoolExecutor) -> None:
    """As many tasks are run as tell something: fewer of those that take long."""
    cell = measured(pool, "trivial")
    assert len(cell.workflow(0.0).tasks) == WORKERS * cell.steps
    assert cell.steps == 16
    assert [len(cell.workflow(seconds).tasks) // WORKERS for seconds in (0.01, 0.1, 10)] == [
        16,
        8,
        4,
    ]


def test_what_a_run_leaves_behind_is_waited_for(pool: ThreadPoolExecutor) -> None:
    """After each run, and before the bare pool is timed again, the machine may settle."""
    order: list[str] = []

    class Pool(ThreadPoolExecutor):
        def map(self, *args: object, **options: object) -> Iterator[object]:  # type: ignore[override]
            order.append("bare")
            return pool.map(*args, **options)  # type: ignore[arg-type]

    def run(workflow: Workflow) -> Mapping[str, Output]:
        order.append("run")
        return slow(workflow)

    cell = Cell("slow", "wait", "trivial")
    with Pool() as noting:
        settled = Granularity(cell, run, noting, SPEEDS, WORKERS, 2, lambda: order.append("settle"))
        order.clear()
        settled(0.001)
    assert order == ["bare", *["run", "settle", "bare"] * 2]


def test_long_tasks_have_fewer_rounds(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is run less often, and once at least."""
    monkeypatch.setattr("flowgauge.measure.granularity._LONG_TASKS", (0.02, 0.03))
    cell = measured(pool, "trivial")
    cell.steps = 4
    assert [len(cell(seconds)) for seconds in (0.01, 0.02, 0.03)] == [3, 2, 1]
    cell.rounds = 1
    assert len(cell(0.02)) == 1


def test_a_wrong_answer_has_no_efficiency(pool: ThreadPoolExecutor) -> None:
    """A runner that leaves work out, and so is quick, is found out."""

    def lazy(workflow: Workflow) -> Mapping[str, Output]:
        return {
            task.id: Output(task.id, 0, b"", time.time(), time.time(), "w")
            for task in workflow.tasks
        }

    cell = measured(pool, "trivial", lazy)
    with pytest.raises(WrongInputError, match="gave a wrong answer"):
        cell(0.01)


def test_a_cell_has_rows(pool: ThreadPoolExecutor) -> None:
    """Each amount of work that was tried is a row, and then METG of each target."""
    cell = measured(pool, "trivial")
    cell.steps = 6
    rows = measure_cell(cell, longest=0.1)
    *curve, half, most = rows
    assert [row.id for row in rows] == ["curve"] * len(curve) + ["metg-50", "metg-90"]
    assert {row.group for row in rows} == {"metg"}
    assert half.unit == "seconds"
    assert half.value == pytest.approx(2 * OVERHEAD, rel=0.3)
    assert half.low <= half.value <= half.high
    assert most.value > half.value
    works = [row.params["work_seconds"] for row in curve]
    assert works == sorted(works)
    assert [row.ratio is None for row in curve] == [not seconds for seconds in works]
    assert all(row.params["tasks"] >= 8 for row in curve)


def test_what_was_not_reached_is_not_never(pool: ThreadPoolExecutor) -> None:
    """Where no task was long enough, the row says how far the tasks came that were tried."""
    cell = measured(pool, "trivial")
    cell.steps = 6
    # Not half of the time: the line from there leads near enough, if chance helps.
    *_, most = measure_cell(cell, longest=OVERHEAD / 2)
    assert (most.id, most.unit) == ("metg-90", "reached")
    assert most.value == pytest.approx(1 / 3, abs=0.15)


@pytest.mark.parametrize(
    ("shape", "feature", "rows"), [("trivial", "", 1), ("tree", "", 0), ("trivial", "tags", 0)]
)
def test_the_plain_cell_of_a_runner_tells_its_noise(
    pool: ThreadPoolExecutor, shape: str, feature: str, rows: int
) -> None:
    """Tasks without work are timed beside themselves, once for each runner."""
    cell = Cell("bare", "native", shape, feature)
    run = lambda graph: run_on_pool(graph, pool, SPEEDS)  # noqa: E731
    found = measure_cell(
        Granularity(cell, run, pool, SPEEDS, WORKERS, 3, lambda: None), longest=0.01
    )
    noise = [row for row in found if row.group == "noise"]
    assert len(noise) == rows
    for row in noise:
        assert (row.params, row.runner, row.rounds) == ({"of": "metg"}, "bare", 3)
        assert row.ratio is not None
        (idle,) = (each for each in found if each.params.get("work_seconds") == 0)
        assert 0.1 < row.value / idle.value < 10
