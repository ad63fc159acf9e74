# SPDX-License-Identifier: Apache-2.0
"""Says which task runner suits a workflow, how many calls a task run should hold, and from where.

Bundling means that one task run does several calls of the mapped function, one after the other.
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
"""The share of a makespan that is worth a change: of the runner, or to batches."""
_MOST_TASKS = 256
"""More equal tasks than these take as much longer as they are more, if each worker has a few."""
_FEW = 4
_SHORTEST, _LONGEST = 1e-4, 100.0
_STEPS = 12


@dataclass(frozen=True)
class Mapped:
    """One function mapped over many items.

    Attributes:
        seconds: The work of one call, alone on a worker.
        tasks: How many calls.
        kernel: What kind of work.
        payload: The bytes that each call returns.
    """

    seconds: float
    tasks: int
    kernel: Kernel
    payload: int = 0

    def sample(self, batch: int, workers: int) -> tuple[Workflow, float]:
        """Return it with so many calls in a task run, and how often it is to be repeated.

        Args:
            batch: Calls in each task run.
            workers: How many tasks run at once.

        Returns:
            A workflow of no more tasks than can be simulated at once, and a factor, one if these
            are all.
        """
        runs = math.ceil(self.tasks / batch)
        shown = min(runs, max(_MOST_TASKS, _FEW * workers))
        # The calls are dealt out evenly, as whoever bundles them should.
        ends = [number * self.tasks // runs for number in range(shown + 1)]
        tasks = (self._task(number, ends[number + 1] - ends[number]) for number in range(shown))
        return Workflow("mapped", tuple(tasks)), runs / shown

    def _task(self, number: int, calls: int) -> Task:
        return Task(
            str(number),
            seconds=self.seconds * calls,
            kernel=self.kernel,
            output_bytes=self.payload * calls,
        )


@dataclass(frozen=True)
class Forecast:
    """What a task runner would take.

    Attributes:
        runner: Its name.
        makespan: Seconds with a task run for each call, or of the workflow as it is.
        batch: The fewest calls in a task run that come within a tenth of the best makespan; one
            where batches are not worth it, and for a workflow.
        batched: Seconds with that batch.
        start: Seconds that a flow run takes besides, None where that was not measured.
    """

    runner: str
    makespan: Interval
    batch: int
    batched: Interval
    start: float | None

    @property
    def total(self) -> float:
        """The seconds of the flow run at its best."""
        return self.batched.median + (self.start or 0.0)


@dataclass(frozen=True)
class Advice:
    """What to use.

    Attributes:
        forecasts: One for each task runner, the quickest first.
        level: Those that can't be told from the quickest, itself not counted.
        batch_below: Seconds of work in a call below which batches are worth it on the quickest;
            None where they never or always are, or for a workflow.
        batch_there: How many calls in a task run are worth it at half of that.
        changes: Seconds of work in a call from which on another task runner is the quickest
            without batches, and its name; the first has zero seconds.
    """

    forecasts: tuple[Forecast, ...]
    level: tuple[str, ...]
    batch_below: float | None = None
    batch_there: int = 1
    changes: tuple[tuple[float, str], ...] = ()


def advise_workflow(workflow: Workflow, predictors: Iterable[Predictor]) -> Advice:
    """Advise on a workflow.

    Args:
        workflow: What is to be run.
        predictors: The task runners there are.
    """
    forecasts = []
    for each in predictors:
        makespan = each.interval(workflow)
        forecasts.append(Forecast(each.runner, makespan, 1, makespan, each.start))
    ordered = _ordered(forecasts)
    return Advice(ordered, _level(ordered))


def advise_mapped(mapped: Mapped, predictors: Sequence[Predictor]) -> Advice:
    """Advise on a function mapped over items.

    Args:
        mapped: What is to be run.
        predictors: The task runners there are.
    """
    ordered = _ordered(_forecast(mapped, each) for each in predictors)
    best = next(each for each in predictors if each.runner == ordered[0].runner)
    below = _batch_below(mapped, best)
    there = 1 if below is None else _batch(replace(mapped, seconds=below / 2), best)
    return Advice(ordered, _level(ordered), below, there, _changes(mapped, predictors))


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
    """Return the fewest calls in a task run that are nearly as good as any."""
    most = math.ceil(mapped.tasks / predictor.machine.workers)
    sizes = sorted({round(math.pow(most, step / _STEPS)) for step in range(_STEPS + 1)})
    taken = {size: _seconds(mapped, size, predictor) for size in sizes}
    enough = min(taken.values()) / (1 - WORTH)
    return next(size for size in sizes if taken[size] <= enough)


def _seconds(mapped: Mapped, batch: int, predictor: Predictor) -> float:
    workflow, factor = mapped.sample(batch, predictor.machine.workers)
    return predictor.seconds(workflow) * factor


def _interval(mapped: Mapped, batch: int, predictor: Predictor) -> Interval:
    workflow, factor = mapped.sample(batch, predictor.machine.workers)
    found = predictor.interval(workflow)
    return found.scaled(factor)


def _ordered(forecasts: Iterable[Forecast]) -> tuple[Forecast, ...]:
    return tuple(sorted(forecasts, key=lambda each: each.total))


def _level(ordered: Sequence[Forecast]) -> tuple[str, ...]:
    """Return the task runners whose interval reaches into that of the first."""
    first, *others = ordered
    end = first.batched.high + (first.start or 0.0)
    return tuple(each.runner for each in others if each.batched.low + (each.start or 0.0) <= end)


def _batch_below(mapped: Mapped, predictor: Predictor) -> float | None:
    """Return the work in a call below which batches are worth it."""

    def pays(seconds: float) -> bool:
        return _batch(replace(mapped, seconds=seconds), predictor) > 1

    if not pays(_SHORTEST) or pays(_LONGEST):
        return None
    return _edge(pays, _SHORTEST, _LONGEST)


def _changes(mapped: Mapped, predictors: Sequence[Predictor]) -> tuple[tuple[float, str], ...]:
    """Return from which work in a call on which task runner is the quickest."""

    def quickest(seconds: float) -> str:
        one = replace(mapped, seconds=seconds)
        return min(
            predictors,
            key=lambda each: _seconds(one, 1, each) + (each.start or 0.0),
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
    """Return where something that holds at `low`, and at `high` does not, ceases to."""
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
