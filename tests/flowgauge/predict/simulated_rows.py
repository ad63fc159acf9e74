# SPDX-License-Identifier: Apache-2.0
"""Rows of task runners that behave as simulated, to test what derives costs from rows."""

from __future__ import annotations

from typing import Any

from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Results, Row
from flowgauge.workflows.shapes import payload_chain, shape
from flowgauge.workflows.workflow import Kernel

WORKERS = 2
TRUE = Costs(submit=0.004, task=0.03, dependency_latency=0.01, byte=2e-9, background=0.005)
CELLS: tuple[tuple[str, Kernel, float], ...] = (
    ("trivial", "native", 0.0),
    ("trivial", "native", 0.02),
    ("trivial", "native", 0.2),
    ("trivial", "python", 0.1),
    ("trivial", "wait", 0.1),
    ("chain", "native", 0.0),
    ("chain", "native", 0.05),
    ("stencil", "native", 0.05),
    ("tree", "native", 0.05),
)


def figure(group: str, id: str, runner: str, value: float, **more: Any) -> Row:
    """Return a row as a benchmark would record it, with an interval of 2 % to either side."""
    fields: dict[str, Any] = {
        "params": {},
        "figure": "time",
        "unit": "seconds",
        "value": Interval(value, value * 0.98, value * 1.02),
        "rounds": 3,
    }
    return Row(id=id, group=group, runner=runner, **(fields | more))


def rows_of(runner: str, costs: Costs, machine: Machine) -> list[Row]:
    """Return the rows of a task runner that behaves as simulated."""
    rows = []
    for name, kernel, seconds in CELLS:
        workflow = shape(name, WORKERS, 6, seconds=seconds, kernel=kernel)
        tasks = len(workflow.tasks)
        params = {"kernel": kernel, "shape": name, "work_seconds": seconds}
        value = simulated_makespan(workflow, runner, costs, machine) * WORKERS / tasks
        pace = 1.0 if kernel == "wait" else machine.pace
        ideal = workflow.lower_bound(WORKERS) * WORKERS / tasks / pace
        ratio = Interval.exact(value / ideal) if seconds else None
        params |= {"tasks": tasks, "workers": WORKERS}
        rows.append(figure("metg", "curve", runner, value, params=params, ratio=ratio))
    for size in (0, 10**6, 10**7):
        taken = simulated_makespan(payload_chain(size, 5), runner, costs, machine)
        params = {"payload_bytes": size, "tasks": 5}
        rows.append(figure("scaling", "payload", runner, taken / 4, params=params))
    one = simulated_makespan(shape("trivial", 1, 1), runner, costs, machine)
    return [*rows, figure("startup", "first-task", runner, 0.5 + one)]


def results(*rows: Row, **marks: Any) -> Results:
    """Return results with these rows."""
    return Results({"workers": WORKERS, "cores": 2} | marks, rows)
