# SPDX-License-Identifier: Apache-2.0
"""Measures the share of the workers' time that goes into the work, for tasks of a given length.

From these shares `flowgauge.measure.metg` reads the minimum effective task granularity (METG).
"""

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
from flowgauge.measure.memory import memory_of
from flowgauge.measure.metg import TARGETS, Metg, Sample, measure_curve, metg
from flowgauge.measure.pairs import Rounds, WrongAnswerError, noise_of, row
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Memory, Outcome, Row, Unit
from flowgauge.workflows.kernels import Speeds, expected, timed_work
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.work_items import RunWorkflow, check_results
from flowgauge.workflows.workflow import Kernel, Workflow

BARE = "bare process pool"
"""The reference of each run: a pool that uses every core, whose workers time the work itself."""
_FIGURE = "wall time x workers / tasks"
_RUN_SECONDS = 0.3
"""How long a run of tasks without work should take, for the number of steps."""
_LONG_RUN_SECONDS = 0.8
"""How much work each worker does in a run of long tasks, for the number of steps."""
_BARE_SECONDS = 0.12
"""Seconds of work on each worker after which the bare pool is timed precisely enough."""
_LONG_TASK, _ROUNDS_OF_LONG_TASKS = 0.1, 2
"""Tasks of at least this length (seconds) get only so many rounds: short disturbances barely affect
them."""
_AGAIN = 3
"""How many rounds more there are where the bare pool seems slower than the task runner."""
_MIN_STEPS, _MAX_STEPS = 4, 16
"""The fewest and the most tasks that each worker does in a run."""


class ImpossibleEfficiencyError(AssertionError):
    """Workers seem to have done more than they can, so the bare pool's time means nothing."""


@dataclass(frozen=True)
class MetgCase:
    """One combination that the METG is measured for.

    Attributes:
        runner: The name of a task runner or a baseline.
        kernel: The work that each task does.
        shape: The shape of the task graph.
        feature: The feature of Prefect that its tasks use; empty for none.
        output_bytes: The size of each task's result.
    """

    runner: str
    kernel: Kernel
    shape: str
    feature: str = ""
    output_bytes: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """Return the parameters that distinguish its rows from those of other cases."""
        feature = {"feature": self.feature} if self.feature else {}
        return {"kernel": self.kernel, "shape": self.shape, **feature}

    def workflow(self, width: int, steps: int, seconds: float) -> Workflow:
        """Return the workflow of this case whose tasks each do some seconds of work."""
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
    """Runs a case's workflow with any amount of work, paired each time with a bare pool.

    Attributes:
        case: What is measured.
        run: Runs a workflow.
        pool: The bare pool, with the same number of workers, as processes.
        speeds: The iterations of each kernel in a second.
        workers: How many tasks run at once.
        rounds: How often each amount of work is run.
        noise_rounds: How often tasks without work are compared with themselves.
        clock: Returns the time in seconds.
        settle: Called after each run, before anything else is timed.
        steps: The most tasks that each worker does in a run; more where tasks are quick.
        memory: The memory that the first run takes, whose tasks have no work, and that the bare
            pool takes for as many.
    """

    case: MetgCase
    run: RunWorkflow
    pool: Executor
    speeds: Speeds
    workers: int
    rounds: int
    noise_rounds: int = 1
    clock: Callable[[], float] = time.perf_counter
    settle: Callable[[], object] = wait_until_quiet
    steps: int = field(init=False)
    memory: Memory | None = field(init=False)

    def __post_init__(self) -> None:
        """Choose the number of steps so that a run is long enough to be timed."""
        self.steps = _MIN_STEPS
        # Two runs: the first also pays for what its first task imports.
        workflow = self.case.workflow(self.workers, self.steps, 0.0)
        self.memory = memory_of(
            lambda: self._seconds(workflow), lambda: self._on_bare_pool(self.steps, 0)
        )
        steps = _RUN_SECONDS * self.steps / max(self._seconds(workflow), 1e-6)
        self.steps = round(min(max(steps, _MIN_STEPS), _MAX_STEPS))

    def __call__(self, seconds: float) -> list[Sample]:
        """Run tasks with a given amount of work.

        Args:
            seconds: The work of one task: what it takes on an otherwise idle machine.

        Returns:
            One sample for each round; the bare pool is timed before and after each of them, with
            only as many tasks as its pace can be measured with.

        Raises:
            WrongInputError: If a task received or returned something wrong.
            WrongAnswerError: If a task of the bare pool returned something wrong.
            ImpossibleEfficiencyError: If the workers seem to do more than they can, again and
                again: something slows down the bare pool only.
        """
        most = _ROUNDS_OF_LONG_TASKS if seconds >= _LONG_TASK else self.rounds
        samples = self._samples(seconds, min(self.rounds, most))
        if _is_impossible(samples):
            # Something else used the processors just when the bare pool did.
            samples = self._samples(seconds, self.rounds + _AGAIN)
        if _is_impossible(samples):
            share = statistics.median(sample.efficiency for sample in samples)
            raise ImpossibleEfficiencyError(
                f"{self.case.runner}: workers seem {share:.0%} busy with tasks of {seconds:.3g} s:"
                f" the {BARE} was slowed down by something else; measure again on a quiet machine"
            )
        return samples

    def _samples(self, seconds: float, rounds: int) -> list[Sample]:
        workflow = self.workflow(seconds)
        bare = [self._bare_seconds(workflow)]
        samples = []
        for _ in range(rounds):
            wall = self._seconds(workflow)
            bare.append(self._bare_seconds(workflow))
            samples.append(self._sample(workflow, wall, statistics.fmean(bare[-2:])))
        return samples

    def rounded(self, seconds: float) -> float:
        """Return the amount of work nearest to a given one that is a number of iterations."""
        kernel = self.case.kernel
        return self.speeds.seconds(kernel, self.speeds.iterations(kernel, seconds))

    def workflow(self, seconds: float) -> Workflow:
        """Return the workflow to run; of long tasks it has fewer, which measure them as well."""
        fitting = round(_LONG_RUN_SECONDS / seconds) if seconds else self.steps
        return self.case.workflow(self.workers, max(min(self.steps, fitting), _MIN_STEPS), seconds)

    def _sample(self, workflow: Workflow, wall: float, one: float) -> Sample:
        tasks, per_task = len(workflow.tasks), self.workers / len(workflow.tasks)
        # The lower bound takes into account that the shape may leave workers idle.
        fewest_steps = workflow.lower_bound(self.workers) * tasks / (workflow.total_work or 1.0)
        return Sample(wall * per_task, fewest_steps * one * per_task, len(workflow.critical_path))

    def _seconds(self, workflow: Workflow) -> float:
        start = self.clock()
        outputs = self.run(workflow)
        seconds = self.clock() - start
        check_results(workflow, self.speeds, outputs)
        self.settle()
        return seconds

    def _bare_seconds(self, workflow: Workflow) -> float:
        """Return the seconds that the work of one task takes on the bare pool, all of it busy.

        Each worker gets its share of the tasks at once. The pool ignores the edges, and does at
        most as many steps as the workflow has. The workers time each piece of work: what it takes
        to hand it to them is an overhead, which even this pool has.
        """
        seconds = workflow.tasks[0].seconds
        if not seconds:
            return 0.0
        steps = min(
            math.ceil(len(workflow.tasks) / self.workers), math.ceil(_BARE_SECONDS / seconds)
        )
        iterations = self.speeds.iterations(self.case.kernel, seconds)
        return statistics.median(self._on_bare_pool(steps, iterations))

    def _on_bare_pool(self, steps: int, iterations: int) -> list[float]:
        """Let each worker of the bare pool do a number of tasks; return the seconds of each."""
        kernel, work_items = self.case.kernel, [iterations] * (steps * self.workers)
        done = list(
            self.pool.map(timed_work, itertools.repeat(kernel), work_items, chunksize=steps)
        )
        right = expected(kernel, iterations)
        if any(answer != right for answer, _ in done):
            raise WrongAnswerError(f"the {BARE} gave a wrong answer for {self.case}")
        return [seconds for _, seconds in done]


