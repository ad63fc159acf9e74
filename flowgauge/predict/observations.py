# SPDX-License-Identifier: Apache-2.0
"""Converts measured rows into observations: workflows, makespans and the machine's load."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flowgauge.predict.simulation import Machine
from flowgauge.results.rows import Group, Results, ResultsError, Row
from flowgauge.workflows.shapes import SHAPES, payload_chain, shape
from flowgauge.workflows.workflow import Workflow

MOST_TASKS = 128
"""Rows with more tasks are not fitted: they add no information and take longer to simulate."""


@dataclass(frozen=True)
class Observation:
    """The workflow that a row timed, and how long it took.

    Attributes:
        workflow: What was run, inside a flow that was running already.
        seconds: The median.
        standard_error: That of the logarithm, derived from the row's interval.
        machine: The machine, with the load that the bare pool of the row indicates.
        scatter: The standard deviation of the logarithm of a single round.
    """

    workflow: Workflow
    seconds: float
    standard_error: float
    machine: Machine
    scatter: float = 0.0


def observations(results: Results, runner: str, machine: Machine) -> tuple[Observation, ...]:
    """Return the observations of a task runner, all of workflows inside running flows.

    Three points of each curve are kept, its ends and its middle: more add little, and the time of
    a fit grows with them.

    Args:
        results: The results of a benchmark run.
        runner: The task runner's name.
        machine: The result of `machine_of`.

    Returns:
        The observations.

    Raises:
        ResultsError: If a row lacks a parameter.
    """
    curves: dict[tuple[object, ...], list[Observation]] = {}
    for number, row in enumerate(results.rows):
        if row.runner == runner and (observation := _observation(row, machine)) is not None:
            is_point = row.id == "curve"
            curve_key = (row.params["kernel"], row.params["shape"]) if is_point else (number,)
            curves.setdefault(curve_key, []).append(observation)
    return tuple(point for curve in curves.values() for point in _ends_and_middle(curve))


def _ends_and_middle(curve: list[Observation]) -> Iterator[Observation]:
    ordered = sorted(curve, key=lambda point: point.workflow.total_work)
    for index in sorted({0, len(ordered) // 2, len(ordered) - 1}):
        yield ordered[index]


def _observation(row: Row, machine: Machine) -> Observation | None:
    """Return a row as an observation, or None if it is of no use for a fit."""
    timed = _timed(row)
    if timed is None or not row.value.is_positive:
        return None
    workflow, units = timed
    # A 95 % interval is about four standard errors wide.
    error = max(math.log(row.value.high / row.value.low), 0.0) / 4
    pace = _pace(row, workflow)
    if pace is not None:
        workflow, machine = at_pace(workflow, machine, pace)
    scatter = error * math.sqrt(row.rounds)
    return Observation(workflow, row.value.median * units, error, machine, scatter)


def sampled(observation: Observation) -> Observation:
    """Return an observation of many equal tasks without edges as one of `MOST_TASKS`.

    The time of many tasks is proportional to their number, and fewer are quicker to simulate.

    Args:
        observation: What was observed.

    Returns:
        The observation of so many of its tasks, or itself if it has no more.
    """
    tasks = observation.workflow.tasks
    if len(tasks) <= MOST_TASKS:
        return observation
    part = Workflow(observation.workflow.name, tasks[:MOST_TASKS])
    seconds = observation.seconds * MOST_TASKS / len(tasks)
    return replace(observation, workflow=part, seconds=seconds)


def at_pace(workflow: Workflow, machine: Machine, pace: float) -> tuple[Workflow, Machine]:
    """Return what to simulate for a workflow that ran at a given pace.

    Args:
        workflow: The workflow as it was meant.
        machine: The machine without load.
        pace: Seconds of work that each process of a bare pool did in a second.

    Returns:
        At a slow pace, the workflow and the machine with a load. At a pace above one, the work was
        less than it was meant to be, because it was sized when the machine was slower.
    """
    if pace <= 1:
        return workflow, machine.at_pace(pace)
    tasks = (
        task if task.kernel == "wait" else replace(task, seconds=task.seconds / pace)
        for task in workflow.tasks
    )
    return Workflow(workflow.name, tuple(tasks)), machine.at_pace(1.0)


def _timed(row: Row) -> tuple[Workflow, float] | None:
    """Return the workflow that a row timed, and the factor from its value to the makespan."""
    try:
        return _workflow_of(row)
    except (KeyError, TypeError, ValueError):
        where = f"{row.group} row {row.id} on {row.runner}"
        raise ResultsError(f"the {where} does not say what it timed: measure again") from None


def _workflow_of(row: Row) -> tuple[Workflow, float] | None:
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
            return payload_chain(params["payload_bytes"], params["tasks"]), params["tasks"] - 1
    return None


def _of_size(name: str, width: int, tasks: int, **work: Any) -> Workflow:
    """Return the workflow of a shape that has the given number of tasks."""
    # A step has at most as many tasks as the shape is wide.
    steps_from = itertools.count(max(tasks // width, 1))
    workflows = (shape(name, width, steps, **work) for steps in steps_from)
    return next(workflow for workflow in workflows if len(workflow.tasks) >= tasks)


def most_tasks(results: Results, runner: str) -> int:
    """Return the largest number of tasks in a row that times tasks of a task runner; 0 if none."""
    numbers = (
        row.params.get("tasks", 0)
        for row in results.rows
        if row.runner == runner and row.group in (Group.METG, Group.SCALING)
    )
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _workers(results: Results) -> int:
    """Return how many workers a benchmark run had."""
    workers = results.fingerprint.get("workers")
    if not isinstance(workers, int) or workers < 1:
        raise ResultsError("the results do not say how many workers they were measured with")
    return workers


def machine_of(results: Results) -> Machine:
    """Return the machine of a benchmark run, with its median load.

    Args:
        results: The results of a benchmark run.

    Returns:
        The machine; without load if no row indicates one.

    Raises:
        ResultsError: If it does not say how many workers it had, or a row lacks a parameter.
    """
    workers = _workers(results)
    cores = results.fingerprint.get("cores")
    machine = Machine(workers, float(cores) if isinstance(cores, int) else float(workers))
    paces = [
        pace
        for row in results.rows
        if (timed := _timed(row)) is not None and (pace := _pace(row, timed[0])) is not None
    ]
    return machine.at_pace(min(statistics.median(paces), 1.0)) if paces else machine


def _pace(row: Row, workflow: Workflow) -> float | None:
    """Return the seconds of work that each process of a row's bare pool did in a second.

    It is None if there was no bare pool, or if it only waited. The ideal value of the row, its
    value over its ratio, is the lower bound at that pace.
    """
    computes = workflow.total_work > 0 and workflow.tasks[0].kernel != "wait"
    if not computes or row.ratio is None or row.ratio.median <= 0:
        return None
    workers, tasks = row.params["workers"], len(workflow.tasks)
    ideal = row.value.median / row.ratio.median
    at_full_pace: float = workflow.lower_bound(workers) * workers / tasks
    return at_full_pace / ideal
