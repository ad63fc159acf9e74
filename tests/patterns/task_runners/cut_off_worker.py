# SPDX-License-Identifier: Apache-2.0
"""The host of a Dask worker is cut off in the middle of a task: what happens then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from distributed import Client, get_worker
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience, wait_until

if TYPE_CHECKING:
    from tests.hosts import Cluster, Host


def host_of(address: str) -> str:
    """Return the host in an address of Dask's."""
    return address.removeprefix("tcp://").rpartition(":")[0]


@task
def travel(folder: Path) -> str:
    """Note the worker's host, wait until it may go on, and return it."""
    host = host_of(get_worker().address)
    (folder / f"{host} begins").touch()
    wait_until((folder / f"{host} may end").exists)
    (folder / f"{host} ends").touch()
    return host


@flow
def journey(folder: Path) -> tuple[str, str]:
    """Run the task on one worker, and return its host and the id of the task run."""
    future = travel.submit(folder)
    return future.result(), str(future.task_run_id)


@dataclass(frozen=True)
class Cut:
    """What was observed when a worker's host was cut off in the middle of a task.

    Attributes:
        first: The host that was cut off.
        second: The other worker's host.
        result: The host that the flow run's result came from.
        flow_run: The state of the flow run while the link was still down.
        before: The states of the task run while the link was still down, in their order.
        after: The states once those of the first run had arrived.
        run_count: The run count of the task run at the end.
        workers: The hosts of the scheduler's workers once the process that was cut off had ended.
    """

    first: str
    second: str
    result: str
    flow_run: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    run_count: int
    workers: tuple[str, ...]


@contextmanager
def cut_off_at_first_task(
    folder: Path, hosts: Cluster, api: httpx.Client, cut: list[Host]
) -> Iterator[None]:
    """Cut off the host on which the task runs, as the server knows, and let it end elsewhere."""
    running = {"name": {"like_": "travel"}, "state": {"type": {"any_": ["RUNNING"]}}}

    def cut_off() -> None:
        begun = wait_until(lambda: list(folder.glob("* begins")), "the task")
        known = {"task_runs": running}
        wait_until(lambda: api.post("/task_runs/count", json=known).json(), "its state")
        for host in hosts.workers:
            if begun[0].name.startswith(f"{host.address} "):
                host.link("down")
                cut.append(host)
            else:
                (folder / f"{host.address} may end").touch()

    thread = threading.Thread(target=cut_off)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def cut_off_worker(hosts: Cluster, runner: TaskRunner[Any], folder: Path) -> Cut:
    """Cut off a worker's host in the middle of a task, and restore it when the flow has ended.

    Args:
        hosts: The cluster; it is complete again afterwards.
        runner: A task runner that uses it.
        folder: An empty folder that all hosts see.

    Returns:
        What was observed.
    """
    cut_off = list[Any]()
    with (
        temporary_settings({PREFECT_API_URL: hosts.api}),
        httpx.Client(base_url=hosts.api, trust_env=False) as api,
        Client(hosts.scheduler, set_as_default=False) as client,
    ):
        with cut_off_at_first_task(folder, hosts, api, cut_off):
            run = journey.with_options(task_runner=runner)
            state: Any = run(folder, return_state=True)
        (host,) = cut_off
        try:
            result, task_run = state.result()

            def states() -> tuple[str, ...]:
                found = api.get("/task_run_states/", params={"task_run_id": task_run}).json()
                in_order = sorted(found, key=lambda each: str(each["timestamp"]))
                return tuple(each["name"] for each in in_order)

            wait_until(lambda: "Completed" in states(), "the end of the second run")
            before = states()
            # It still runs, and ends without a connection.
            assert not (folder / f"{host.address} ends").exists()
            (folder / f"{host.address} may end").touch()
            wait_until((folder / f"{host.address} ends").exists, "the end of the first run")
        finally:
            host.link("up")
        wait_until(lambda: states().count("Completed") == 2, "the end of the first run")
        wait_until(lambda: host.ended(), "the end of the worker that was cut off")

        def workers() -> tuple[str, ...]:
            return tuple(map(host_of, client.scheduler_info(n_workers=-1)["workers"]))

        seen = Cut(
            first=host.address,
            second=next(h.address for h in hosts.workers if h is not host),
            result=result,
            flow_run=state.name,
            before=before,
            after=states(),
            run_count=api.get(f"/task_runs/{task_run}").json()["run_count"],
            workers=workers(),
        )
        host.again()
        client.wait_for_workers(2, timeout=patience())
    return seen
