# SPDX-License-Identifier: Apache-2.0
"""Measures what share of the workers' time goes into the work, for tasks of a given length."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from flowgauge.measure.intervals import median_interval
from flowgauge.measure.load import wait_until_quiet
from flowgauge.measure.metg import TARGETS, Metg, Sample, measure_curve, metg
from flowgauge.measure.pairs import Rounds, WrongAnswerError, noise_of, row
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Outcome, Row, Unit
from flowgauge.workflows.kernels import Speeds, expected, work
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.work_items import RunWorkflow, check_results
from flowgauge.workflows.workflow import Kernel, Workflow

BARE = "bare process pool"
"""What each run is measured beside: it uses every core, and is told of all its work at once."""
_FIGURE = "wall time x workers / tasks"
_RUN_SECONDS = 0.3
_LONG_RUN_SECONDS = 0.8
_BARE_SECONDS = 0.25
"""Seconds after which the bare pool is timed well enough."""
_LONG_TASKS = (0.1, 0.5)
"""Seconds from each of which on there is a round less: noise, which is short, matters little."""
_MIN_STEPS, _MAX_STEPS = 4, 16


@dataclass(frozen=True)
class MetgCase:
    """What METG is measured for.

    Attributes:
        runner: A task runner, or a baseline.
        kernel: The work.
        shape: How the tasks depend on each other.
        feature: What of Prefect its tasks use on top; empty for nothing.
        output_bytes: The size of each task's result.
    """

    runner: str
    kernel: Kernel
    shape: str
    feature: str = ""
    output_bytes: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """Return what tells its rows from those of other cells."""
        feature = {"feature": self.feature} if self.feature else {}
        return {"kernel": self.kernel, "shape": self.shape, **feature}

    def workflow(self, width: int, steps: int, seconds: float) -> Workflow:
        """Return its workflow, of tasks of some seconds of work."""
        return shape(
            self.shape,
            width,
            steps,
            seconds=seconds,
            kernel=self.kernel,
            output_bytes=self.output_bytes,
        )


@dataclass
class Granularity:
    """Runs a cell's workflow for any amount of work, each time beside a bare pool.

    Attributes:
        cell: What is measured.
        run: Runs a workflow.
        pool: The bare pool, of as many processes.
        speeds: How much work a second is.
        workers: How many tasks run at once.
        rounds: How often each amount of work is run.
        clock: What times the runs, in seconds.
        settle: Called after each run, before anything else is timed.
        steps: How many tasks each worker does in a run at most: more where they are quick.
    """

    cell: MetgCase
    run: RunWorkflow
    pool: Executor
    speeds: Speeds
    workers: int
    rounds: int
    clock: Callable[[], float] = time.perf_counter
    settle: Callable[[], object] = wait_until_quiet
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        """Find out how many tasks make a run that is long enough to be timed."""
        self.steps = _MIN_STEPS
        # The first run also pays for what is imported by the first task.
        seconds = [self._seconds(self.cell.workflow(self.workers, self.steps, 0.0)) for _ in "12"]
        steps = _RUN_SECONDS * self.steps / max(seconds[-1], 1e-6)
        self.steps = round(min(max(steps, _MIN_STEPS), _MAX_STEPS))

    def __call__(self, seconds: float) -> list[Sample]:
        """Run tasks of so many seconds of work.

        Args:
            seconds: The work of one task, for one worker alone.

        Returns:
            One sample for each round; the bare pool is timed before and after each of them, with
            no more tasks than it takes to tell its pace.

        Raises:
            WrongInputError: If a task was given, or gave, something wrong.
            WrongAnswerError: If the bare pool was.
        """
        workflow = self.workflow(seconds)
        bare = [self._bare_step_seconds(workflow)]
        samples = []
        fewer = sum(seconds >= long for long in _LONG_TASKS)
        for _ in range(max(self.rounds - fewer, 1)):
            wall = self._seconds(workflow)
            bare.append(self._bare_step_seconds(workflow))
            samples.append(self._sample(workflow, wall, statistics.fmean(bare[-2:])))
        return samples

    def workflow(self, seconds: float) -> Workflow:
        """Return what is run: fewer tasks where they are so long that few tell as much."""
        fitting = round(_LONG_RUN_SECONDS / seconds) if seconds else self.steps
        return self.cell.workflow(self.workers, max(min(self.steps, fitting), _MIN_STEPS), seconds)

    def _sample(self, workflow: Workflow, wall: float, one: float) -> Sample:
        tasks, per_task = len(workflow.tasks), self.workers / len(workflow.tasks)
        # Where the shape leaves workers idle, no scheduler can do better.
        at_best = workflow.lower_bound(self.workers) * tasks / (workflow.total_work or 1.0)
        return Sample(wall * per_task, at_best * one * per_task, len(workflow.critical_path))

    def _seconds(self, workflow: Workflow) -> float:
        start = self.clock()
        outputs = self.run(workflow)
        seconds = self.clock() - start
        check_results(workflow, self.speeds, outputs)
        self.settle()
        return seconds

    def _bare_step_seconds(self, workflow: Workflow) -> float:
        """Time what one task for each worker takes on the bare pool, each told its share at once.

        The pool does not heed edges, and does no more steps than the workflow has.
        """
        seconds = workflow.tasks[0].seconds
        if not seconds:
            return 0.0
        steps = min(
            math.ceil(len(workflow.tasks) / self.workers), math.ceil(_BARE_SECONDS / seconds)
        )
        kernel = self.cell.kernel
        iterations = self.speeds.iterations(kernel, seconds)
        given = [iterations] * (steps * self.workers)
        start = self.clock()
        answers = list(self.pool.map(work, itertools.repeat(kernel), given, chunksize=steps))
        elapsed = self.clock() - start
        if answers != [expected(kernel, iterations)] * len(given):
            raise WrongAnswerError(f"the {BARE} gave a wrong answer for {self.cell}")
        return elapsed / steps


def measure_case(
    granularity: Granularity, longest: float, targets: Sequence[float] = TARGETS, probes: int = 3
) -> list[Row]:
    """Measure the METG of a cell.

    Args:
        granularity: Runs the cell.
        longest: Seconds of work in a task, more than which is not tried.
        targets: Efficiencies, in rising order.
        probes: How many amounts of work are tried for the first of them; for the others one less.

    Returns:
        A row for each amount of work that was tried, and then one for each target; first of all,
        where it is a runner's plain cell, what tasks without work cost beside themselves.
    """
    curve = measure_curve(granularity, targets, longest=longest, probes=probes)
    return [
        *_noise_rows(granularity),
        *(_curve_row(granularity, seconds, runs) for seconds, runs in sorted(curve.items())),
        *(_metg_row(granularity, metg(curve, target)) for target in targets),
    ]


def _noise_rows(measured: Granularity) -> list[Row]:
    """Time tasks without work twice in each round: of the plain cell of a runner, for all of it."""
    cell = measured.cell
    if (cell.kernel, cell.shape, cell.feature) != ("native", "trivial", ""):
        return []
    workflow = measured.workflow(0.0)
    share = measured.workers / len(workflow.tasks)
    times = [share * measured._seconds(workflow) for _ in range(2 * measured.rounds)]
    labels = noise_of(Group.METG) | {"id": "metg", "runner": cell.runner, "figure": _FIGURE}
    return [row(Rounds(tuple(times[1::2]), tuple(times[::2])), per=1, **labels)]


def _curve_row(measured: Granularity, seconds: float, runs: Sequence[Sample]) -> Row:
    value = median_interval([run.granularity for run in runs])
    ratios = [run.granularity / run.ideal for run in runs if run.ideal]
    ratio = median_interval(ratios) if ratios else None
    tasks = len(measured.workflow(seconds).tasks)
    return Row(
        id="curve",
        group=Group.METG,
        runner=measured.cell.runner,
        params=measured.cell.params
        | {"work_seconds": seconds, "tasks": tasks, "workers": measured.workers},
        figure=_FIGURE,
        unit=Unit.SECONDS,
        value=value,
        rounds=len(runs),
        reference=BARE if ratio else None,
        ratio=ratio,
    )


def _metg_row(measured: Granularity, found: Metg) -> Row:
    outcome = Outcome.FOUND
    if found.seconds is None:
        outcome = Outcome.NEVER if found.is_never else Outcome.BEYOND
    return Row(
        id=f"metg-{found.target * 100:.0f}",
        group=Group.METG,
        runner=measured.cell.runner,
        params=measured.cell.params,
        figure=f"shortest tasks that keep workers {found.target:.0%} busy",
        unit=Unit.SECONDS if outcome is Outcome.FOUND else Unit.EFFICIENCY,
        value=found.seconds or Interval.exact(found.ceiling if found.is_never else found.best),
        rounds=measured.rounds,
        outcome=outcome,
    )
