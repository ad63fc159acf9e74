# SPDX-License-Identifier: Apache-2.0
"""Advises on the task runner, on how many calls to put in a task run, and up to which length.

In a batch one task run does several calls of the mapped function, one after the other.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowgauge.predict.mapped import Mapped
from flowgauge.predict.prediction import Predictor, around
from flowgauge.results.interval import Interval
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    from flowgauge.predict.errors import Floats

WORTH = 0.1
"""The share of the makespan that a change, of the task runner or to batches, must save."""
NOTICED = 0.05
"""A task runner that saves a smaller share of the time is not worth another one that is simpler."""
_SHORTEST, _LONGEST = 1e-4, 100.0
_STEPS = 12


@dataclass(frozen=True)
class Forecast:
    """The predicted times on one task runner.

    Attributes:
        runner: The name of the task runner.
        makespan: Seconds with one task run per call, or of the workflow as it is; None if nothing
            like it was measured.
        batch: The fewest calls per task run that come within a tenth of the best makespan; one
            if batches are not worth it, and for a workflow.
        batched: Seconds with that batch; None if nothing like it was measured.
        start: Seconds that a flow run takes in addition; None if that was not measured.
        beyond: What was not measured; empty if it was.
        draws: Seconds of the whole flow run that are compatible with what was measured; see
            `Predictor.draws_of`.
    """

    runner: str
    makespan: Interval | None
    batch: int
    batched: Interval | None
    start: float | None
    beyond: str = ""
    draws: Floats | None = field(default=None, repr=False, compare=False)

    @property
    def total(self) -> float:
        """The seconds of the whole flow run, with batches where they are worth it."""
        return math.inf if self.batched is None else self.batched.median + (self.start or 0.0)


@dataclass(frozen=True)
class Advice:
    """The advice on a workflow or a mapped function.

    Attributes:
        forecasts: One for each task runner, the quickest first, those without a forecast last.
        advised: The forecast of the task runner to use: the simplest of those with no difference
            seen from the quickest. None if nothing like it was measured.
        tied: The other task runners with no difference seen from the quickest, or the quickest
            itself.
        gain: The most seconds that the quickest may save, if it is not the one that is advised.
        batch_below: Seconds of work in a call below which batches are worth it on that one; None
            if they never or always are, or for a workflow.
        batch_at_half: The batch that is worth it at half of `batch_below`.
        changes: Seconds of work in a call from which on another task runner is the simplest of
            those that are about as quick as the quickest, without batches, and its name; the first
            has zero seconds.
    """

    forecasts: tuple[Forecast, ...]
    advised: Forecast | None
    tied: tuple[str, ...]
    gain: float = 0.0
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
    return best_of(workflow_forecast(workflow, predictor) for predictor in predictors)


def advise_mapped(mapped: Mapped, predictors: Sequence[Predictor]) -> Advice:
    """Advise on a function mapped over items.

    Args:
        mapped: The mapped function.
        predictors: One for each task runner to choose from.

    Returns:
        The advice.
    """
    advice = best_of(_forecast(mapped, predictor) for predictor in predictors)
    if advice.advised is None:
        return advice
    best = next(each for each in predictors if each.runner == advice.advised.runner)
    below = _batch_below(mapped, best)
    there = 1 if below is None else _batch(replace(mapped, seconds=below / 2), best)
    known = [each for each in predictors if not _beyond(mapped, 1, each)]
    return replace(
        advice,
        batch_below=below,
        batch_at_half=there or 1,
        changes=_changes(mapped, known) if known else (),
    )


def workflow_forecast(workflow: Workflow, predictor: Predictor) -> Forecast:
    """Return the forecast of a workflow on one task runner.

    Args:
        workflow: The workflow to run.
        predictor: That of the task runner.

    Returns:
        The forecast, without batches.
    """
    if beyond := predictor.beyond(workflow):
        return Forecast(predictor.runner, None, 1, None, predictor.start, beyond)
    draws = predictor.draws_of(workflow)
    makespan = around(predictor.seconds(workflow), draws)
    whole = draws + (predictor.start or 0.0)
    return Forecast(predictor.runner, makespan, 1, makespan, predictor.start, "", whole)


def _forecast(mapped: Mapped, predictor: Predictor) -> Forecast:
    beyond, batch = _beyond(mapped, 1, predictor), _batch(mapped, predictor)
    if batch is None:
        return Forecast(predictor.runner, None, 1, None, predictor.start, beyond)
    batched, draws = mapped.makespan_interval(batch, predictor)
    single = None if beyond else mapped.makespan_interval(1, predictor)[0]
    whole = draws + (predictor.start or 0.0)
    return Forecast(predictor.runner, single, batch, batched, predictor.start, beyond, whole)


def best_of(forecasts: Iterable[Forecast]) -> Advice:
    """Order forecasts, and choose the simplest with no difference seen from the quickest.

    Args:
        forecasts: One for each task runner.

    Returns:
        The advice, without lengths of calls.
    """
    ordered = tuple(sorted(forecasts, key=lambda forecast: forecast.total))
    quickest = ordered[0]
    if quickest.draws is None:
        return Advice(ordered, None, ())
    equal = [each for each in ordered if each is quickest or not _differs(each, quickest)]
    advised = min(equal, key=lambda forecast: list(RUNNERS).index(forecast.runner))
    tied = tuple(each.runner for each in equal if each is not advised)
    return Advice(ordered, advised, tied, _saved(advised, quickest)[1])


def _differs(slower: Forecast, quickest: Forecast) -> bool:
    """Return whether a task runner is seen to be slower than the quickest.

    Both do the same work on the same machine, so they are compared draw by draw; intervals of
    their own may overlap where the difference is certain. It is seen if nine of ten draws have it:
    to ask for more would cost more time, where it is missed, than a needless change costs.

    Source:
        Schenker and Gentleman, On Judging the Significance of Differences by Examining the Overlap
        Between Confidence Intervals (2001), The American Statistician 55.
    """
    if slower.draws is None:
        return True
    least = _saved(slower, quickest)[0]
    return least > 0 and slower.total - quickest.total > NOTICED * quickest.total


def _saved(slower: Forecast, quickest: Forecast) -> tuple[float, float]:
    """Return the seconds that the quickest saves in nine of ten draws at least, and at most."""
    import numpy as np

    if slower.draws is None or quickest.draws is None or slower is quickest:
        return 0.0, 0.0
    low, high = np.quantile(slower.draws - quickest.draws, (0.1, 0.9))
    return float(low), max(float(high), 0.0)


def _beyond(mapped: Mapped, batch: int, predictor: Predictor) -> str:
    """Return in what way a mapped function is beyond what was measured."""
    workflow, factor = mapped.sample(batch, predictor.machine.workers)
    return predictor.beyond(workflow, round(len(workflow.tasks) * factor))


def _batch(mapped: Mapped, predictor: Predictor) -> int | None:
    """Return the fewest calls per task run whose makespan is within a tenth of the best.

    Batches that are beyond what was measured are left out; None if all are.
    """
    most = math.ceil(mapped.tasks / predictor.machine.workers)
    sizes = sorted({round(math.pow(most, step / _STEPS)) for step in range(_STEPS + 1)})
    known = [size for size in sizes if not _beyond(mapped, size, predictor)]
    if not known:
        return None
    seconds = {size: mapped.makespan(size, predictor) for size in known}
    enough = min(seconds.values()) / (1 - WORTH)
    return next(size for size in known if seconds[size] <= enough)


def _batch_below(mapped: Mapped, predictor: Predictor) -> float | None:
    """Return the work in a call below which batches are worth it."""

    def pays(seconds: float) -> bool:
        return (_batch(replace(mapped, seconds=seconds), predictor) or 1) > 1

    if not pays(_SHORTEST) or pays(_LONGEST):
        return None
    return _edge(pays, _SHORTEST, _LONGEST)


def _changes(mapped: Mapped, predictors: Sequence[Predictor]) -> tuple[tuple[float, str], ...]:
    """Return the lengths of calls from which on another task runner is about the quickest."""
    simplest_first = sorted(predictors, key=lambda each: list(RUNNERS).index(each.runner))

    def quickest(seconds: float) -> str:
        one = replace(mapped, seconds=seconds)
        totals = [one.makespan(1, each) + (each.start or 0.0) for each in simplest_first]
        enough = min(totals) * (1 + NOTICED)
        return next(
            each.runner
            for each, total in zip(simplest_first, totals, strict=True)
            if total <= enough
        )

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
