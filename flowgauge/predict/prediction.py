# SPDX-License-Identifier: Apache-2.0
"""Predicts makespans from the costs of task runners, which are fitted to measured rows.

The workflow that each row timed is simulated; the costs are those with which the simulation comes
nearest to all rows of a task runner (least squares of the logarithms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from flowgauge.predict.errors import Miss, Parts, Spread, draw_makespans, held_out_misses
from flowgauge.predict.observations import Observation, machine_of, most_tasks, observations
from flowgauge.predict.simulation import FREE, Costs, Machine, simulated_makespan
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Results, ResultsError, Row
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FREE_BYTES = 1000
"""Results up to this size take no time that could be measured."""
BYTES_BEYOND = 10
"""How many times the largest result that was measured is still predicted: larger ones may not fit
into memory, or take another way."""
TASKS_BEYOND = 100
"""How many times the largest number of tasks that was measured is still predicted: the cost of a
task hardly changes with their number."""
_LEAST_SECONDS = 1e-6
_LARGEST_SHIFT = 2.0
"""The most that a draw shifts the logarithm of a cost: the effect is linear only nearby."""
_DRAWS = 1000
_LEAST_ROWS = 3
_LEAST_HELD_OUT = 5
"""With fewer rows of workflows that were held out, errors are those of the rows that were fitted.
"""
_LEAST_REMAINDER = 0.1
"""The least that is left to chance in a row that alone decides a cost."""
_UNDETERMINED = 0.05
"""Below this share of the largest effect, the effect of a change of costs is lost in the noise."""
_MOST_FOR_SLOPES = 1000
"""Of a workflow with more tasks than this, only the first are simulated to see what a change of a
cost does."""
_NO_BYTE = 1e-15
"""The cost of a byte (seconds) where it was not measured: above zero, for its logarithm."""
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Starting points of a fit: the share of submission in the time of a task without work."""
_ROWS_TO_FIT = 60
"""The number of rows to fit in total, over all starting points: few rows are fitted from several
starting points, many from one or two."""
_BACKGROUNDS = (0.1, 0.5)
"""Starting points of a fit: what goes on in the background as a multiple of the same time."""
_LATENCIES = (0.03, 0.3, 1.0)
"""Starting points of a fit: the dependency latency as a multiple of the time of such a task."""


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
            return np.array([simulated_makespan(part, self.runner, _costs(point), self.machine)])

        slopes = _slopes(seconds, _point(self.costs))[0] * len(workflow.tasks) / len(part.tasks)
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


def predictors(results: Results) -> tuple[Predictor, ...]:
    """Fit the costs of each task runner that was measured.

    Args:
        results: The results of a benchmark run; rows of `metg`, `scaling` and `startup` are read.

    Returns:
        A predictor for each task runner with enough rows, in the order of the table of runners.

    Raises:
        ResultsError: If no task runner has enough rows, or a row lacks a parameter.
    """
    machine = machine_of(results)
    fitted = tuple(
        fit(runner, observed, machine, results.rows, most_tasks(results, runner))
        for runner in RUNNERS
        if len(observed := observations(results, runner, machine)) >= _LEAST_ROWS
    )
    if not fitted:
        raise ResultsError(
            "no rows to predict from: measure with pytest benchmarks/test_metg.py --benchmark-only"
        )
    return fitted


