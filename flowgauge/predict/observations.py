# SPDX-License-Identifier: Apache-2.0
"""Reads from measured rows what they timed: workflows, their makespans, and the machine's load."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowgauge.predict.simulation import Machine
from flowgauge.results.rows import Results, ResultsError, Row
from flowgauge.workflows.shapes import SHAPES, handing, shape
from flowgauge.workflows.workflow import Workflow

MOST_TASKS = 128
"""Rows of more tasks are not fitted: they would say the same, and take longer to simulate."""


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


def observations(results: Results, runner: str, machine: Machine) -> tuple[Observation, ...]:
    """Return what the rows of a task runner timed, inside flows that ran already.

    Of a curve three points are kept, its ends and its middle: more say little else, and the time
    of a fit grows with them.

    Args:
        results: A benchmark run.
        runner: The task runner's name.
        machine: What `machine_of` found.

    Raises:
        ResultsError: If a row lacks a parameter.
    """
    curves: dict[tuple[object, ...], list[Observation]] = {}
    for number, row in enumerate(results.rows):
        if row.runner == runner and (found := _observation(row, machine)) is not None:
            is_point = row.id == "curve"
            cell = (row.params["kernel"], row.params["shape"]) if is_point else (number,)
            curves.setdefault(cell, []).append(found)
    return tuple(each for curve in curves.values() for each in _ends_and_middle(curve))


def _ends_and_middle(curve: list[Observation]) -> Iterator[Observation]:
    ordered = sorted(curve, key=lambda each: each.workflow.total_work)
    for place in sorted({0, len(ordered) // 2, len(ordered) - 1}):
        yield ordered[place]


def _observation(row: Row, machine: Machine) -> Observation | None:
    """Return what a row timed, None for one that is of no use here."""
    made = _timed(row)
    if made is None or not row.value.is_positive:
        return None
    workflow, units = made
    # A 95 % interval is about four standard errors wide.
    spread = max(math.log(row.value.high / row.value.low), 0.0) / 4
    pace = _pace(row, workflow)
    loaded = machine if pace is None else machine.at_pace(pace)
    return Observation(workflow, row.value.median * units, spread, loaded)


def _timed(row: Row) -> tuple[Workflow, float] | None:
    """Return the workflow that a row timed, and what its value is to be multiplied with."""
    try:
        return _made(row)
    except (KeyError, TypeError, ValueError):
        where = f"{row.group} row {row.id} on {row.runner}"
        raise ResultsError(f"the {where} does not say what it timed: measure again") from None


def _made(row: Row) -> tuple[Workflow, float] | None:
    params: Mapping[str, Any] = row.params
    match row.group, row.id:
        case "metg", "curve" if "feature" not in params and params["shape"] in SHAPES:
            if (tasks := params["tasks"]) > MOST_TASKS:
                return None
            work = {"seconds": params["work_seconds"], "kernel": params["kernel"]}
            workers = params["workers"]
            return _of_size(params["shape"], workers, tasks, **work), tasks / workers
        case "scaling", "tasks" if params["tasks"] <= MOST_TASKS:
            return shape("trivial", params["tasks"], 1), params["tasks"]
        case "scaling", "payload" if "tasks" in params:
            return handing(params["payload_bytes"], params["tasks"]), params["tasks"] - 1
    return None


def _of_size(name: str, width: int, tasks: int, **work: Any) -> Workflow:
    """Return the workflow of a shape that has so many tasks."""
    # No step holds more tasks than the shape is wide.
    steps_from = itertools.count(max(tasks // width, 1))
    made = (shape(name, width, steps, **work) for steps in steps_from)
    return next(each for each in made if len(each.tasks) >= tasks)


def _workers(results: Results) -> int:
    """Return how many workers a run had."""
    workers = results.fingerprint.get("workers")
    if not isinstance(workers, int) or workers < 1:
        raise ResultsError("the results do not say how many workers they were measured with")
    return workers


def machine_of(results: Results) -> Machine:
    """Return what a run ran on, as loaded as it was in the middle.

    Args:
        results: A benchmark run.

    Raises:
        ResultsError: If it does not say how many workers it had, or a row lacks a parameter.
    """
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
    computes = workflow.total_work > 0 and workflow.tasks[0].kernel != "wait"
    if not computes or row.ratio is None or row.ratio.median <= 0:
        return None
    workers, tasks = row.params["workers"], len(workflow.tasks)
    ideal = row.value.median / row.ratio.median
    at_full_pace: float = workflow.lower_bound(workers) * workers / tasks
    return min(at_full_pace / ideal, 1.0)
