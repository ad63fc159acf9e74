# SPDX-License-Identifier: Apache-2.0
"""Advises on the task runner, on how many calls to put in a task run, and up to which length.

In a batch one task run does several calls of the mapped function, one after the other.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flowgauge.predict.prediction import Predictor
from flowgauge.results.interval import Interval
from flowgauge.workflows.workflow import Kernel, Task, Workflow

WORTH = 0.1
"""The share of the makespan that a change, of the task runner or to batches, must save."""
_MOST_TASKS = 256
"""The most tasks to simulate, unless that leaves a worker fewer than `_FEW`: beyond this number
the makespan of equal tasks is proportional to it."""
_FEW = 4
_SHORTEST, _LONGEST = 1e-4, 100.0
_STEPS = 12


@dataclass(frozen=True)
class Mapped:
    """One function mapped over many items.

    Attributes:
        seconds: The seconds of work of one call.
        tasks: The number of calls.
        kernel: The kind of work.
        payload: The bytes that each call returns.
    """

    seconds: float
    tasks: int
    kernel: Kernel
    payload: int = 0

    def sample(self, batch: int, workers: int) -> tuple[Workflow, float]:
        """Return a workflow small enough to simulate, and the factor to scale its makespan by.

        Args:
            batch: Calls in each task run.
            workers: How many tasks run at once.

        Returns:
            The workflow, and all task runs divided by those in the workflow.
        """
        runs = math.ceil(self.tasks / batch)
        simulated = min(runs, max(_MOST_TASKS, _FEW * workers))
        # The calls are distributed evenly over the task runs.
        ends = [number * self.tasks // runs for number in range(simulated + 1)]
        tasks = (self._task(number, ends[number + 1] - ends[number]) for number in range(simulated))
        return Workflow("mapped", tuple(tasks)), runs / simulated

    def _task(self, number: int, calls: int) -> Task:
        return Task(
            str(number),
            seconds=self.seconds * calls,
            kernel=self.kernel,
            output_bytes=self.payload * calls,
        )


@dataclass(frozen=True)
class Forecast:
    """The predicted times on one task runner.

    Attributes:
        runner: The name of the task runner.
        makespan: Seconds with one task run per call, or of the workflow as it is.
        batch: The fewest calls per task run that come within a tenth of the best makespan; one
            if batches are not worth it, and for a workflow.
        batched: Seconds with that batch.
        start: Seconds that a flow run takes in addition; None if that was not measured.
    """

    runner: str
    makespan: Interval
    batch: int
    batched: Interval
    start: float | None

    @property
    def total(self) -> float:
        """The seconds of the whole flow run, with batches where they are worth it."""
        return self.batched.median + (self.start or 0.0)


@dataclass(frozen=True)
class Advice:
    """The advice on a workflow or a mapped function.

    Attributes:
        forecasts: One for each task runner, the quickest first.
        tied: The other task runners with no difference seen between them and the quickest.
        batch_below: Seconds of work in a call below which batches are worth it on the quickest;
            None if they never or always are, or for a workflow.
        batch_at_half: The batch that is worth it at half of `batch_below`.
        changes: Seconds of work in a call from which on another task runner is the quickest
            without batches, and its name; the first has zero seconds.
    """

    forecasts: tuple[Forecast, ...]
    tied: tuple[str, ...]
    batch_below: float | None = None
    batch_at_half: int = 1
    changes: tuple[tuple[float, str], ...] = ()


def advise_workflow(workflow: Workflow, predictors: Iterable[Predictor]) -> Advice:
    """Advise on a workflow.

    Args:
        workflow: The workflow to run.
        predictors: One for each task runner to choose from.

    Returns:
        The advice, without batches.
    """
    forecasts = []
    for predictor in predictors:
        makespan = predictor.interval(workflow)
        forecasts.append(Forecast(predictor.runner, makespan, 1, makespan, predictor.start))
    ordered = _ordered(forecasts)
    return Advice(ordered, _tied(ordered))


def advise_mapped(mapped: Mapped, predictors: Sequence[Predictor]) -> Advice:
    """Advise on a function mapped over items.

    Args:
        mapped: The mapped function.
        predictors: One for each task runner to choose from.

    Returns:
        The advice.
    """
    ordered = _ordered(_forecast(mapped, predictor) for predictor in predictors)
    best = next(predictor for predictor in predictors if predictor.runner == ordered[0].runner)
    below = _batch_below(mapped, best)
    there = 1 if below is None else _batch(replace(mapped, seconds=below / 2), best)
    return Advice(ordered, _tied(ordered), below, there, _changes(mapped, predictors))


def _forecast(mapped: Mapped, predictor: Predictor) -> Forecast:
    batch = _batch(mapped, predictor)
    return Forecast(
        predictor.runner,
        _interval(mapped, 1, predictor),
        batch,
        _interval(mapped, batch, predictor),
        predictor.start,
    )


def _batch(mapped: Mapped, predictor: Predictor) -> int:
    """Return the fewest calls per task run whose makespan is within a tenth of the best."""
    most = math.ceil(mapped.tasks / predictor.machine.workers)
    sizes = sorted({round(math.pow(most, step / _STEPS)) for step in range(_STEPS + 1)})
    seconds = {size: _seconds(mapped, size, predictor) for size in sizes}
    enough = min(seconds.values()) / (1 - WORTH)
    return next(size for size in sizes if seconds[size] <= enough)


def _seconds(mapped: Mapped, batch: int, predictor: Predictor) -> float:
    workflow, factor = mapped.sample(batch, predictor.machine.workers)
    return predictor.seconds(workflow) * factor


def _interval(mapped: Mapped, batch: int, predictor: Predictor) -> Interval:
    workflow, factor = mapped.sample(batch, predictor.machine.workers)
    return predictor.interval(workflow).scaled(factor)


def _ordered(forecasts: Iterable[Forecast]) -> tuple[Forecast, ...]:
    return tuple(sorted(forecasts, key=lambda forecast: forecast.total))


def _tied(ordered: Sequence[Forecast]) -> tuple[str, ...]:
    """Return the task runners whose interval overlaps that of the first."""
    first, *others = ordered
    end = first.batched.high + (first.start or 0.0)
    return tuple(
        other.runner for other in others if other.batched.low + (other.start or 0.0) <= end
    )


def _batch_below(mapped: Mapped, predictor: Predictor) -> float | None:
    """Return the work in a call below which batches are worth it."""

    def pays(seconds: float) -> bool:
        return _batch(replace(mapped, seconds=seconds), predictor) > 1

    if not pays(_SHORTEST) or pays(_LONGEST):
        return None
    return _edge(pays, _SHORTEST, _LONGEST)


def _changes(mapped: Mapped, predictors: Sequence[Predictor]) -> tuple[tuple[float, str], ...]:
    """Return the lengths of calls from which on another task runner is the quickest."""

    def quickest(seconds: float) -> str:
        one = replace(mapped, seconds=seconds)
        return min(
            predictors,
            key=lambda predictor: _seconds(one, 1, predictor) + (predictor.start or 0.0),
        ).runner

    ratio = (_LONGEST / _SHORTEST) ** (1 / _STEPS)
    grid = [_SHORTEST * ratio**step for step in range(_STEPS + 1)]
    names = [quickest(seconds) for seconds in grid]
    changes = [(0.0, names[0])]
    for (low, before), (high, name) in itertools.pairwise(zip(grid, names, strict=True)):
        if name != before:
            is_before = functools.partial(lambda was, at: quickest(at) == was, before)
            changes.append((_edge(is_before, low, high), name))
    return tuple(changes)


def _edge(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds at `low` but not at `high` ceases to hold."""
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
