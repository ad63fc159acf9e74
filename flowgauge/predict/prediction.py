# SPDX-License-Identifier: Apache-2.0
"""Predicts makespans from the costs of task runners, which are read from measured rows.

A row is explained by simulating what it timed; the costs are those with which the simulation comes
nearest to all rows of a task runner (least squares of the logarithms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from flowgauge.predict.observations import Observation, machine_of, observations
from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Results, ResultsError, Row
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_LEAST_SECONDS = 1e-6
_DRAWS = 1000
_LEAST_ROWS = 3
_MOST_FOR_SLOPES = 1000
"""Of more tasks than these, the first tell what a change of a cost does."""
_NO_BYTE = 1e-15
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""How much of a task without work may be its submission: where a fit may start."""
_ROWS_TO_FIT = 100
"""So many rows are fitted in all: few of them from several starts, many from one or two."""
_HAND_OVERS = (0.03, 0.3, 1.0)
"""How many times as long as such a task a hand-over may take."""


@dataclass(frozen=True)
class Predictor:
    """A task runner whose costs are known.

    Attributes:
        runner: Its name.
        costs: What it costs.
        machine: What it was measured on.
        start: Seconds that a flow run on it takes before its first task and after its last; None
            where that was not measured.
        knows_bytes: Whether the cost of a byte was measured; otherwise it is none.
        knows_edges: Whether that of a hand-over was; otherwise it is none.
        draws: Shifts of the logarithms of the costs that the rows allow for, one a row.
        residuals: Logarithms of measured over simulated, of the rows that were fitted.
    """

    runner: str
    costs: Costs
    machine: Machine
    start: float | None
    knows_bytes: bool
    knows_edges: bool
    draws: Floats
    residuals: Floats

    def on(self, machine: Machine) -> Predictor:
        """Return what predicts for another machine, or another load."""
        return replace(self, machine=machine)

    def with_workers(self, workers: int) -> Predictor:
        """Return what predicts for another number of workers, each of which brings a core."""
        share = self.machine.cores / self.machine.workers
        return self.on(replace(self.machine, workers=workers, cores=share * workers))

    def seconds(self, workflow: Workflow) -> float:
        """Return the makespan, without its interval.

        Args:
            workflow: What is run, in a flow that runs already.
        """
        return simulated_makespan(workflow, self.runner, self.costs, self.machine)

    def interval(self, workflow: Workflow) -> Interval:
        """Return the makespan with its 95 % prediction interval, all in seconds.

        The costs are drawn as the rows allow for, and a residual of the fit with each draw. What a
        change of a cost does to the makespan is taken to be linear in the logarithms.

        Args:
            workflow: What is run, in a flow that runs already.

        Source:
            Davison and Hinkley, Bootstrap Methods and their Application (1997), section 6.3.3.
        """
        import numpy as np

        value = self.seconds(workflow)
        if not value:
            return Interval(value, value, value)
        part = workflow
        if len(workflow.tasks) > _MOST_FOR_SLOPES:
            # Parents come before their children, so the first tasks are a workflow, too.
            part = Workflow(workflow.name, workflow.tasks[:_MOST_FOR_SLOPES])

        def logs(point: Floats) -> Floats:
            made = simulated_makespan(part, self.runner, _costs(point), self.machine)
            found: Floats = np.log([max(made, _LEAST_SECONDS)])
            return found

        slopes = _slopes(logs, _point(self.costs))[0]
        rng = np.random.default_rng(0)
        errors = self.draws @ slopes + rng.choice(self.residuals, len(self.draws))
        low, high = np.exp(np.quantile(errors, (0.025, 0.975))) * value
        return Interval(value, min(float(low), value), max(float(high), value))


def predictors(results: Results) -> tuple[Predictor, ...]:
    """Fit the costs of each task runner that was measured.

    Args:
        results: A benchmark run; rows of `metg`, `scaling` and `startup` are read.

    Returns:
        One for each task runner that has rows enough, in the table's order.

    Raises:
        ResultsError: If there is none, or a row lacks a parameter.
    """
    machine = machine_of(results)
    found = tuple(
        fit(runner, observed, machine, results.rows)
        for runner in RUNNERS
        if len(observed := observations(results, runner, machine)) >= _LEAST_ROWS
    )
    if not found:
        raise ResultsError(
            "no rows to predict from: measure with pytest benchmarks/test_metg.py --benchmark-only"
        )
    return found


