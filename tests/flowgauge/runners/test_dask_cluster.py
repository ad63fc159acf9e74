# SPDX-License-Identifier: Apache-2.0
"""Dask clusters of a pytest run keep to themselves."""

from __future__ import annotations

from typing import Any

import distributed
import pytest
from prefect import flow, task
from prefect.task_runners import TaskRunner


@task
def leaf() -> str:
    """Return the address of the scheduler of the worker that runs this."""
    return str(distributed.get_worker().scheduler.address)


@task
def branch() -> str:
    """Submit a task from inside of a task."""
    return leaf.submit().result()


@flow
def tree() -> str:
    """Run a task that submits a task."""
    return branch.submit().result()


@flow
def plain() -> str:
    """Run a task that submits nothing."""
    return leaf.submit().result()


@pytest.mark.runners("dask-threads")
def test_a_task_that_submits_leaves_no_default_client(
    task_runner: TaskRunner[Any], started_runners: Any
) -> None:
    """After tasks of `dask-threads` submitted tasks, other clusters run what they are asked to."""
    threads, processes = (
        started_runners.task_runner(name) for name in ("dask-threads", "dask-processes")
    )
    assert tree.with_options(task_runner=task_runner)() == threads.address
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()
    assert plain.with_options(task_runner=processes)() == processes.address != threads.address
    assert tree.with_options(task_runner=task_runner)() == threads.address
