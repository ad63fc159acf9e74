# SPDX-License-Identifier: Apache-2.0
"""The virtual clock and faults reach the workers of a project's own task runners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster
from prefect import flow, task
from prefect.deployments import run_deployment
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flowgauge import Faults, VirtualClock
from flowgauge.runners.worker_setup import prepare_worker
from patterns.task_runners.lean_process_pool import LeanProcessPoolTaskRunner

HOUR = 3600.0
LOCAL = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


@task(retries=1, retry_delay_seconds=HOUR)
def fetch() -> tuple[str, int]:
    """Return what the worker's own initializer has set, and in which process this runs."""
    return os.environ.get("GREETING", ""), os.getpid()


@flow
def report() -> tuple[str, int]:
    """Run the task on the flow's task runner."""
    answer: tuple[str, int] = fetch.submit().result()
    return answer


def greet(name: str) -> None:
    """Initialize a worker."""
    os.environ["GREETING"] = f"hello {name}"


def check(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, faults: Faults
) -> tuple[str, int]:
    """Check that a task is let fail once, and its retry waits in virtual time."""
    struck, elapsed = faults.struck("fetch"), virtual_clock.elapsed
    answer = report.with_options(task_runner=task_runner)()
    assert faults.struck("fetch") == struck + 1
    assert virtual_clock.elapsed >= elapsed + HOUR
    return answer


@pytest.fixture(autouse=True)
def failing(faults: Faults) -> None:
    """Let each task run fail once."""
    faults.on("fetch").fail_times(1)


@pytest.mark.parametrize("pool_class", [ProcessPoolTaskRunner, LeanProcessPoolTaskRunner])
def test_a_process_pool(pool_class: Any, virtual_clock: VirtualClock, faults: Faults) -> None:
    """Those of a process pool are reached, and their own initializer runs, also the next time."""
    pool = pool_class(max_workers=1, initializer=greet, initargs=("you",))
    for _ in range(2):
        greeting, pid = check(pool, virtual_clock, faults)
        assert greeting == "hello you"
        assert pid != os.getpid()


@pytest.mark.parametrize("processes", [True, False], ids=["processes", "threads"])
def test_a_local_cluster_of_a_flow(
    processes: bool, virtual_clock: VirtualClock, faults: Faults
) -> None:
    """Those of a cluster that lives as long as a flow run are reached, in threads too.

    Pytest's own process is not taken for a worker.
    """
    before = prepare_worker.cache_info()
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": processes, **LOCAL}
    _, pid = check(DaskTaskRunner(cluster_kwargs=options), virtual_clock, faults)
    assert (pid != os.getpid()) == processes
    assert prepare_worker.cache_info() == before


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Return a cluster that serves more than one flow run."""
    with LocalCluster(n_workers=1, threads_per_worker=1, **LOCAL) as started:
        yield started


def test_a_local_cluster_of_a_project(
    virtual_clock: VirtualClock, faults: Faults, cluster: LocalCluster
) -> None:
    """Those of a cluster that serves more than one flow run are reached once, not each time."""
    # `DaskTaskRunner(cluster=cluster)` can't be pickled, with or without Flowgauge.
    address = cluster.scheduler_address
    runs = [check(DaskTaskRunner(address=address), virtual_clock, faults) for _ in range(2)]
    assert runs[0] == runs[1]


POOL: Any = ProcessPoolTaskRunner(max_workers=1)


@flow(task_runner=POOL)
def report_from_pool() -> int:
    """Run the task on a process pool."""
    _, pid = fetch.submit().result()
    return pid


def test_the_process_pool_of_a_served_flow(
    virtual_clock: VirtualClock, faults: Faults, serve: Any
) -> None:
    """Those of a flow run that a service executes in a process of its own are reached as well."""
    served = serve(report_from_pool, processes=True)
    flow_run: Any = run_deployment(served.name)
    assert flow_run.state.is_completed()
    assert faults.struck("fetch") == 1
    assert virtual_clock.elapsed >= HOUR
