# SPDX-License-Identifier: Apache-2.0
"""The few measurements that advice for this machine needs; `this_machine` runs pytest on this file.

It is not one of the tests: the plugin isolates what it runs, starts a server and task runners, and
ends them, as for a benchmark.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import TaskRunner

from flowgauge.measure.graph_flow import submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.measure.intervals import median_interval
from flowgauge.predict.held_out import Timed, time_workflows
from flowgauge.predict.this_machine import MARK
from flowgauge.results.fingerprint import fingerprint
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Results, Row, Unit
from flowgauge.runners.started import StartedRunners
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import payload_chain, shape
from flowgauge.workflows.workflow import Kernel, Workflow

SECONDS = 20.0
"""How long workflows are timed on all task runners together, if a round on each is not longer."""
_KINDS: tuple[tuple[str, int, float, Kernel], ...] = (
    ("trivial", 8, 0.0, "native"),
    ("trivial", 4, 0.03, "native"),
    ("trivial", 2, 0.15, "native"),
    ("trivial", 3, 0.04, "python"),
    ("trivial", 3, 0.08, "wait"),
    ("chain", 3, 0.0, "native"),
    ("chain", 3, 0.05, "native"),
    ("stencil", 3, 0.03, "native"),
)
"""Shape, steps, seconds and kernel of the workflows; their width is the number of workers."""
_PAYLOADS = (10**5, 10**7)
_CHAIN = 4


def test_costs(
    benchmark: Any,
    task_runner: TaskRunner[Any],
    runner_name: str,
    bare_pool: Executor,
    speeds: Speeds,
    started_runners: StartedRunners,
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
) -> None:
    """Time workflows and a start on one task runner, and add the rows to the results."""
    benchmark.pedantic(lambda: None)
    begin = time.perf_counter()
    workers = started_runners.workers
    plain = [shape(name, workers, n, seconds=s, kernel=kernel) for name, n, s, kernel in _KINDS]
    chains = [payload_chain(size, _CHAIN) for size in _PAYLOADS]
    share = SECONDS / sum(
        "runner_name" in getattr(item, "fixturenames", ()) for item in request.session.items
    )
    rounds: list[list[Timed]] = []

    def measure() -> None:
        submit_all(plain[0], speeds)
        until = time.perf_counter() + share
        while not rounds or time.perf_counter() < until:
            run = time_workflows(
                [*plain, *chains],
                lambda graph: submit_all(graph, speeds),
                bare_pool,
                speeds,
                workers,
                1,
            )
            rounds.append(run)

    inside_flow(task_runner, measure)
    start = time.perf_counter()
    one = shape("trivial", 1, 1)
    inside_flow(started_runners.task_runner(runner_name), lambda: submit_all(one, speeds))
    first = time.perf_counter() - start
    rows = [
        *(row for row in _rows(runner_name, rounds, workers)),
        _row(runner_name, Group.STARTUP, "first-task", [first], {}),
    ]
    file = Path(pytestconfig.getoption("flow_report_dir")) / "results.json"
    earlier = Results.load(file).rows if file.exists() else ()
    mark = fingerprint(Path(), workers, "flowgauge advise --measure")
    Results(mark, (*earlier, *rows)).save(file)
    print(f"{MARK}{runner_name} in {time.perf_counter() - begin:.0f} s", file=sys.stderr)


def _rows(runner: str, rounds: list[list[Timed]], workers: int) -> Iterator[Row]:
    """Yield the rows from which `observations` reads what was timed."""
    for timed in zip(*rounds, strict=True):
        workflow, tasks = timed[0].workflow, len(timed[0].workflow.tasks)
        seconds = [each.seconds[0] for each in timed]
        if size := workflow.tasks[0].output_bytes:
            params: dict[str, Any] = {"payload_bytes": size, "tasks": tasks}
            values = [each / (tasks - 1) for each in seconds]
            yield _row(runner, Group.SCALING, "payload", values, params)
            continue
        params = {
            "kernel": workflow.tasks[0].kernel,
            "shape": workflow.name.split()[0],
            "work_seconds": workflow.tasks[0].seconds,
            "tasks": tasks,
            "workers": workers,
        }
        values = [each * workers / tasks for each in seconds]
        paces = [each.paces[0] for each in timed]
        yield _row(runner, Group.METG, "curve", values, params, _ideal(workflow, paces, workers))


def _ideal(workflow: Workflow, paces: list[float], workers: int) -> float | None:
    """Return the time for each task and worker that the work takes at the measured pace."""
    least = workflow.lower_bound(workers) * workers / len(workflow.tasks)
    return least / statistics.median(paces) if least else None


def _row(
    runner: str,
    group: Group,
    id: str,
    values: list[float],
    params: dict[str, Any],
    ideal: float | None = None,
) -> Row:
    value = median_interval(values)
    return Row(
        id=id,
        group=group,
        runner=runner,
        params=params,
        figure="time",
        unit=Unit.SECONDS,
        value=value,
        rounds=len(values),
        reference="bare pool" if ideal else None,
        ratio=Interval.exact(value.median / ideal) if ideal else None,
    )
