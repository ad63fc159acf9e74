# SPDX-License-Identifier: Apache-2.0
"""Measures the error of predictions, on workflows that the costs were not fitted to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from flowgauge.measure.pairs import Rounds, WrongAnswerError, row
from flowgauge.predict.advice import WORTH, best_of, workflow_forecast
from flowgauge.predict.errors import IDEAL, PREDICTED
from flowgauge.predict.fitting import fit
from flowgauge.predict.observations import Observation, at_pace
from flowgauge.predict.prediction import Predictor
from flowgauge.predict.simulation import Machine
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit
from flowgauge.workflows.kernels import Speeds, expected, work
from flowgauge.workflows.work_items import RunWorkflow, check_results
from flowgauge.workflows.workflow import Workflow

PACE_SECONDS = 0.05
"""The work that each process of the bare pool does when the load of the machine is measured."""
MEASURED = "what was measured"
HOLDS = "measured makespans in the 95 % interval"
ADVISED = "advised runner within a tenth of the best"


@dataclass(frozen=True)
class Timed:
    """The timed rounds of one workflow.

    Attributes:
        workflow: The workflow that was run.
        seconds: The seconds of each round.
        paces: The seconds of work, of the workflow's kernel, that each process of a bare pool did
            in a second, just before and after each round.
    """

    workflow: Workflow
    seconds: tuple[float, ...]
    paces: tuple[float, ...]

    def observed(self, machine: Machine) -> list[Observation]:
        """Return each round as an observation to fit, at the load that was measured around it."""
        return [
            Observation(workflow, seconds, 0.0, loaded)
            for seconds, pace in zip(self.seconds, self.paces, strict=True)
            for workflow, loaded in [at_pace(self.workflow, machine, pace)]
        ]


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
        for index, workflow in enumerate(workflows):
            before = _pace(workflow, pool, speeds, workers)
            start = time.perf_counter()
            outputs = run(workflow)
            seconds[index].append(time.perf_counter() - start)
            check_results(workflow, speeds, outputs)
            after = _pace(workflow, pool, speeds, workers)
            paces[index].append(statistics.harmonic_mean([before, after]))
    return [
        Timed(workflow, tuple(times), tuple(rates))
        for workflow, times, rates in zip(workflows, seconds, paces, strict=True)
    ]


@dataclass(frozen=True)
class HeldOut:
    """The predictions of workflows, from costs that were fitted to others.

    Attributes:
        predictor: That of the task runner that all ran on.
        rounds: The timed rounds of the workflows that are predicted.
    """

    predictor: Predictor
    rounds: tuple[Timed, ...]

    @classmethod
    def of(
        cls, runner: str, fitted: Sequence[Timed], held_out: Sequence[Timed], machine: Machine
    ) -> HeldOut:
        """Fit costs to some workflows, to predict others.

        Args:
            runner: The task runner that all ran on.
            fitted: The workflows that the costs are fitted to.
            held_out: The workflows to predict.
            machine: The machine that they ran on, without its load.

        Returns:
            The predictions.
        """
        observed = [round for timed in fitted for round in timed.observed(machine)]
        predictor = fit(runner, observed, machine)
        return cls(predictor, tuple(held_out))

    def rows(self) -> Iterator[Row]:
        """Yield the measured makespans with predicted over measured, and how many intervals hold.

        Each round is predicted with the load measured around it.

        Yields:
            Two rows for each workflow, and one for all.
        """
        held = []
        for timed in self.rounds:
            predicted, ideals = [], []
            for seconds, pace in zip(timed.seconds, timed.paces, strict=True):
                workflow, predictor = self._at(timed, pace)
                makespan = predictor.interval(workflow)
                predicted.append(makespan.median)
                ideals.append(predictor.ideal(workflow))
                held.append(makespan.low <= seconds <= makespan.high)
            both = compared(predicted, timed.seconds, self._labels(timed))
            yield both
            value = Interval.exact(statistics.median(ideals))
            yield replace(both, figure=IDEAL, value=value, rounds=0, reference=None, ratio=None)
        yield _share(HOLDS, statistics.fmean(held), len(held), self.predictor.runner)

    def now(self, number: int) -> tuple[Workflow, Predictor]:
        """Return one of the workflows, and the predictor at the load that it ran with."""
        timed = self.rounds[number]
        return self._at(timed, statistics.median(timed.paces))

    def _at(self, timed: Timed, pace: float) -> tuple[Workflow, Predictor]:
        workflow, machine = at_pace(timed.workflow, self.predictor.machine, pace)
        return workflow, self.predictor.on(machine)

    def _labels(self, timed: Timed) -> dict[str, Any]:
        kernel = timed.workflow.tasks[0].kernel
        workers = self.predictor.machine.workers
        return {
            "id": timed.workflow.name,
            "group": Group.PREDICTION,
            "runner": self.predictor.runner,
            "figure": PREDICTED,
            "params": {"tasks": len(timed.workflow.tasks), "workers": workers, "kernel": kernel},
        }


def compared(predicted: Sequence[float], measured: Sequence[float], labels: dict[str, Any]) -> Row:
    """Return a row with what was measured, and what was predicted relative to it.

    Args:
        predicted: The predicted seconds of each round.
        measured: The measured ones.
        labels: `id`, `group`, `runner`, `params` and `figure` of the row.

    Returns:
        The row, whose value is the measured one.
    """
    times = row(Rounds(tuple(measured), ()), per=1, reference=None, **labels)
    ratio = row(Rounds(tuple(predicted), tuple(measured)), per=1, reference=None, **labels).ratio
    return replace(times, reference=MEASURED, ratio=ratio)


def advice_row(all_held_out: Sequence[HeldOut]) -> Row:
    """Return how often the advised task runner was about the best.

    Args:
        all_held_out: The same workflows on each task runner.

    Returns:
        A row with the share of the workflows whose makespan on the advised task runner was at most
        a tenth above that on the best.
    """
    count = len(all_held_out[0].rounds)
    good = []
    for number in range(count):
        chances = [each.now(number) for each in all_held_out]
        forecasts = (workflow_forecast(workflow, predictor) for workflow, predictor in chances)
        advised = best_of(forecasts).advised
        measured = {
            each.predictor.runner: statistics.median(each.rounds[number].seconds)
            for each in all_held_out
        }
        best = min(measured.values())
        good.append(advised is not None and measured[advised.runner] <= best * (1 + WORTH))
    return _share(ADVISED, statistics.fmean(good), count, None)


def _share(id: str, share: float, rounds: int, runner: str | None) -> Row:
    return Row(
        id=id,
        group=Group.PREDICTION,
        runner=runner,
        params={},
        figure="share of those predicted",
        unit=Unit.SHARE,
        value=Interval.exact(share),
        rounds=rounds,
    )


def _pace(workflow: Workflow, pool: Executor, speeds: Speeds, workers: int) -> float:
    """Return the seconds of work that each process does in a second while all of them compute."""
    kernel = workflow.tasks[0].kernel
    kernel = "native" if kernel == "wait" else kernel
    iterations = speeds.iterations(kernel, PACE_SECONDS)
    start = time.perf_counter()
    answers = list(pool.map(work, [kernel] * workers, [iterations] * workers))
    seconds = time.perf_counter() - start
    if answers != [expected(kernel, iterations)] * workers:
        raise WrongAnswerError("the bare pool gave a wrong answer")
    return PACE_SECONDS / seconds
