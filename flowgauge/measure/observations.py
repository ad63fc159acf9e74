# SPDX-License-Identifier: Apache-2.0
"""Reads from measured rows what they timed: workflows, their makespans, and the machine's load."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowgauge.graphs import Workflow
from flowgauge.measure.results import Results, ResultsError, Row
from flowgauge.measure.simulation import Machine
from flowgauge.shapes import SHAPES, handing, shape

MOST_TASKS = 128
"""Rows of more tasks are not fitted: they would say the same, and take longer to simulate."""
_LEAST_SECONDS = 1e-6


@dataclass(frozen=True)
class Observation:
    """What a row timed, and how long it took.

    Attributes:
        workflow: What was run, in a flow that ran already.
        seconds: Median.
        spread: Standard error of the logarithm, as the row's interval tells it.
        machine: What it ran on, as loaded as the bare pool beside it says.
    """

    workflow: Workflow
    seconds: float
    spread: float
    machine: Machine


def observations(results: Results, runner: str) -> tuple[Observation, ...]:
    """Return what the rows of a task runner timed, inside flows that ran already.

    Args:
        results: A benchmark run.
        runner: The task runner's name.
    """
    machine = machine_of(results)
    return tuple(
        found
        for row in results.rows
        if row.runner == runner and (found := _observation(row, machine)) is not None
    )


def _observation(row: Row, machine: Machine) -> Observation | None:
    """Return what a row timed, None for one that is of no use here."""
    made = _timed(row)
    if made is None or row.value <= 0 or len(made[0].tasks) > MOST_TASKS:
        return None
    workflow, units = made
    spread = math.log(max(row.high / max(row.low, _LEAST_SECONDS), 1.0)) / 4
    pace = _pace(row, workflow)
    loaded = machine if pace is None else machine.at_pace(pace)
    return Observation(workflow, row.value * units, spread, loaded)


def _timed(row: Row) -> tuple[Workflow, float] | None:
    """Return the workflow that a row timed, and what its value is to be multiplied with."""
    params: Mapping[str, Any] = row.params
    match row.group, row.id:
        case "metg", "curve" if "feature" not in params and params["shape"] in SHAPES:
            workers, tasks = params["workers"], params["tasks"]
            work = {"seconds": params["work_seconds"], "kernel": params["kernel"]}
            return _of_size(params["shape"], workers, tasks, **work), tasks / workers
        case "scaling", "tasks":
            return shape("trivial", params["tasks"], 1), params["tasks"]
        case "scaling", "payload" if "tasks" in params:
            return handing(params["payload_bytes"], params["tasks"]), params["tasks"] - 1
    return None


def _of_size(name: str, width: int, tasks: int, **work: Any) -> Workflow:
    """Return the workflow of a shape that has so many tasks."""
    made = (shape(name, width, steps, **work) for steps in itertools.count(1))
    return next(each for each in made if len(each.tasks) >= tasks)


def _workers(results: Results) -> int:
    """Return how many workers a run had."""
    workers = results.fingerprint.get("workers")
    if not isinstance(workers, int) or workers < 1:
        raise ResultsError("the results do not say how many workers they were measured with")
    return workers


def machine_of(results: Results) -> Machine:
    """Return what a run ran on, as loaded as it was in the middle."""
    workers = _workers(results)
    cores = results.fingerprint.get("cores")
    machine = Machine(workers, float(cores) if isinstance(cores, int) else float(workers))
    paces = [
        pace
        for row in results.rows
        if (made := _timed(row)) is not None and (pace := _pace(row, made[0])) is not None
    ]
    return machine.at_pace(statistics.median(paces)) if paces else machine


def _pace(row: Row, workflow: Workflow) -> float | None:
    """Return the work that each process of the bare pool beside a row did in a second.

    It is None where there was none, or where it only waited. What would be ideal for the row, its
    value over its ratio, is the makespan of the bound at that pace.
    """
    if not row.ratio or workflow.tasks[0].kernel == "wait":
        return None
    workers, tasks = row.params["workers"], len(workflow.tasks)
    ideal = row.value / row.ratio
    at_full_pace: float = workflow.lower_bound(workers) * workers / tasks
    return min(at_full_pace / ideal, 1.0)
