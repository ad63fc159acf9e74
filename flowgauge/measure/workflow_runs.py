# SPDX-License-Identifier: Apache-2.0
"""Measures how near a workflow's makespan comes to the one that no scheduler can beat."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

from flowgauge.measure.pairs import Rounds
from flowgauge.results.timelines import Timeline, timeline
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import RunWorkflow, check_results, makespan
from flowgauge.workflows.workflow import GraphError, Kernel, Workflow

LOWER_BOUND = "lower bound"
KERNEL: Kernel = "native"
"""The work that a trace's tasks are given: it uses a core each, whichever runner has it."""
MAX_TASK_BYTES = 10**6
MAX_WORKFLOW_BYTES = 64 * 10**6


def scaled(
    workflow: Workflow,
    workers: int,
    *,
    time_scale: float | None = None,
    seconds: float = 1.0,
    bytes_scale: float = 1e-3,
) -> Workflow:
    """Shrink a trace of hours and gigabytes to what a machine can run again.

    Args:
        workflow: The trace.
        workers: How many tasks run at once.
        time_scale: What each task's seconds are multiplied with; None to fit the lower bound.
        seconds: The lower bound that is fitted, where there is work at all.
        bytes_scale: What each task's output is multiplied with; it holds 1 MB at most, and those
            of all tasks together 64 MB.

    Returns:
        The workflow, its tasks of `KERNEL`.

    Raises:
        GraphError: If there is no worker, or a scale is negative or no number.
    """
    bound = workflow.lower_bound(workers)
    factor = time_scale if time_scale is not None else seconds / bound if bound else 1.0
    for name, value in (("time", factor), ("bytes", bytes_scale)):
        if not 0 <= value < float("inf"):
            raise GraphError(f"the {name} scale {value} is no number of zero or more")
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
    """Runs a workflow time and again, and keeps how long each run took.

    Attributes:
        workflow: What is run, scaled already.
        runner: What runs it.
        run: Runs it on workers that are up.
        speeds: How much work a second is.
        workers: How many tasks run at once; for the sequential runner too, which is compared
            with the same bound as the others.
        timelines: One for each run.
    """

    workflow: Workflow
    runner: str
    run: RunWorkflow
    speeds: Speeds
    workers: int
    timelines: list[Timeline] = field(default_factory=list)

    def __call__(self) -> float:
        """Run it once.

        Returns:
            Seconds from the begin of the first task's work to the end of the last one's.

        Raises:
            WrongInputError: If a task was given, or gave, something wrong, or began too early.
        """
        outputs = self.run(self.workflow)
        check_results(self.workflow, self.speeds, outputs)
        bound = self.workflow.lower_bound(self.workers)
        self.timelines.append(timeline(self.workflow.name, self.runner, bound, outputs.values()))
        return makespan(outputs.values())

    @property
    def labels(self) -> dict[str, Any]:
        """What the rows of this workflow on this runner have in common."""
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

    def rounds(self, makespans: list[float]) -> Rounds:
        """Return makespans as rounds, each beside the lower bound.

        Args:
            makespans: Seconds.

        Returns:
            The rounds; without a reference where the bound is zero.
        """
        bound = self.workflow.lower_bound(self.workers)
        return Rounds(tuple(makespans), (bound,) * len(makespans) if bound else ())

    def typical(self) -> Timeline:
        """Return the run whose makespan is nearest to the median of all."""
        middle = statistics.median(each.makespan for each in self.timelines)
        return min(self.timelines, key=lambda each: abs(each.makespan - middle))
