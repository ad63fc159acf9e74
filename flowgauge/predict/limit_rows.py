# SPDX-License-Identifier: Apache-2.0
"""Rows on large runs: what was computed for them, and how far off that is for those measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowgauge.predict.held_out import Timed, compared
from flowgauge.predict.limits import (
    Part,
    batches_below,
    compute,
    dropped_from,
    for_server,
    per_worker,
)
from flowgauge.predict.mapped import Mapped
from flowgauge.predict.prediction import Predictor
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit

TASKS = (10**3, 10**4, 10**5, 10**6)
WORKERS = (1, 10, 100, 1000)
TASK_SECONDS = 1.0
"""The work in each task of the runs that are computed."""
KEEPS_UP = "work in a task from which on this part does not limit the run"
BATCHES = "batches-pay-below"
STORED = "all-stored"
DROPPED = "dropped-from"


def predicted_row(mapped: Mapped, timed: Timed, predictor: Predictor) -> Row:
    """Return how long a large run took, with what was computed for it relative to that.

    Args:
        mapped: What was run.
        timed: Its rounds.
        predictor: That of the task runner.

    Returns:
        The row.
    """
    workers = predictor.machine.workers
    params = {"tasks": mapped.tasks, "task_seconds": mapped.seconds, "workers": workers}
    machines = (predictor.machine.at_pace(min(pace, 1.0)) for pace in timed.paces)
    computed = [mapped.makespan(1, predictor.on(machine)) for machine in machines]
    labels = {"group": Group.LIMITS, "runner": predictor.runner, "params": params}
    figure = "makespan, and computed over measured"
    return compared(computed, timed.seconds, labels | {"id": "many-tasks", "figure": figure})


def computed_rows(
    predictors: Sequence[Predictor], servers: Mapping[str, Interval]
) -> Iterator[Row]:
    """Yield what limits runs on more workers, and how long runs of more tasks take.

    Args:
        predictors: One for each task runner.
        servers: The task runs that a server stores in a second, by its database.

    Yields:
        For each number of workers and each part, how long tasks must be so that it does not limit
        a run; below which length batches pay; and the time until all states of a run are stored.
    """
    for workers in WORKERS:
        for database, stored in servers.items():
            params = {"workers": workers, "database": database}
            yield _computed(Part.SERVER, None, params, KEEPS_UP, for_server(stored, workers))
        for predictor in predictors:
            for part, length in per_worker(predictor, workers).items():
                yield _computed(part, predictor.runner, {"workers": workers}, KEEPS_UP, length)
            for database, stored in servers.items():
                yield from _of_server(predictor, workers, database, stored)


def _of_server(
    predictor: Predictor, workers: int, database: str, stored: Interval
) -> Iterator[Row]:
    params = {"workers": workers, "database": database}
    below = Interval.exact(batches_below(predictor, stored, workers))
    figure = "work in a call below which batches pay"
    yield _computed(BATCHES, predictor.runner, params, figure, below)
    dropped = dropped_from(predictor, stored, workers)
    if math.isfinite(dropped):
        figure = "tasks without work from which on a server drops states"
        row = _computed(DROPPED, predictor.runner, params, figure, Interval.exact(dropped))
        yield replace(row, unit="tasks")
    for tasks in TASKS:
        mapped = Mapped(TASK_SECONDS, tasks, "native")
        result = compute(mapped, workers, predictor, stored)
        alone = result.parts[result.limit]
        computed = _computed(
            STORED,
            predictor.runner,
            {"tasks": tasks, **params, "task_seconds": TASK_SECONDS},
            "time until all states are stored, and relative to what limits it",
            result.stored,
        )
        yield replace(
            computed,
            reference=f"the {result.limit} alone",
            ratio=result.stored.scaled(1 / alone),
        )


def _computed(
    id: str,
    runner: str | None,
    params: dict[str, Any],
    figure: str,
    value: Interval,
) -> Row:
    return Row(
        id=id,
        group=Group.LIMITS,
        runner=runner,
        params=params,
        figure=figure,
        unit=Unit.SECONDS,
        value=value,
        rounds=0,
    )