def _is_impossible(samples: Sequence[Sample]) -> bool:
    """Return whether efficiencies are above 1 by more than their interval."""
    efficiencies = [sample.efficiency for sample in samples]
    return bool(samples[0].ideal) and median_interval(efficiencies).low > 1


def measure_case(
    granularity: Granularity, longest: float, targets: Sequence[float] = TARGETS, probes: int = 3
) -> list[Row]:
    """Measure the METG of a case.

    Args:
        granularity: Runs the case.
        longest: The most work to try in one task, in seconds.
        targets: Efficiencies, in rising order.
        probes: How many amounts of work are tried for the first target; one fewer for the others.

    Returns:
        A row for each amount of work that was tried, then one for each target. Before them, if it
        is the plain case of a task runner, its A/A row: tasks without work relative to themselves.
    """
    curve = measure_curve(
        granularity, targets, longest=longest, probes=probes, rounded=granularity.rounded
    )
    return [
        *_noise_rows(granularity),
        *(_curve_row(granularity, seconds, runs) for seconds, runs in sorted(curve.items())),
        *(_metg_row(granularity, metg(curve, target)) for target in targets),
    ]


def _noise_rows(measured: Granularity) -> list[Row]:
    """Return the A/A row of a task runner, from its plain case; none for other cases.

    Tasks without work are timed twice in each round.
    """
    case = measured.case
    if (case.kernel, case.shape, case.feature) != ("native", "trivial", ""):
        return []
    workflow = measured.workflow(0.0)
    share = measured.workers / len(workflow.tasks)
    times = [share * measured._seconds(workflow) for _ in range(2 * measured.noise_rounds)]
    labels = noise_of(Group.METG) | {"id": "metg", "runner": case.runner, "figure": _FIGURE}
    return [row(Rounds(tuple(times[1::2]), tuple(times[::2])), per=1, **labels)]


def _curve_row(measured: Granularity, seconds: float, runs: Sequence[Sample]) -> Row:
    value = median_interval([run.granularity for run in runs])
    ratios = [run.granularity / run.ideal for run in runs if run.ideal]
    ratio = median_interval(ratios) if ratios else None
    tasks = len(measured.workflow(seconds).tasks)
    return Row(
        id="curve",
        group=Group.METG,
        runner=measured.case.runner,
        params=measured.case.params
        | {"work_seconds": seconds, "tasks": tasks, "workers": measured.workers},
        figure=_FIGURE,
        unit=Unit.SECONDS,
        value=value,
        rounds=len(runs),
        reference=BARE if ratio else None,
        ratio=ratio,
    )


def _metg_row(measured: Granularity, read: Metg) -> Row:
    outcome = Outcome.FOUND
    if read.seconds is None:
        outcome = Outcome.NEVER if read.is_never else Outcome.BEYOND
    return Row(
        id=f"metg-{read.target * 100:.0f}",
        group=Group.METG,
        runner=measured.case.runner,
        params=measured.case.params,
        figure=f"shortest tasks that keep workers {read.target:.0%} busy",
        unit=Unit.SECONDS if outcome is Outcome.FOUND else Unit.EFFICIENCY,
        value=read.seconds or Interval.exact(read.ceiling if read.is_never else read.best),
        rounds=measured.rounds,
        outcome=outcome,
        tried=read.longest if outcome is Outcome.BEYOND else None,
        memory=measured.memory,
    )