def fit(
    runner: str,
    observed: Sequence[Observation],
    machine: Machine,
    rows: Sequence[Row] = (),
    most: int = 0,
) -> Predictor:
    """Fit the costs with which the simulation comes nearest to the observations.

    `submit` and `task` are distinguished by comparing rows without work, where the bottleneck of
    the two decides, and rows with much work, during which submission goes on;
    `dependency_latency` by comparing chains, stencils and trees with tasks without edges; `byte`
    by payloads. A cost that no row depends on is taken to be zero.

    Args:
        runner: The name of the task runner.
        observed: Observations with different amounts of work.
        machine: The machine that they were measured on.
        rows: Rows among which those of start-up and of predictions of the task runner are searched.
        most: The largest number of tasks measured, if it was not among the observations.

    Returns:
        The predictor.
    """
    import numpy as np
    from scipy.optimize import least_squares

    tasks = [task for observation in observed for task in observation.workflow.tasks]
    most_bytes = max(task.output_bytes for task in tasks)
    # If the flow's own thread does the tasks, there is no dependency latency.
    knows_edges = RUNNERS[runner].execution.inline or any(task.parents for task in tasks)

    def logs(point: Floats) -> Floats:
        costs = _costs(point)
        simulated = (
            simulated_makespan(observation.workflow, runner, costs, observation.machine)
            for observation in observed
        )
        logarithms: Floats = np.log([max(seconds, _LEAST_SECONDS) for seconds in simulated])
        return logarithms

    measured = np.log([observation.seconds for observation in observed])
    least = min(observation.seconds / len(observation.workflow.tasks) for observation in observed)
    starts = (
        _point(
            Costs(
                submit=share * least,
                task=(1 - share) * least,
                dependency_latency=times * least if knows_edges else _LEAST_SECONDS,
                byte=1e-9 if most_bytes else _NO_BYTE,
                background=share_behind * least,
            )
        )
        for share in _SHARES
        for times in _LATENCIES
        for share_behind in _BACKGROUNDS
    )
    # From a single starting point, the descent may get stuck at a kink of the simulation.
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
            max_nfev=25,
        )
        for first in nearest[: max(_ROWS_TO_FIT // len(observed), 1)]
    ]
    point = min(fits, key=lambda result: float(result.cost)).x
    costs = _costs(point)
    slopes = _slopes(logs, point)
    residuals = _unfitted(measured - logs(point), slopes)
    misses = list(held_out_misses(runner, rows))
    if len(misses) < _LEAST_HELD_OUT:
        misses = []
        for each, residual in zip(observed, residuals.tolist(), strict=True):
            part = Parts.of(each.workflow, runner, costs, each.machine)
            # A row is the median of rounds, and what is predicted is a single one.
            for error in (residual - each.scatter, residual + each.scatter):
                misses.append(Miss(part.computing, part.overhead, part.makespan * error))
    return Predictor(
        runner=runner,
        costs=costs,
        machine=machine,
        start=_start(runner, rows, costs, machine),
        knows_edges=knows_edges,
        most_bytes=most_bytes,
        most_tasks=max(most, *(len(each.workflow.tasks) for each in observed)),
        draws=_draw_costs(
            slopes, residuals, [observation.standard_error for observation in observed]
        ),
        spread=Spread.of(misses),
    )


def _start(runner: str, rows: Iterable[Row], costs: Costs, machine: Machine) -> float | None:
    """Return the seconds that a flow run of one task takes apart from that task."""
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
    return Costs(*(math.exp(logarithm) for logarithm in point))


def _slopes(function: Callable[[Floats], Floats], point: Floats) -> Floats:
    """Return the derivatives of a function with respect to the logarithm of each cost.

    The step is wide, because a simulation has kinks where the bottleneck changes.
    """
    import numpy as np

    step = 0.05
    here = function(point)
    shifted = (function(point + shift) for shift in step * np.eye(len(point)))
    return np.stack([(values - here) / step for values in shifted], axis=1)


def _unfitted(residuals: Floats, slopes: Floats) -> Floats:
    """Return residuals as large as those of other rows would be.

    A fit makes the residuals of its own rows smaller, the more so the more a row decides.

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 6.2.3: modified
        residuals.
    """
    import numpy as np

    leverage = np.diag(slopes @ np.linalg.pinv(slopes, rcond=_UNDETERMINED))
    modified: Floats = residuals / np.sqrt(np.maximum(1 - leverage, _LEAST_REMAINDER))
    return modified


def _draw_costs(slopes: Floats, residuals: Floats, standard_errors: Sequence[float]) -> Floats:
    """Draw costs that are compatible with the rows, as shifts of their logarithms."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = (_DRAWS, len(residuals))
    errors = rng.choice(residuals, size) + rng.normal(size=size) * np.array(standard_errors)
    # Costs that the rows do not determine keep their fitted values.
    shifts: Floats = errors @ np.linalg.pinv(slopes, rcond=_UNDETERMINED).T
    return shifts
