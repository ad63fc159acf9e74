# SPDX-License-Identifier: Apache-2.0
"""Times a workflow in a flow that is running already, on task runners of any width."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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
    task_runner: TaskRunner[Any], workflow: Workflow, speeds: Speeds, rounds: int
) -> tuple[float, ...]:
    """Time a workflow, its answers checked, without the start of the flow and of its workers.

    Args:
        task_runner: What its tasks run on.
        workflow: What is run.
        speeds: How much work a second is.
        rounds: How often.

    Returns:
        The wall seconds of each round.
    """
    seconds: list[float] = []

    def body() -> None:
        # The first task of each worker pays for imports.
        submit_all(shape("trivial", 4, 1), speeds)
        for _ in range(rounds):
            start = time.perf_counter()
            outputs = submit_all(workflow, speeds)
            seconds.append(time.perf_counter() - start)
            check_results(workflow, speeds, outputs)

    inside_flow(task_runner, body)
    return tuple(seconds)


@contextlib.contextmanager
def runner_of_width(started: StartedRunners, name: str, workers: int) -> Iterator[TaskRunner[Any]]:
    """Start a task runner with a number of workers of its own.

    Args:
        started: The run's; where it has as many, it is used.
        name: The task runner.
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
