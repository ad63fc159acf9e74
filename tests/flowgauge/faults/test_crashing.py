# SPDX-License-Identifier: Apache-2.0
"""Processes killed while they run a task: how Dask, the process pool and Prefect react."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool
from typing import Any
from uuid import UUID

import pytest
from prefect import task

from flowgauge.faults.errors import FaultRefused
from flowgauge.faults.faults import Faults
from flowgauge.faults.plan import FaultPoint
from flowgauge.observe.history import History, run_history
from flowgauge.waiting import wait_until
from tests.flowgauge.faults.conftest import RunTasks

POOL_OR_DASK = '@pytest.mark.runners("processes", "dask-processes")'


@task(retries=2)
def charge(order: int) -> int:
    """Return the id of the process that it runs in."""
    return os.getpid()


@task(retries=2)
async def charge_async(order: int) -> int:
    """Return the id of the process that it runs in."""
    return os.getpid()


def history_of(run: UUID, states: int) -> History:
    """Return a run's history once it has a number of states; the run need not end."""

    def so_far() -> History | None:
        history = run_history(run, final=False)
        return history if len(history.steps) >= states else None

    return wait_until(so_far, lambda: f"{states} states of {run_history(run, final=False)!r}")


@pytest.mark.runners("processes")
@pytest.mark.parametrize(
    ("point", "states"),
    [
        ("before the body", "Pending Running"),
        ("after the effect", "Pending Running"),
        ("after completion", "Pending Running Completed"),
    ],
)
def test_a_pool_does_not_survive(
    faults: Faults, run_tasks: RunTasks, point: FaultPoint, states: str
) -> None:
    """A killed worker breaks the whole pool; Prefect does not retry, and the run keeps its state.

    States are recorded up to the point of the crash: a run that was Running stays Running.
    """
    faults.on("charge", at=point).crash_process()
    _, [outcome] = run_tasks((charge, 1))
    assert isinstance(outcome.error, BrokenProcessPool)
    assert history_of(outcome.run, len(states.split())).matches(states)


@pytest.mark.runners("dask-processes")
def test_dask_runs_the_task_again(faults: Faults, run_tasks: RunTasks) -> None:
    """When a worker dies, Dask runs its tasks again, even those that were already Completed.

    This is not a retry by Prefect: the run starts again with Pending and Running.
    """
    faults.on("charge", at="after completion").crash_process()
    faults.on("charge_async", at="after the effect").crash_process()
    # One after the other: on a shared worker, the first task's crash would also hit the second.
    _, [completed] = run_tasks((charge, 1))
    _, [interrupted] = run_tasks((charge_async, 1))
    history = history_of(completed.run, 6)
    assert history.matches("Pending Running Completed Pending Running Completed")
    history = history_of(interrupted.run, 5)
    assert history.matches("Pending Running Pending Running Completed")


@pytest.mark.runners("sequential", "threads", "dask-threads")
@pytest.mark.parametrize("a_task", [charge, charge_async], ids=["sync", "async"])
def test_pytest_is_not_killed(
    unchecked_faults: Faults, run_tasks: RunTasks, a_task: Any, runner_name: str
) -> None:
    """Where tasks run in pytest's own process, the fault is refused and the task fails."""
    unchecked_faults.on("charge*").crash_process(times=3)
    state, outcomes = run_tasks((a_task, 1))
    error = outcomes[0].error if outcomes else state.result(raise_on_failure=False)
    assert isinstance(error, FaultRefused)
    assert [str(error)] == unchecked_faults.refused()
    assert POOL_OR_DASK in str(error)


def test_a_task_that_is_called_runs_in_pytests_process(unchecked_faults: Faults) -> None:
    """`crash_process` is also refused for a task that is called rather than submitted."""
    unchecked_faults.on("charge").crash_process()
    with pytest.raises(FaultRefused, match="submit it on the task runner"):
        charge(1)
