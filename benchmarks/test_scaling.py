# SPDX-License-Identifier: Apache-2.0
"""How the cost of a task changes with more tasks, larger results and more workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prefect.task_runners import TaskRunner

from flowgauge.measure.budget import Budget
from flowgauge.measure.pairs import Rounds, noise_of
from flowgauge.measure.scaling import runner_of_width, seconds_of_rounds
from flowgauge.plugin.paired import Paired
from flowgauge.plugin.session import measures
from flowgauge.results.rows import Group
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import COMMON, RUNNERS, STOCK, BaselineKind
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import payload_chain, shape

TASKS = (10, 100, 1000)
FEW_TASKS = (1, 2)
BYTES = (0, 10**7, 10**8)
FEW_BYTES = (0, 10**3)
LONGEST = 60.0
"""The longest that a round may be expected to take, in seconds; a longer one is not run."""
ROUNDS = 6
"""The rounds with a number of workers, each relative to one of those with one worker, and the
rounds of a noise row."""
RESULTS = 4
"""The number of results that are passed from task to task."""
PER_WORKER = 4
TASK_SECONDS = 0.25
common = pytest.mark.runners(*COMMON)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Measure only in a full run, because it takes minutes; use small sizes if nothing is timed."""
    full = metafunc.config.getoption("flow_full")
    timed = measures(metafunc.config)
    sizes: dict[str, list[Any]] = {
        "numbers": [TASKS if timed else FEW_TASKS],
        "payloads": [BYTES if timed else FEW_BYTES],
        "kind": ["strong", "weak"],
    }
    for name in metafunc.fixturenames:
        if name in sizes:
            values = sizes[name] if full or not timed else []
            metafunc.parametrize(
                name, values, ids=lambda size: size if isinstance(size, str) else "all"
            )


class Scaling:
    """Measures how a figure grows on a task runner."""

    def __init__(self, paired: Paired, runner: str, speeds: Speeds) -> None:
        self.paired, self.runner, self.speeds = paired, runner, speeds
        paired.benchmark.group = Group.SCALING
        paired.benchmark.pedantic(lambda: None)

    def rounds(self, number: int) -> Budget:
        """Return the budget of a fixed number of rounds; a single one if nothing is timed."""
        return replace(self.paired.budget(number), max_time=0.0)

    def keep(
        self, seconds: tuple[float, ...], of_one: tuple[float, ...] = (), **labels: Any
    ) -> None:
        """Add a row to the results, relative to the rounds of one worker if there are any."""
        reference = "one worker" if of_one else None
        self.paired.keep(
            Rounds(seconds, of_one),
            group=Group.SCALING,
            runner=self.runner,
            reference=reference,
            **labels,
        )

    def keep_noise(self, twice: tuple[float, ...], **labels: Any) -> None:
        """Add the A/A row: every second round relative to the one before it."""
        times = Rounds(twice[1::2], twice[::2])
        self.paired.keep(times, id="tasks", runner=self.runner, **noise_of(Group.SCALING), **labels)


@pytest.fixture
def scaling(paired: Paired, runner_name: str, speeds: Speeds) -> Scaling:
    """Return what measures scaling on a task runner."""
    return Scaling(paired, runner_name, speeds)


@common
def test_tasks(scaling: Scaling, task_runner: TaskRunner[Any], numbers: tuple[int, ...]) -> None:
    """The cost of a task among ten, and among thousands."""
    for number in numbers:
        workflow = shape("trivial", number, 1)
        if number == numbers[0]:
            in_pairs = scaling.rounds(2 * ROUNDS)
            twice = seconds_of_rounds(task_runner, workflow, scaling.speeds, in_pairs)
            scaling.keep_noise(twice, per=number, figure="time per task run")
        budget = scaling.paired.budget(1)
        seconds = seconds_of_rounds(task_runner, workflow, scaling.speeds, budget)
        scaling.keep(
            seconds, per=number, id="tasks", figure="time per task run", params={"tasks": number}
        )
        if 10 * min(seconds) > LONGEST:
            break


@common
def test_payload(scaling: Scaling, task_runner: TaskRunner[Any], payloads: tuple[int, ...]) -> None:
    """The cost of passing large results from task to task."""
    for size in payloads:
        workflow = payload_chain(size, RESULTS + 1)
        budget = scaling.paired.budget(1)
        seconds = seconds_of_rounds(task_runner, workflow, scaling.speeds, budget)
        scaling.keep(
            seconds,
            per=RESULTS,
            id="payload",
            figure="time per result that is handed on",
            params={"payload_bytes": size, "tasks": RESULTS + 1},
        )
        if 10 * min(seconds) > LONGEST:
            break


@pytest.mark.runners(*STOCK)
def test_workers(scaling: Scaling, started_runners: StartedRunners, kind: str) -> None:
    """Strong and weak scaling: the same total work, and the same work for each worker."""
    if started_runners.borrows(scaling.runner):
        pytest.skip("--flow-dask-address: the number of workers of that cluster is fixed")
    if RUNNERS[scaling.runner].baseline is BaselineKind.RAY:
        pytest.skip("a process has one Ray, which keeps the number of workers it has")
    work_seconds = 0.01 if scaling.paired.benchmark.disabled else TASK_SECONDS
    of_one: tuple[float, ...] = ()
    most = started_runners.workers
    for workers in sorted({1, *(2**n for n in range(most.bit_length()) if 2**n < most), most}):
        number = PER_WORKER * (most if kind == "strong" else workers)
        workflow = shape("trivial", number, 1, seconds=work_seconds, kernel="native")
        with runner_of_width(started_runners, scaling.runner, workers) as task_runner:
            rounds = scaling.rounds(ROUNDS)
            seconds = seconds_of_rounds(task_runner, workflow, scaling.speeds, rounds)
        of_one = of_one or seconds
        scaling.keep(
            seconds,
            of_one=of_one,
            id=kind,
            figure="makespan of the same work" if kind == "strong" else "makespan of as much each",
            params={"workers": workers, "tasks": number, "work_seconds": work_seconds},
        )
