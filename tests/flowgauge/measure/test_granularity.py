# SPDX-License-Identifier: Apache-2.0
"""Efficiency is measured relative to a bare pool, with checked answers, for any task length."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from flowgauge.measure.granularity import (
    Granularity,
    ImpossibleEfficiencyError,
    MetgCase,
    measure_case,
)
from flowgauge.measure.graph_flow import run_on_pool
from flowgauge.results.rows import Outcome
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import TaskResult, WrongInputError
from flowgauge.workflows.workflow import Workflow

T = TypeVar("T")

SPEEDS = Speeds({"python": 100_000, "native": 1000})
OVERHEAD = 0.005
WORKERS = 2
HANDING = 0.05
"""The seconds that a bare pool of this machine takes to get its work."""


class Machine(Executor):
    """A machine whose clock advances by the nominal time of its work; the work is really done.

    It is the bare pool, and with an overhead for each task it is a task runner.
    """

    def __init__(self) -> None:
        self.now, self.slower = 0.0, 1.0
        self.done: list[str] = []

    def clock(self) -> float:
        """Return the time on this machine, in seconds."""
        return self.now

    def settle(self) -> None:
        """Record that the machine was given time to settle."""
        self.done.append("settle")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do what is submitted, without advancing the clock."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def map(self, fn: Callable[..., T], *given: Iterable[Any], **options: Any) -> Iterator[T]:
        """Do the work of the bare pool, in the time that all workers together need.

        To hand it to them takes time as well. The workers see how long the work itself takes,
        longer if something else slows them down.
        """
        self.done.append("bare")
        calls = list(zip(*given, strict=False))
        times = [n / SPEEDS.per_second[kernel] * self.slower for kernel, n in calls]
        self.now += sum(times) / WORKERS + HANDING
        done: list[Any] = [fn(*call) for call in calls]
        return iter([(answer, took) for (answer, _), took in zip(done, times, strict=True)])  # type: ignore[misc]

    def runner(self, overhead: float) -> Callable[[Workflow], Mapping[str, TaskResult]]:
        """Return a task runner that takes some time for each task in addition to its work."""

        def run(workflow: Workflow) -> Mapping[str, TaskResult]:
            self.done.append("run")
            longer = tuple(
                dataclasses.replace(task, seconds=task.seconds + overhead)
                for task in workflow.tasks
            )
            self.now += Workflow(workflow.name, longer).lower_bound(WORKERS)
            return run_on_pool(workflow, self, SPEEDS)

        return run

    def measured(self, cell: MetgCase, overhead: float = OVERHEAD) -> Granularity:
        """Return a measurement of a task runner on this machine."""
        run = self.runner(overhead)
        return Granularity(
            cell,
            run,
            self,
            SPEEDS,
            WORKERS,
            rounds=3,
            noise_rounds=5,
            clock=self.clock,
            settle=self.settle,
        )


@pytest.fixture
def machine() -> Machine:
    """Return a machine."""
    return Machine()


def slow(shape: str) -> MetgCase:
    """Return the case of a task runner with tasks in pure Python."""
    return MetgCase("slow", "python", shape)


@pytest.mark.parametrize("shape", ["trivial", "stencil"])
def test_efficiency_is_the_share_of_the_work(machine: Machine, shape: str) -> None:
    """Tasks as long as their overhead use half of the workers' time; longer ones use more."""
    cell = machine.measured(slow(shape))
    for times, share in ((1, 0.5), (9, 0.9)):
        for sample in cell(times * OVERHEAD):
            assert sample.efficiency == pytest.approx(share)
            assert sample.depth == {"trivial": 1, "stencil": cell.steps}[shape]
            assert sample.granularity == pytest.approx((1 + times) * OVERHEAD)


def test_a_shape_that_leaves_workers_idle_does_not_lower_efficiency(machine: Machine) -> None:
    """A tree starts with one task; efficiency is relative to the best that the shape allows."""
    cell = machine.measured(slow("tree"), overhead=0)
    assert [sample.efficiency for sample in cell(0.05)] == pytest.approx([1, 1, 1])


def test_runs_of_long_tasks_have_fewer_tasks(machine: Machine) -> None:
    """A run has fewer tasks if they take long."""
    cell = machine.measured(slow("trivial"))
    assert len(cell.workflow(0.0).tasks) == WORKERS * cell.steps
    assert cell.steps == 16
    assert [len(cell.workflow(seconds).tasks) // WORKERS for seconds in (0.01, 0.1, 10)] == [
        16,
        8,
        4,
    ]


def test_the_machine_settles_after_each_run(machine: Machine) -> None:
    """After each run the machine gets time to settle before the bare pool is timed again."""
    cell = machine.measured(slow("trivial"))
    machine.done.clear()
    cell(0.001)
    assert machine.done == ["bare", *["run", "settle", "bare"] * 3]


def test_long_tasks_have_fewer_rounds(machine: Machine) -> None:
    """Tasks that take long are run less often, but twice, without which there is no interval."""
    cell = machine.measured(slow("trivial"))
    assert [len(cell(seconds)) for seconds in (0.09, 0.1, 0.5)] == [3, 2, 2]
    cell.rounds = 1
    assert len(cell(0.5)) == 1


def test_handing_out_work_is_an_overhead(machine: Machine) -> None:
    """A pool without Prefect has overhead: efficiency is below 1 for tasks of any length."""
    cell = machine.measured(slow("trivial"), overhead=HANDING / 32)
    for seconds in (1e-5, 1e-3, 0.1):
        for sample in cell(seconds):
            assert sample.efficiency == pytest.approx(seconds / (seconds + HANDING / 32))


