# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "prefect-dask>=0.3.6,<0.4", "distributed>=2025.1,<2027"
# ]
# ///
"""Start one Dask cluster, or use a running one, for many flow runs.

Problem:
    A plain `DaskTaskRunner()` starts a cluster in every flow run, which takes seconds each time.
    Passing it a running cluster, `DaskTaskRunner(cluster=...)`, fails: the task runner is sent to
    the workers with the flow, and a cluster can't be pickled. An address can.

Guarantees:
    reuse: flow runs that use one address run their tasks in the same worker processes.
    existing: an address that is passed, or else the one in `DASK_ADDRESS`, is used as it is:
        nothing is started, and that cluster keeps running after the block.
    closed: a cluster that was started here is gone after the block, even if the block raised.
    loopback: such a cluster listens on this machine only.

Prefect:
    outlives (3.8, 3.9): a cluster that is passed by its address keeps running after a flow run,
        even one that failed.
    object (3.8, 3.9): `DaskTaskRunner(cluster=...)` fails at the first task.
    cut-off (3.8, 3.9): the task of a worker whose host is cut off is run a second time, by another
        worker, as the same task run, once the scheduler has heard nothing of the worker for
        `distributed.scheduler.worker-ttl` (5 s in the test, 300 s by default); the flow run is
        Completed with the second result, and the run count is 1.
    late-states (3.8, 3.9): the first run goes on meanwhile, and when the link is back within
        seconds, its states reach the server, too, after those of the second.
    not-back (3.8, 3.9): the worker that was cut off does not come back, and neither does its
        nanny: they end after `distributed.comm.timeouts.tcp` (11 s in the test, 30 s by default).

Not for:
    Clusters that grow and shrink, or are started on other machines: create those with their own
    tools and pass their address. Workers on other machines need the modules of your tasks.

Costs:
    Rows of the runner `dask-processes` in the report, where one cluster serves the whole run; its
    start is reported separately.

Sources:
    - https://docs.prefect.io/integrations/prefect-dask
    - Prefect #17754: a cluster object fails to serialise
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import LocalCluster
from prefect import flow, task
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner


@contextmanager
def shared_cluster(address: str | None = None, workers: int = 2) -> Iterator[str]:
    """Yield the address of a Dask scheduler, of a new cluster on this machine if none is named.

    Args:
        address: A running scheduler; by default the one that `DASK_ADDRESS` names.
        workers: The number of processes of a cluster that is started here.

    Yields:
        The address, for `DaskTaskRunner(address=...)`.
    """
    if address := address or os.environ.get("DASK_ADDRESS"):
        yield address
        return
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        # By default Dask serves its dashboards on all interfaces.
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield str(cluster.scheduler_address)


@task
def develop(negative: str) -> int:
    """Develop a negative, and return the id of the process that did."""
    if not negative:
        raise ValueError("there is nothing to develop")
    return os.getpid()


@flow
def develop_film(negatives: list[str]) -> set[int]:
    """Develop a film's negatives side by side and return the ids of the processes."""
    return set(develop.map(negatives).result())


def main() -> None:
    """Show that two flow runs use the same processes."""
    with shared_cluster() as address:
        runner: TaskRunner[Any] = DaskTaskRunner(address=address)
        film = develop_film.with_options(task_runner=runner)
        seen = [film(["beach", "mountain", "city"]) for _ in range(2)]
    print(f"two flow runs, {len(seen[0] | seen[1])} processes")


if __name__ == "__main__":  # every worker process imports this file again
    main()
