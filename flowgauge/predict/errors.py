# SPDX-License-Identifier: Apache-2.0
"""How far makespans are from predictions: the errors of the overhead and of the computing.

The work that the user states is exact. What is uncertain is the overhead, which is what the
simulation adds because tasks have costs, and how fast this machine computes at a given moment.
Both have a relative error of their own, so the error of a makespan is that of its two parts: a
workflow that mostly waits for its own work is predicted well, however uncertain the costs are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowgauge.predict.simulation import FREE, Costs, Machine, least_makespan, simulated_makespan
from flowgauge.results.rows import Group, Row
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FREEDOM = 4
"""The degrees of freedom of Student's t, whose tails are as long as those of measured times."""
_LEAST, _MOST, _STEPS = 0.01, 2.0, 40
"""The scales that are tried; no machine repeats a time to less than a hundredth."""
LEAST_SECONDS = 1e-6
"""What takes less counts as so much, for its logarithm."""


@dataclass(frozen=True)
class Parts:
    """The parts of a predicted makespan.

    Attributes:
        least: Seconds that nothing can beat.
        ideal: Seconds if tasks had no costs, at the machine's load.
        computing: Seconds of the ideal makespan in which tasks compute rather than wait.
        overhead: Seconds that the costs add to the ideal makespan.
    """

    least: float
    ideal: float
    computing: float
    overhead: float

    @classmethod
    def of(cls, workflow: Workflow, runner: str, costs: Costs, machine: Machine) -> Parts:
        """Simulate a workflow with costs and without.

        Args:
            workflow: What is run, inside a flow that is running already.
            runner: The name of the task runner.
            costs: Its costs.
            machine: The machine that it runs on.

        Returns:
            The parts.
        """
        makespan = simulated_makespan(workflow, runner, costs, machine)
        # With costs, tasks may start in a better order, by chance, than they do without.
        ideal = min(simulated_makespan(workflow, runner, FREE, machine), makespan)
        work = workflow.total_work
        computing = math.fsum(task.seconds for task in workflow.tasks if task.kernel != "wait")
        return cls(
            least=min(least_makespan(workflow, runner, machine), ideal),
            ideal=ideal,
            computing=ideal * computing / work if work else 0.0,
            overhead=makespan - ideal,
        )

    @property
    def makespan(self) -> float:
        """The predicted makespan, in seconds."""
        return self.ideal + self.overhead


@dataclass(frozen=True)
class Miss:
    """A prediction and how far it was off.

    Attributes:
        computing: Seconds in which the tasks of the workflow compute.
        overhead: Seconds that the costs add.
        seconds: Measured minus predicted, to first order: the logarithm of their ratio times the
            predicted makespan.
    """

    computing: float
    overhead: float
    seconds: float

    @classmethod
    def of(cls, parts: Parts, measured: float) -> Miss:
        """Compare a prediction with what was measured, in seconds."""
        predicted = max(parts.makespan, LEAST_SECONDS)
        return cls(parts.computing, parts.overhead, predicted * math.log(measured / predicted))


IDEAL = "makespan without the costs of tasks"
"""The figure of the rows that say what part of a held-out makespan is not overhead."""
PREDICTED = "makespan, and predicted over measured"
"""The figure of the rows that compare predictions with what was measured."""


def held_out_misses(runner: str, rows: Iterable[Row]) -> Iterator[Miss]:
    """Yield what the predictions of workflows that were held out missed by.

    Args:
        runner: The name of the task runner.
        rows: The rows of a benchmark run; earlier versions recorded no ideal makespans.

    Yields:
        One for each workflow.
    """
    ours = [row for row in rows if row.group == Group.PREDICTION and row.runner == runner]
    ideals = {row.id: row.value.median for row in ours if row.figure == IDEAL}
    for row in ours:
        if row.figure == PREDICTED and row.ratio is not None and row.id in ideals:
            ideal, predicted = ideals[row.id], row.ratio.median * row.value.median
            computing = 0.0 if row.params.get("kernel") == "wait" else ideal
            parts = Parts(ideal, ideal, computing, max(predicted - ideal, 0.0))
            yield Miss.of(parts, row.value.median)


_TYPICAL = (*(Miss(0.0, 1.0, 0.15),) * 2, *(Miss(1.0, 0.0, 0.05),) * 2)
"""What is assumed where few rows say anything: an overhead within 15 % and computing within 5 %, as
if two rows each had shown that."""


@dataclass(frozen=True)
class Spread:
    """The scales of the relative errors of the two parts.

    Attributes:
        overhead: That of the overhead.
        computing: That of the computing.
    """

    overhead: float
    computing: float

    @classmethod
    def of(cls, misses: Iterable[Miss]) -> Spread:
        """Return the most likely scales for what predictions missed by.

        The errors of both parts are taken to follow Student's t, so that a few bad rounds do not
        widen the rest. Scales are tried on a grid. A few misses of typical size are added, so that
        a handful of rows that agree by chance do not promise an accuracy that none has.

        Args:
            misses: What predictions missed by; the more, the less the typical ones count.

        Returns:
            The scales.

        Source:
            Lange, Little and Taylor, Robust Statistical Modeling Using the t Distribution (1989),
            Journal of the American Statistical Association 84.
        """
        import numpy as np

        rows = np.array(
            [(each.computing, each.overhead, each.seconds) for each in (*misses, *_TYPICAL)]
        )
        grid = np.geomspace(_LEAST, _MOST, _STEPS)
        computing, overhead = (axis[..., None] for axis in np.meshgrid(grid, grid))
        scale = np.hypot(rows[:, 0] * computing, rows[:, 1] * overhead) + LEAST_SECONDS
        unlikely = np.log(scale) + (FREEDOM + 1) / 2 * np.log1p((rows[:, 2] / scale) ** 2 / FREEDOM)
        total = unlikely.sum(axis=-1)
        best = np.unravel_index(int(total.argmin()), total.shape)
        return cls(float(overhead[best][0]), float(computing[best][0]))


def draw_makespans(parts: Parts, overheads: Floats, spread: Spread, name: str) -> Floats:
    """Draw makespans that are compatible with a prediction.

    All task runners see the same machine, so the error of the computing is drawn from the same
    random numbers for all of them. It cancels out where two of them are compared draw by draw.

    Args:
        parts: The prediction.
        overheads: The seconds of overhead with each draw of the costs.
        spread: The scales of the errors.
        name: The name of the task runner, whose other errors are its own.

    Returns:
        Seconds, one for each draw; none is below what nothing can beat.

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 6.3.3: a draw
        of the coefficients, and a new error on top of it.
    """
    import numpy as np

    own = np.random.default_rng(list(name.encode())).standard_t(FREEDOM, len(overheads))
    shared = np.random.default_rng(0).standard_t(FREEDOM, len(overheads))
    paid = np.maximum(overheads, 0.0) * np.exp(spread.overhead * own)
    drawn: Floats = parts.ideal + paid + parts.computing * spread.computing * shared
    return np.maximum(drawn, parts.least)
