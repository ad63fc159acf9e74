# SPDX-License-Identifier: Apache-2.0
"""Times a workflow inside a running flow, on task runners with any number of workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flowgauge.measure.budget import Budget
from flowgauge.measure.graph_flow import submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.runners.started import StartedRunners
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.work_items import check_results
from flowgauge.workflows.workflow import Workflow

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


def seconds_of_rounds(
    task_runner: TaskRunner[Any], workflow: Workflow, speeds: Speeds, budget: Budget
) -> tuple[float, ...]:
    """Time a workflow and check its answers; the start of flow and workers is not timed.

    Args:
        task_runner: The task runner.
        workflow: What to run.
        speeds: The iterations of each kernel in a second.
        budget: How long to measure.

    Returns:
        The wall seconds of each round.
    """
    seconds: list[float] = []

    def body() -> None:
        # Warm-up: the first task of each worker pays for imports.
        submit_all(shape("trivial", 4, 1), speeds)
        while not budget.is_used(seconds, sum(seconds)):
            start = time.perf_counter()
            outputs = submit_all(workflow, speeds)
            seconds.append(time.perf_counter() - start)
            check_results(workflow, speeds, outputs)

    inside_flow(task_runner, body)
    return tuple(seconds)


@contextlib.contextmanager
def runner_of_width(started: StartedRunners, name: str, workers: int) -> Iterator[TaskRunner[Any]]:
    """Start a task runner with a given number of workers.

    Args:
        started: The task runners of this pytest run; used if their number of workers is the same.
        name: The name of the task runner.
        workers: How many tasks may run side by side.

    Yields:
        The task runner.
    """
    if workers == started.workers:
        yield started.task_runner(name)
        return
    other = StartedRunners(workers, started.home, started.as_shipped)
    with contextlib.closing(other):
        yield other.task_runner(name)