def fit(
    runner: str, observed: Sequence[Observation], machine: Machine, rows: Iterable[Row] = ()
) -> Predictor:
    """Find the costs with which the simulation comes nearest to what was observed.

    `submit` and `task` are told apart by rows without work, where whichever is the bottleneck
    decides, against rows with much work, where submission goes on beside it; `hand_over` by chains,
    stencils and trees against tasks without edges; `byte` by payloads. What no row tells of is
    taken to cost nothing.

    Args:
        runner: Its name.
        observed: Some rows, of different amounts of work.
        machine: What they were measured on.
        rows: Where its start-up is looked for.

    Returns:
        What predicts.
    """
    import numpy as np
    from scipy.optimize import least_squares

    tasks = [task for each in observed for task in each.workflow.tasks]
    knows_bytes = any(task.output_bytes for task in tasks)
    # Where the flow's own thread does the tasks, nothing is handed over.
    knows_edges = RUNNERS[runner].execution.inline or any(task.parents for task in tasks)

    def logs(point: Floats) -> Floats:
        costs = _costs(point)
        simulated = (
            simulated_makespan(each.workflow, runner, costs, each.machine) for each in observed
        )
        found: Floats = np.log([max(seconds, _LEAST_SECONDS) for seconds in simulated])
        return found

    measured = np.log([each.seconds for each in observed])
    least = min(each.seconds / len(each.workflow.tasks) for each in observed)
    starts = (
        _point(
            Costs(
                submit=share * least,
                task=(1 - share) * least,
                hand_over=times * least if knows_edges else _LEAST_SECONDS,
                byte=1e-9 if knows_bytes else _NO_BYTE,
            )
        )
        for share in _SHARES
        for times in _HAND_OVERS
    )
    # From one start alone, the descent may end at a kink of the simulation.
    nearest = sorted(starts, key=lambda start: float(np.abs(logs(start) - measured).sum()))
    fits = [
        least_squares(
            lambda point: logs(point) - measured,
            first,
            # A wide step: see `_slopes`.
            diff_step=0.01,
            bounds=(first - 12, first + 6),
            loss="soft_l1",
            f_scale=0.1,
            x_scale="jac",
            xtol=1e-3,
            ftol=1e-3,
            max_nfev=12,
        )
        for first in nearest[: max(_ROWS_TO_FIT // len(observed), 1)]
    ]
    point = min(fits, key=lambda each: float(each.cost)).x
    residuals = measured - logs(point)
    costs = _costs(point)
    return Predictor(
        runner=runner,
        costs=costs,
        machine=machine,
        start=_start(runner, rows, costs, machine),
        knows_bytes=knows_bytes,
        knows_edges=knows_edges,
        draws=_drawn(_slopes(logs, point), residuals, [each.spread for each in observed]),
        residuals=residuals,
    )


def _start(runner: str, rows: Iterable[Row], costs: Costs, machine: Machine) -> float | None:
    """Return what a flow run of one task takes apart from that task."""
    one = simulated_makespan(shape("trivial", 1, 1), runner, costs, machine)
    measured = [
        row.value.median
        for row in rows
        if (row.group, row.id, row.runner) == (Group.STARTUP, "first-task", runner)
    ]
    return max(measured[0] - one, 0.0) if measured else None


def _point(costs: Costs) -> Floats:
    import numpy as np

    logs: Floats = np.log(np.maximum(astuple(costs), _NO_BYTE))
    return logs


def _costs(point: Floats) -> Costs:
    return Costs(*(math.exp(each) for each in point))


def _slopes(function: Callable[[Floats], Floats], point: Floats) -> Floats:
    """Return how a function changes with each logarithm of a cost.

    The step is a wide one: a simulation has kinks, where what is the bottleneck changes.
    """
    import numpy as np

    step = 0.05
    here = function(point)
    there = (function(point + shift) for shift in step * np.eye(len(point)))
    return np.stack([(each - here) / step for each in there], axis=1)


def _drawn(slopes: Floats, residuals: Floats, spreads: Sequence[float]) -> Floats:
    """Draw the costs that the rows allow for, as shifts of their logarithms."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = (_DRAWS, len(residuals))
    errors = rng.choice(residuals, size) + rng.normal(size=size) * np.array(spreads)
    # What the rows say nothing about is left as it was fitted.
    shifts: Floats = errors @ np.linalg.pinv(slopes, rcond=0.05).T
    return shifts
