# SPDX-License-Identifier: Apache-2.0
"""Predicts makespans from the costs of a task runner, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from flowgauge.predict.errors import Parts, Spread, draw_makespans
from flowgauge.predict.simulation import FREE, Costs, Machine, simulated_makespan
from flowgauge.results.interval import Interval
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    from flowgauge.predict.errors import Floats

FREE_BYTES = 1000
"""Results up to this size take no time that could be measured."""
BYTES_BEYOND = 10
"""How many times the largest result that was measured is still predicted: larger ones may not fit
into memory, or take another way."""
TASKS_BEYOND = 100
"""How many times the largest number of tasks that was measured is still predicted: the cost of a
task hardly changes with their number."""
_LARGEST_SHIFT = 2.0
"""The most that a draw shifts the logarithm of a cost: the effect is linear only nearby."""
_MOST_FOR_SLOPES = 1000
"""Of a workflow with more tasks than this, only the first are simulated to see what a change of a
cost does."""
NO_BYTE = 1e-15
"""The cost of a byte (seconds) where it was not measured: above zero, for its logarithm."""


@dataclass(frozen=True)
class Predictor:
    """A task runner whose costs are known.

    Attributes:
        runner: The name of the task runner.
        costs: Its costs.
        machine: The machine that it was measured on.
        start: Seconds that a flow run on it takes before its first task and after its last; None
            if that was not measured.
        knows_edges: Whether the dependency latency was measured; otherwise it is taken to be zero.
        most_bytes: The largest result measured; if there was none, a byte is taken to cost nothing.
        most_tasks: The largest number of tasks measured.
        draws: Shifts of the logarithms of the costs that are compatible with the rows, one draw
            in each line.
        spread: The errors of predictions: those of workflows that were held out, if enough were
            measured, otherwise those of the rows that were fitted.
    """

    runner: str
    costs: Costs
    machine: Machine
    start: float | None
    knows_edges: bool
    most_bytes: int
    most_tasks: int
    draws: Floats
    spread: Spread

    def on(self, machine: Machine) -> Predictor:
        """Return a predictor for another machine, or another load."""
        return replace(self, machine=machine)

    def with_workers(self, workers: int) -> Predictor:
        """Return a predictor for another number of workers, with as many cores per worker."""
        share = self.machine.cores / self.machine.workers
        return self.on(replace(self.machine, workers=workers, cores=share * workers))

    def seconds(self, workflow: Workflow) -> float:
        """Return the makespan, without its interval.

        Args:
            workflow: What is run, inside a flow that is running already.

        Returns:
            Seconds.
        """
        return simulated_makespan(workflow, self.runner, self.costs, self.machine)

    def ideal(self, workflow: Workflow) -> float:
        """Return the makespan if tasks had no costs, in seconds."""
        return simulated_makespan(workflow, self.runner, FREE, self.machine)

    def draws_of(self, workflow: Workflow) -> Floats:
        """Draw makespans that are compatible with what was measured; see `draw_makespans`.

        Only costs and the machine's pace are uncertain, the work is not. The effect of the costs
        on the overhead is taken to be linear.

        Args:
            workflow: What is run, inside a flow that is running already.

        Returns:
            Seconds, one for each draw; the median is near that of `seconds`.
        """
        import numpy as np

        parts = Parts.of(workflow, self.runner, self.costs, self.machine)
        part = workflow
        if len(workflow.tasks) > _MOST_FOR_SLOPES:
            # Parents come before their children, so the first tasks are a workflow, too.
            part = Workflow(workflow.name, workflow.tasks[:_MOST_FOR_SLOPES])

        def seconds(point: Floats) -> Floats:
            return np.array([simulated_makespan(part, self.runner, costs_at(point), self.machine)])

        slopes = (
            slopes_at(seconds, logarithms(self.costs))[0] * len(workflow.tasks) / len(part.tasks)
        )
        overheads = parts.overhead + np.expm1(np.minimum(self.draws, _LARGEST_SHIFT)) @ slopes
        return draw_makespans(parts, overheads, self.spread, self.runner)

    def beyond(self, workflow: Workflow, tasks: int | None = None) -> str:
        """Return in what way a workflow is beyond what was measured.

        The work in a task doesn't matter, because it is known. The cost of a byte and of a task are
        taken to be constant, but not without limits: see `BYTES_BEYOND` and `TASKS_BEYOND`.

        Args:
            workflow: What is run.
            tasks: Its number of task runs, if it is a sample of more.

        Returns:
            A word or two for the user; empty if it can be predicted.
        """
        largest = max(task.output_bytes for task in workflow.tasks)
        if largest > max(FREE_BYTES, self.most_bytes * BYTES_BEYOND):
            return "such payloads" if self.most_bytes else "payloads"
        if not self.knows_edges and any(task.parents for task in workflow.tasks):
            return "dependent tasks"
        if (tasks or len(workflow.tasks)) > self.most_tasks * TASKS_BEYOND:
            return "so many tasks"
        return ""

    def interval(self, workflow: Workflow) -> Interval:
        """Return the makespan with its 95 % prediction interval, all in seconds.

        Args:
            workflow: What is run, inside a flow that is running already.

        Returns:
            The makespan and the ends of its interval; the lower one is at least the time that no
            scheduler can beat.
        """
        return around(self.seconds(workflow), self.draws_of(workflow))


def around(value: float, draws: Floats) -> Interval:
    """Return a value with the 95 % interval of its draws."""
    import numpy as np

    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, min(float(low), value), max(float(high), value))


def logarithms(costs: Costs) -> Floats:
    """Return the logarithm of each cost, with one where a cost is zero, too."""
    import numpy as np

    logs: Floats = np.log(np.maximum(astuple(costs), NO_BYTE))
    return logs


def costs_at(point: Floats) -> Costs:
    """Return the costs with these logarithms."""
    return Costs(*(math.exp(logarithm) for logarithm in point))


def slopes_at(function: Callable[[Floats], Floats], point: Floats) -> Floats:
    """Return the derivatives of a function with respect to the logarithm of each cost.

    The step is wide, because a simulation has kinks where the bottleneck changes.

    Args:
        function: Returns a figure for each row, given the logarithms of the costs.
        point: The logarithms.

    Returns:
        A line for each figure, a column for each cost.
    """
    import numpy as np

    step = 0.05
    here = function(point)
    shifted = (function(point + shift) for shift in step * np.eye(len(point)))
    return np.stack([(values - here) / step for values in shifted], axis=1)
