# SPDX-License-Identifier: Apache-2.0
"""Measures a workflow's makespan relative to the lower bound that no scheduler can beat."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

from flowgauge.measure.budget import Budget
from flowgauge.measure.pairs import Rounds
from flowgauge.results.timelines import Timeline, timeline
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import RunWorkflow, check_results, makespan
from flowgauge.workflows.workflow import GraphError, Kernel, Workflow

LOWER_BOUND = "lower bound"
KERNEL: Kernel = "native"
"""The work that the tasks of a trace do: each uses one core, whatever the task runner."""
MAX_TASK_BYTES = 10**6
"""The largest output of one task of a scaled trace."""
MAX_WORKFLOW_BYTES = 64 * 10**6
"""The largest output of all tasks of a scaled trace together."""


def scaled(
    workflow: Workflow,
    workers: int,
    *,
    time_scale: float | None = None,
    seconds: float = 1.0,
    bytes_scale: float = 1e-3,
) -> Workflow:
    """Scale a trace of hours and gigabytes down to what one machine can replay.

    Args:
        workflow: The trace.
        workers: How many tasks run at once.
        time_scale: The factor for each task's seconds; None to derive it from `seconds`.
        seconds: The lower bound of the scaled workflow, if its tasks do any work.
        bytes_scale: The factor for each task's output, which is capped at 1 MB for one task and
            64 MB for all tasks together.

    Returns:
        The scaled workflow; all its tasks use `KERNEL`.

    Raises:
        GraphError: If there is no worker, or a scale is negative or not a finite number.
    """
    bound = workflow.lower_bound(workers)
    factor = time_scale if time_scale is not None else seconds / bound if bound else 1.0
    for name, value in (("time", factor), ("bytes", bytes_scale)):
        if not 0 <= value < float("inf"):
            raise GraphError(f"the {name} scale must be zero or a positive number, not {value}")
    most = min(MAX_TASK_BYTES, MAX_WORKFLOW_BYTES // len(workflow.tasks))
    tasks = tuple(
        dataclasses.replace(
            task,
            seconds=task.seconds * factor,
            kernel=KERNEL,
            output_bytes=round(min(task.output_bytes * bytes_scale, most)),
        )
        for task in workflow.tasks
    )
    return Workflow(workflow.name, tasks)


@dataclass
class Makespans:
    """Runs a workflow repeatedly and keeps the timeline of each run.

    Attributes:
        workflow: The workflow to run, already scaled.
        runner: The name of the task runner or baseline.
        run: Runs the workflow on workers that are up.
        speeds: The iterations of each kernel in a second.
        workers: The number of workers that the lower bound assumes; the same for the sequential
            runner, which is compared with the same bound as the others.
        timelines: The timeline of each run.
        seconds: The makespan of each run.
    """

    workflow: Workflow
    runner: str
    run: RunWorkflow
    speeds: Speeds
    workers: int
    timelines: list[Timeline] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """Run the workflow once.

        Returns:
            Seconds from the start of the first task's work to the end of the last one's.

        Raises:
            WrongInputError: If a task received or returned something wrong, or started too early.
        """
        outputs = self.run(self.workflow)
        check_results(self.workflow, self.speeds, outputs)
        bound = self.workflow.lower_bound(self.workers)
        self.timelines.append(timeline(self.workflow.name, self.runner, bound, outputs.values()))
        self.seconds.append(makespan(outputs.values()))
        return self.seconds[-1]

    @property
    def labels(self) -> dict[str, Any]:
        """The fields that all rows of this workflow on this task runner have in common."""
        return {
            "id": self.workflow.name,
            "runner": self.runner,
            "figure": "from the first task's begin to the last one's end",
            "params": {
                "tasks": len(self.workflow.tasks),
                "lower_bound_seconds": round(self.workflow.lower_bound(self.workers), 6),
                "workers": self.workers,
            },
        }

    def rounds(self) -> Rounds:
        """Return the makespans as rounds, each paired with the lower bound as its reference.

        Returns:
            The rounds; without a reference where the bound is zero.
        """
        bound = self.workflow.lower_bound(self.workers)
        return Rounds(tuple(self.seconds), (bound,) * len(self.seconds) if bound else ())

    def typical(self) -> Timeline:
        """Return the run whose makespan is nearest to the median of all."""
        middle = statistics.median(run.makespan for run in self.timelines)
        return min(self.timelines, key=lambda run: abs(run.makespan - middle))


def run_in_turn(budget: Budget, *series: Makespans) -> None:
    """Run workflows in turn, round by round, so that all of them see the same machine.

    Args:
        budget: How long to measure all of them together.
        *series: What is run in a round, in this order; each keeps its makespans.

    Raises:
        WrongInputError: If a task got or returned something wrong, or started too early.
    """
    spent = 0.0
    while not all(budget.is_used(run.seconds, spent) for run in series):
        for run in series:
            spent += run()
