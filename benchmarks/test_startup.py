# SPDX-License-Identifier: Apache-2.0
"""The time until the first task of a flow run has its result, on each task runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow, task
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flowgauge.plugin.paired import Paired
from flowgauge.results.rows import Group
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import IN_OWN_PROCESSES, INLINE, RUNNERS, STOCK, BaselineKind

FIRST_TASK: dict[str, Any] = {
    "group": Group.STARTUP,
    "figure": "time of a flow run with one task",
    "against": "the same on sequential",
}


@task
def answer() -> int:
    """Return at once."""
    return 42


@flow
def one_task() -> int:
    """Run one task on the flow's task runner."""
    return answer.submit().result()


# The pool of the baseline starts the fork server, whose memory would count for the first test.
@pytest.mark.usefixtures("baseline")
@pytest.mark.full(on=lambda runner: runner.lean or not runner.common)
def test_first_task(
    paired: Paired, started_runners: StartedRunners, task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """A flow run with one task, when a cluster or fork server is up already."""
    paired(
        one_task.with_options(task_runner=task_runner),
        one_task.with_options(task_runner=started_runners.task_runner(INLINE[0])),
        check=lambda result: result == 42,
        id="first-task",
        runner=runner_name,
        **FIRST_TASK,
    )


@pytest.mark.runners(*INLINE, *STOCK)
def test_noise(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The noise: a flow run with one task compared with itself."""
    paired.against_itself(
        one_task.with_options(task_runner=task_runner),
        of=Group.STARTUP,
        check=lambda result: result == 42,
        id="first-task",
        figure=FIRST_TASK["figure"],
        runner=runner_name,
        rounds=paired.recorder.budget.min_rounds,
    )


def spawned_pool(workers: int) -> TaskRunner[Any]:
    """Return the process pool as Prefect ships it: every worker imports Prefect."""
    return ProcessPoolTaskRunner(max_workers=workers)


def temporary_cluster(workers: int) -> TaskRunner[Any]:
    """Return the Dask task runner in its default form: a new cluster for each flow run."""
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "worker_dashboard_address": "127.0.0.1:0",
        }
    )


AS_SHIPPED = {BaselineKind.PROCESSES: spawned_pool, BaselineKind.DASK: temporary_cluster}


# A process has one Ray, which all its flow runs share.
@pytest.mark.runners(*(n for n in IN_OWN_PROCESSES if RUNNERS[n].baseline in AS_SHIPPED))
def test_first_task_as_shipped(
    paired: Paired, started_runners: StartedRunners, runner_name: str
) -> None:
    """The same without anything shared: a spawned pool, or a cluster for one flow run."""
    as_shipped: Callable[[int], TaskRunner[Any]] = AS_SHIPPED[RUNNERS[runner_name].baseline]
    paired(
        one_task.with_options(task_runner=as_shipped(started_runners.workers)),
        one_task.with_options(task_runner=started_runners.task_runner(INLINE[0])),
        check=lambda result: result == 42,
        id="first-task-as-shipped",
        runner=runner_name,
        rounds=2 if paired.recorder.full else 1,
        **FIRST_TASK,
    )
