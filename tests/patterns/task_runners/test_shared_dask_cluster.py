# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/shared_dask_cluster.py`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from distributed import Client, LocalCluster
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flowgauge.runners.started import StartedRunners
from flowgauge.waiting import patience
from patterns.task_runners import shared_dask_cluster
from patterns.task_runners.shared_dask_cluster import develop_film, shared_cluster
from tests.hosts import Cluster
from tests.patterns.task_runners.cut_off_worker import Cut, cut_off_worker

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/shared_dask_cluster"

on_dask = pytest.mark.runners("dask-processes")


@pytest.fixture(scope="module")
def scheduler(started_runners: StartedRunners, runner_name: str) -> str:
    """Return the address of the cluster that serves the whole pytest run."""
    return started_runners.dask_scheduler(runner_name)


def film(address: str) -> Flow[[list[str]], set[int]]:
    """Return the pattern's flow on the cluster at an address."""
    runner: TaskRunner[Any] = DaskTaskRunner(address=address)
    return develop_film.with_options(task_runner=runner)


def worker_pids(address: str) -> set[int]:
    """Return the process ids of a cluster's workers."""
    with Client(address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        return set(client.run(os.getpid).values())


@on_dask
@pytest.mark.guarantee(NAME, "reuse")
def test_flow_runs_use_the_same_workers(scheduler: str) -> None:
    """Two flow runs through one address run their tasks in the same worker processes."""
    workers = worker_pids(scheduler)
    for _ in range(2):
        with shared_cluster(scheduler) as address:
            assert film(address)(["beach", "city"]) <= workers


@on_dask
@pytest.mark.fact(NAME, "outlives")
@pytest.mark.parametrize("negatives", [["beach"], [""]], ids=["completed", "failed"])
def test_the_cluster_outlives_a_flow_run(scheduler: str, negatives: list[str]) -> None:
    """The cluster keeps running with the same workers after a flow run, even one that failed."""
    workers = worker_pids(scheduler)
    with shared_cluster(scheduler) as address:
        state: State[set[int]] = film(address)(negatives, return_state=True)
        assert state.is_completed() == bool(negatives[0])
        assert worker_pids(address) == workers


@on_dask
@pytest.mark.guarantee(NAME, "existing")
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_existing_cluster_is_used_and_left_alone(
    scheduler: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is passed, or else the one in `DASK_ADDRESS`, is used.

    Nothing is started, and that cluster keeps running afterwards.
    """
    workers = worker_pids(scheduler)

    def start_nothing(**options: Any) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(shared_dask_cluster, "LocalCluster", start_nothing)
    monkeypatch.setenv("DASK_ADDRESS", scheduler if by == "environment" else "tcp://nowhere:1")
    with shared_cluster(scheduler if by == "argument" else None) as address:
        assert address == scheduler
    assert worker_pids(scheduler) == workers


@dataclass(frozen=True)
class Life:
    """What was observed of a cluster that the pattern started, and closed after an error."""

    address: str
    workers: frozenset[int]
    used: frozenset[int]
    listening: frozenset[str]
    error: str
    survivors: frozenset[int]


@pytest.fixture(scope="module")
def life(prefect_server: str, runner_name: str) -> Life:
    """Start one cluster, run a flow on it, and leave the block with an error."""
    error = ""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("DASK_ADDRESS", raising=False)
        try:
            with shared_cluster(workers=1) as address:
                processes = [psutil.Process(pid) for pid in worker_pids(address)]
                used = film(address)(["beach", "city"])
                listening = {
                    str(connection.laddr.ip)
                    for process in [psutil.Process(), *processes]
                    for connection in process.net_connections(kind="tcp")
                    if connection.status == psutil.CONN_LISTEN
                }
                raise LookupError("the block fails")
        except LookupError as raised:
            error = str(raised)
    _, alive = psutil.wait_procs(processes, timeout=patience())
    return Life(
        address=address,
        workers=frozenset(process.pid for process in processes),
        used=frozenset(used),
        listening=frozenset(listening),
        error=error,
        survivors=frozenset(process.pid for process in alive),
    )


@on_dask
@pytest.mark.guarantee(NAME, "closed")
def test_a_started_cluster_is_gone_after_the_block(life: Life) -> None:
    """A cluster that was started here is gone after its block has raised an error."""
    assert life.error == "the block fails"
    assert life.used == life.workers
    assert not life.survivors
    parts = urlsplit(life.address)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(parts.hostname), parts.port or 0), timeout=5)


@on_dask
@pytest.mark.guarantee(NAME, "loopback")
def test_a_started_cluster_listens_on_this_machine_only(life: Life) -> None:
    """The scheduler, the workers and their dashboards listen on loopback and nowhere else."""
    assert life.listening == {"127.0.0.1"}


@contextmanager
def in_process_cluster() -> Iterator[LocalCluster]:
    """Run a small cluster in this process, which starts at once and pickles the same objects."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@on_dask
@pytest.mark.fact(NAME, "object")
def test_a_cluster_object_fails_at_the_first_task(runner_name: str) -> None:
    """`DaskTaskRunner(cluster=...)` fails at the first task, `address=...` does not (#17754)."""
    with in_process_cluster() as cluster:
        by_object: TaskRunner[Any] = DaskTaskRunner(cluster=cluster)
        with pytest.raises(Exception, match=r"serialize|pickle"):
            develop_film.with_options(task_runner=by_object)(["beach"])
        assert film(cluster.scheduler_address)(["beach"]) == {os.getpid()}


@pytest.fixture(scope="module")
def cut(hosts: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    """Cut off the host of a worker in the middle of a task."""
    runner: TaskRunner[Any] = DaskTaskRunner(address=hosts.scheduler)
    return cut_off_worker(hosts, runner, tmp_path_factory.mktemp("cut"))


@pytest.mark.e2e
@pytest.mark.fact(NAME, "cut-off")
def test_a_task_runs_again_elsewhere(cut: Cut) -> None:
    """A task whose worker is cut off runs again as the same task run, and the flow completes.

    Dask's `worker-ttl` is 5 s.
    """
    assert cut.result == cut.second
    assert cut.flow_run == "Completed"
    assert cut.before == ("Pending", "Running", "Pending", "Running", "Completed")
    assert cut.run_count == 1


@pytest.mark.e2e
@pytest.mark.fact(NAME, "late-states")
def test_states_of_the_first_run_arrive_late(cut: Cut) -> None:
    """When the link is back, the end of the first run reaches the server after the second's."""
    assert cut.after == (*cut.before, "Completed")


@pytest.mark.e2e
@pytest.mark.fact(NAME, "not-back")
def test_the_worker_does_not_come_back(cut: Cut) -> None:
    """The worker that was cut off, and its nanny, end; Dask's TCP timeout is 11 s."""
    assert cut.workers == (cut.second,)
