# SPDX-License-Identifier: Apache-2.0
"""Fits the costs of task runners to measured rows.

The workflow that each row timed is simulated; the costs are those with which the simulation comes
nearest to all rows of a task runner (least squares of the logarithms).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flowgauge.predict.errors import LEAST_SECONDS, Miss, Parts, Spread, held_out_misses
from flowgauge.predict.observations import Observation, machine_of, most_tasks, observations
from flowgauge.predict.prediction import NO_BYTE, Predictor, costs_at, logarithms, slopes_at
from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
from flowgauge.results.rows import Group, Results, ResultsError, Row
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import shape

if TYPE_CHECKING:
    from flowgauge.predict.errors import Floats

_DRAWS = 1000
_LEAST_ROWS = 3
_LEAST_HELD_OUT = 5
"""With fewer rows of workflows that were held out, errors are those of the rows that were fitted.
"""
_LEAST_REMAINDER = 0.1
"""The least that is left to chance in a row that alone decides a cost."""
_UNDETERMINED = 0.05
"""Below this share of the largest effect, the effect of a change of costs is lost in the noise."""
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Starting points of a fit: the share of submission in the time of a task without work."""
_ROWS_TO_FIT = 60
"""The number of rows to fit in total, over all starting points: few rows are fitted from several
starting points, many from one or two."""
_BACKGROUNDS = (0.1, 0.5)
"""Starting points of a fit: what goes on in the background as a multiple of the same time."""
_LATENCIES = (0.03, 0.3, 1.0)
"""Starting points of a fit: the dependency latency as a multiple of the time of such a task."""


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
        costs = costs_at(point)
        simulated = (
            simulated_makespan(observation.workflow, runner, costs, observation.machine)
            for observation in observed
        )
        simulated_logs: Floats = np.log([max(seconds, LEAST_SECONDS) for seconds in simulated])
        return simulated_logs

    measured = np.log([observation.seconds for observation in observed])
    least = min(observation.seconds / len(observation.workflow.tasks) for observation in observed)
    starts = (
        logarithms(
            Costs(
                submit=share * least,
                task=(1 - share) * least,
                dependency_latency=times * least if knows_edges else LEAST_SECONDS,
                byte=1e-9 if most_bytes else NO_BYTE,
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
            # A wide step: see `slopes_at`.
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
    costs = costs_at(point)
    slopes = slopes_at(logs, point)
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