def test_a_bare_pool_that_was_slowed_down_is_timed_again(machine: Machine) -> None:
    """If workers seem more than fully busy, there are other, more rounds."""
    cell = machine.measured(slow("trivial"), overhead=0.0)
    run, left = cell.run, 3

    def disturbed(workflow: Workflow) -> Mapping[str, TaskResult]:
        nonlocal left
        left -= 1
        machine.slower = 2.0 if left > 0 else 1.0
        return run(workflow)

    cell.run = disturbed
    samples = cell(0.01)
    assert [sample.efficiency for sample in samples] == pytest.approx([1.0] * 6)


def test_more_than_full_efficiency_is_an_error(machine: Machine) -> None:
    """If workers still seem more than fully busy, that is no figure: one line says why."""
    cell = machine.measured(slow("trivial"), overhead=0.0)
    machine.slower = 1.25
    with pytest.raises(
        ImpossibleEfficiencyError,
        match=r"^slow: workers seem 125% busy with tasks of 0.01 s: the bare process pool was",
    ):
        cell(0.01)


def test_work_is_a_number_of_iterations(machine: Machine) -> None:
    """Tasks as short as an iteration are tried, and rows say how much work they really do."""
    cell = machine.measured(slow("trivial"), overhead=1e-6)
    *curve, _, _ = measure_case(cell, longest=0.1)
    works = {row.params["work_seconds"] for row in curve} - {0.0}
    assert min(works) == pytest.approx(1e-5), "one of 100,000 in a second"
    assert all(work * 1e5 == pytest.approx(round(work * 1e5)) for work in works)


def test_a_wrong_answer_is_detected(machine: Machine) -> None:
    """A task runner that is fast because it skips work is detected."""

    def lazy(workflow: Workflow) -> Mapping[str, TaskResult]:
        return {
            task.id: TaskResult(task.id, 0, b"", time.time(), time.time(), "w")
            for task in workflow.tasks
        }

    cell = machine.measured(slow("trivial"))
    cell.run = lazy
    with pytest.raises(WrongInputError, match="returned a wrong answer"):
        cell(0.01)


def test_a_case_has_rows(machine: Machine) -> None:
    """There is a row for each amount of work that was tried, then one for each target's METG."""
    rows = measure_case(machine.measured(slow("trivial")), longest=0.1)
    *curve, half, most = rows
    assert [row.id for row in rows] == ["curve"] * len(curve) + ["metg-50", "metg-90"]
    assert {row.group for row in rows} == {"metg"}
    assert half.unit == "seconds"
    # Interpolated between amounts of work that are whole iterations.
    assert half.value.median == pytest.approx(2 * OVERHEAD, rel=0.01)
    assert half.value.low <= half.value.median <= half.value.high
    assert most.value.median == pytest.approx(10 * OVERHEAD, rel=0.01)
    works = [row.params["work_seconds"] for row in curve]
    assert works == sorted(works)
    assert [row.ratio is None for row in curve] == [not seconds for seconds in works]
    assert all(row.params["tasks"] >= 8 for row in curve)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_case_has_its_memory(machine: Machine) -> None:
    """Each METG has the memory that a run takes and that the bare pool takes for as many tasks."""
    run = machine.runner(OVERHEAD)

    def holding(workflow: Workflow) -> Mapping[str, TaskResult]:
        return run(workflow) if len(bytearray(64 * 2**20)) else {}

    options: Any = {"clock": machine.clock, "settle": machine.settle}
    cell = Granularity(slow("trivial"), holding, machine, SPEEDS, WORKERS, rounds=1, **options)
    *_, half, most = measure_case(cell, longest=0.1)
    assert half.memory == most.memory
    assert half.memory is not None
    assert half.memory.candidate == pytest.approx(64, abs=4)
    assert half.memory.reference == pytest.approx(0, abs=4)


def test_a_target_that_was_not_reached_is_not_never(machine: Machine) -> None:
    """If no task was long enough, the row gives the efficiency that was reached."""
    *_, most = measure_case(machine.measured(slow("trivial")), longest=OVERHEAD)
    assert (most.id, most.unit) == ("metg-90", "efficiency")
    assert most.outcome is Outcome.BEYOND
    assert most.value.median == pytest.approx(0.5)
    assert most.tried == pytest.approx(2 * OVERHEAD)


@pytest.mark.parametrize(
    ("shape", "feature", "rows"), [("trivial", "", 1), ("tree", "", 0), ("trivial", "tags", 0)]
)
def test_the_plain_case_of_a_runner_measures_its_noise(
    machine: Machine, shape: str, feature: str, rows: int
) -> None:
    """Tasks without work are compared with themselves, in the plain case of a task runner only."""
    cell = MetgCase("slow", "native", shape, feature)
    found = measure_case(machine.measured(cell), longest=0.01)
    noise = [row for row in found if row.group == "noise"]
    assert len(noise) == rows
    for row in noise:
        assert (row.params, row.runner, row.rounds) == ({"of": "metg"}, "slow", 5)
        assert row.ratio is not None
        assert row.ratio.median == pytest.approx(1)
        (idle,) = (each for each in found if each.params.get("work_seconds") == 0)
        assert row.value.median == pytest.approx(idle.value.median)


def test_real_time_is_measured() -> None:
    """On a real thread pool, timed by the real clock, the times of all samples are positive."""
    with ThreadPoolExecutor(WORKERS) as pool:
        run = functools.partial(run_on_pool, pool=pool, speeds=SPEEDS)
        cell = Granularity(slow("stencil"), run, pool, SPEEDS, WORKERS, rounds=2)
        samples = cell(0.005)
    assert len(samples) == 2
    assert all(sample.granularity > 0 and sample.ideal > 0 for sample in samples)
