# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "prefect-dask>=0.3.6,<0.4", "distributed>=2025.1,<2027"
# ]
# ///
"""Start one Dask cluster, or use one that runs, for many flow runs.

Problem:
    A plain `DaskTaskRunner()` starts a cluster in every flow run, which takes seconds each time.
    Handing it a cluster that runs, `DaskTaskRunner(cluster=...)`, fails: the runner travels
    with the flow to the workers, and a cluster can't be pickled. An address can.

Guarantees:
    reuse: flow runs through one address run their tasks in the same worker processes.
    existing: an address that is given, or else in `DASK_ADDRESS`, is used as it is: nothing is
        started, and that cluster runs on after the block.
    closed: a cluster that was started here is gone after the block, also if the block raised.
    loopback: such a cluster listens on this machine only.

Prefect:
    outlives (3.8, 3.9): a cluster that is given by its address runs on after a flow run, also
        after one that failed.
    object (3.8, 3.9): `DaskTaskRunner(cluster=...)` fails with the first task.

Not for:
    Clusters that grow and shrink, or are started on other machines: make those with their own
    tools and give their address. Workers on other machines need the modules of your tasks.

Costs:
    Rows of the runner `dask-processes` in the report, where one cluster serves the whole run;
    its start is shown apart.

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
    """Give the address of a Dask scheduler, of a new cluster on this machine if none is named.

    Args:
        address: A scheduler that runs; without one, `DASK_ADDRESS` names it.
        workers: How many processes a cluster that is started here has.

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
        # Dask would serve its pages on all interfaces.
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield str(cluster.scheduler_address)


@task
def develop(negative: str) -> int:
    """Develop a negative, and say which process did."""
    if not negative:
        raise ValueError("there is nothing to develop")
    return os.getpid()


@flow
def develop_film(negatives: list[str]) -> set[int]:
    """Develop a film's negatives side by side and return the processes that did."""
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
