# SPDX-License-Identifier: Apache-2.0
"""One function mapped over many items, and its makespan if one task run does several calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowgauge.predict.prediction import Predictor, around
from flowgauge.results.interval import Interval
from flowgauge.workflows.workflow import Kernel, Task, Workflow

if TYPE_CHECKING:
    from flowgauge.predict.errors import Floats

_MOST_TASKS = 256
"""The most tasks to simulate, unless that leaves a worker fewer than `_FEW`: beyond this number
the makespan of equal tasks is proportional to it."""
_FEW = 4


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
        # The calls are distributed evenly over the task runs; a sample has its full share of them.
        ends = [-(-number * self.tasks // runs) for number in range(simulated + 1)]
        tasks = (self._task(number, ends[number + 1] - ends[number]) for number in range(simulated))
        return Workflow("mapped", tuple(tasks)), runs / simulated

    def _task(self, number: int, calls: int) -> Task:
        return Task(
            str(number),
            seconds=self.seconds * calls,
            kernel=self.kernel,
            output_bytes=self.payload * calls,
        )

    def makespan(self, batch: int, predictor: Predictor) -> float:
        """Return the makespan, without its interval.

        Args:
            batch: Calls in each task run.
            predictor: That of the task runner.

        Returns:
            Seconds.
        """
        workflow, factor = self.sample(batch, predictor.machine.workers)
        return predictor.seconds(workflow) * factor

    def makespan_interval(self, batch: int, predictor: Predictor) -> tuple[Interval, Floats]:
        """Return the makespan with its interval, and its draws.

        Args:
            batch: Calls in each task run.
            predictor: That of the task runner.

        Returns:
            Seconds, both.
        """
        workflow, factor = self.sample(batch, predictor.machine.workers)
        draws = predictor.draws_of(workflow) * factor
        return around(predictor.seconds(workflow) * factor, draws), draws
