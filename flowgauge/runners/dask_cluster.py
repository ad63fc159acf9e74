# SPDX-License-Identifier: Apache-2.0
"""Dask clusters that a pytest run, or one of its flows, starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowgauge.compat.features import usable
from flowgauge.compat.names import DASK_CLIENT
from flowgauge.server.isolation import environment_kept

PLUGIN = "flowgauge"
"""The name of the plugin that prepares workers; a cluster has one of a name."""


@contextmanager
def local_cluster(workers: int, home: Path, *, in_process: bool, as_shipped: bool) -> Iterator[str]:
    """Run a Dask cluster that listens on loopback only.

    Args:
        workers: How many tasks may run at once.
        home: The folder of the pytest run; the cluster writes there.
        in_process: Whether they run in the threads of one worker in this process, not in processes.
        as_shipped: Whether workers do all the work that stock Prefect and Dask do, for benchmarks.

    Yields:
        The scheduler's address.
    """
    import dask
    from distributed import LocalCluster

    # Not `local_directory`, because nannies and schedulers would still write elsewhere.
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(temporary_directory=str(home / "dask")))
        # By default, Dask gives up on a worker that its nanny, on a busy machine, does not restart
        # within 15 s.
        stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}))
        if not as_shipped:
            # A worker's profiler inspects frames while other threads run them. In CPython 3.11 that
            # occasionally causes a segmentation fault, here of the whole pytest run.
            stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
        # A nanny writes its worker's environment variables (OMP_NUM_THREADS=1 and more) into those
        # of its own process, where they would affect everything that starts later.
        with environment_kept():
            cluster = LocalCluster(
                n_workers=1 if in_process else workers,
                threads_per_worker=workers if in_process else 1,
                processes=not in_process,
                host=None if in_process else "127.0.0.1",
                # By default, Dask serves its dashboard on all interfaces.
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            )
        stack.enter_context(cluster)
        if in_process:
            _connect_worker(cluster, home)
        else:
            prepare_workers(cluster.scheduler_address, home, as_shipped)
        yield str(cluster.scheduler_address)


def _connect_worker(cluster: Any, home: Path) -> None:
    """Give the worker in this process the client that its tasks use to submit tasks.

    The first such task would create it, as the default client of this process. Prefect's Dask task
    runner prefers that one to its own address, also in later flows on other clusters.

    Args:
        cluster: The cluster, with one worker.
        home: The folder of the pytest run.
    """
    from distributed import Client, get_client

    if not usable(DASK_CLIENT, home):
        return

    def connect() -> None:
        from distributed.client import _del_global_client

        _del_global_client(get_client())

    with Client(cluster, set_as_default=False) as client:
        client.submit(connect).result()


def prepare_workers(address: str, home: Path, as_shipped: bool) -> None:
    """Prepare every worker process of a cluster for this pytest run, including later ones.

    This process is not one, even if a worker has its threads here.

    Args:
        address: The scheduler's address.
        home: The folder of the pytest run.
        as_shipped: Whether they do all the work that stock Prefect does, for benchmarks.
    """
    from distributed import Client, WorkerPlugin

    from flowgauge.runners.worker_setup import prepare_worker

    folder, here = str(home), os.getpid()

    class PrepareWorker(WorkerPlugin):
        name = PLUGIN

        def setup(self, worker: Any) -> None:
            if os.getpid() != here:
                prepare_worker(folder, as_shipped)

    with Client(address, set_as_default=False) as client:
        client.register_plugin(PrepareWorker())


def finish_sending(address: str) -> None:
    """Let the workers of a cluster send what they have for the server, and disconnect from it.

    Args:
        address: The scheduler's address.
    """
    from distributed import Client

    from flowgauge.server import fresh

    with Client(address, set_as_default=False) as client:
        client.run(fresh.finish_sending)
