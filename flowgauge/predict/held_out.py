# SPDX-License-Identifier: Apache-2.0
"""Measures the error of predictions, on workflows that the costs were not fitted to."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from flowgauge.measure.pairs import Rounds, WrongAnswerError, row
from flowgauge.predict.observations import Observation
from flowgauge.predict.prediction import Predictor, fit
from flowgauge.predict.simulation import Machine
from flowgauge.results.rows import Group, Row
from flowgauge.workflows.kernels import Speeds, expected, work
from flowgauge.workflows.work_items import RunWorkflow, check_results
from flowgauge.workflows.workflow import Workflow

PACE_SECONDS = 0.05
"""The work that each process of the bare pool does when the load of the machine is measured."""
MEASURED = "what was measured"


@dataclass(frozen=True)
class Timed:
    """The timed rounds of one workflow.

    Attributes:
        workflow: The workflow that was run.
        seconds: The seconds of each round.
        paces: The seconds of work that each process of a bare pool did in a second, just before
            and after each round.
    """

    workflow: Workflow
    seconds: tuple[float, ...]
    paces: tuple[float, ...]

    def observed(self, machine: Machine) -> Observation:
        """Return the rounds as one observation to fit."""
        logs = [math.log(seconds) for seconds in self.seconds]
        error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
        pace = statistics.median(self.paces)
        loaded = machine.at_pace(pace)
        return Observation(self.workflow, statistics.median(self.seconds), error, loaded)


def time_workflows(
    workflows: Sequence[Workflow],
    run: RunWorkflow,
    pool: Executor,
    speeds: Speeds,
    workers: int,
    rounds: int,
) -> list[Timed]:
    """Time workflows in turn, round by round, and measure the machine's load around each.

    Args:
        workflows: The workflows to run.
        run: Runs one on workers that are up.
        pool: A bare pool of as many processes as there are workers.
        speeds: The iterations of each kernel in a second.
        workers: How many tasks run at once.
        rounds: How often each is run.

    Returns:
        The timed rounds of each workflow.

    Raises:
        WrongInputError: If a task received or returned something wrong.
        WrongAnswerError: If a task of the bare pool returned something wrong.
    """
    seconds: list[list[float]] = [[] for _ in workflows]
    paces: list[list[float]] = [[] for _ in workflows]
    for _ in range(rounds):
        before = _pace(pool, speeds, workers)
        for index, workflow in enumerate(workflows):
            start = time.perf_counter()
            outputs = run(workflow)
            seconds[index].append(time.perf_counter() - start)
            check_results(workflow, speeds, outputs)
            after = _pace(pool, speeds, workers)
            paces[index].append(statistics.harmonic_mean([before, after]))
            before = after
    return [
        Timed(workflow, tuple(times), tuple(rates))
        for workflow, times, rates in zip(workflows, seconds, paces, strict=True)
    ]


def prediction_rows(
    runner: str, fitted: Sequence[Timed], held_out: Sequence[Timed], machine: Machine
) -> list[Row]:
    """Predict workflows from others, each round with the load measured around it.

    Args:
        runner: The task runner that all ran on.
        fitted: The workflows that the costs are fitted to.
        held_out: The workflows to predict.
        machine: The machine that they ran on, without its load.

    Returns:
        A row for each workflow that was held out: its value is the measured makespan, its ratio
        the predicted makespan over the measured one.
    """
    predictor = fit(runner, [timed.observed(machine) for timed in fitted], machine)
    return [_row(predictor, timed) for timed in held_out]


def _row(predictor: Predictor, timed: Timed) -> Row:
    machine = predictor.machine
    predicted = tuple(
        predictor.on(machine.at_pace(pace)).seconds(timed.workflow) for pace in timed.paces
    )
    labels: dict[str, Any] = {
        "id": timed.workflow.name,
        "group": Group.PREDICTION,
        "runner": predictor.runner,
        "figure": "makespan, and predicted over measured",
        "params": {"tasks": len(timed.workflow.tasks), "workers": machine.workers},
    }
    measured = row(Rounds(timed.seconds, ()), per=1, reference=None, **labels)
    compared = row(Rounds(predicted, timed.seconds), per=1, reference=MEASURED, **labels)
    return replace(compared, value=measured.value, relative_iqr=measured.relative_iqr)


def _pace(pool: Executor, speeds: Speeds, workers: int) -> float:
    """Return the seconds of work that each process does in a second while all of them compute."""
    iterations = speeds.iterations("native", PACE_SECONDS)
    start = time.perf_counter()
    answers = list(pool.map(work, ["native"] * workers, [iterations] * workers))
    seconds = time.perf_counter() - start
    if answers != [expected("native", iterations)] * workers:
        raise WrongAnswerError("the bare pool gave a wrong answer")
    return min(PACE_SECONDS / seconds, 1.0)
