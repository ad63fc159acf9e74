# SPDX-License-Identifier: Apache-2.0
"""Dask clusters: one that a pytest run starts, or an existing one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowgauge.compat.features import usable
from flowgauge.compat.names import DASK_CLIENT
from flowgauge.mistake import Mistake
from flowgauge.server.isolation import environment_kept

CONNECT_TIMEOUT = 10
"""Seconds that a Dask scheduler has to answer."""


_PLUGIN = "flowgauge"


class ClusterError(Mistake):
    """An unusable Dask cluster; the one-line message says why and what to do."""


def check_dask_address(address: str) -> None:
    """Check that a Dask scheduler with workers answers at an address.

    Args:
        address: As Dask writes it, for instance `tcp://10.0.0.5:8786`.

    Raises:
        ClusterError: If the address is invalid, nothing or something else answers there, or the
            scheduler has no workers.
    """
    advice = "start one with `dask scheduler`, or leave the option out for a local cluster"
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ClusterError(f"--flow-dask-address {address}: not an address like tcp://host:8786")
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT) as connection:
            # A scheduler sends first on each connection; Dask's client would wait for that forever.
            is_dask = parts.scheme == "tls" or _sends_first(connection)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(
            f"--flow-dask-address {address}: no Dask scheduler answers ({reason.lower()}); {advice}"
        ) from None
    if find_spec("distributed") is None:
        raise ClusterError('--flow-dask-address needs Dask; pip install "flowgauge[dask]"')
    from distributed import Client

    try:
        if not is_dask:
            raise ConnectionError
        with Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
    except Exception:
        raise ClusterError(
            f"--flow-dask-address {address}: what answers there is not a Dask scheduler of the"
            f" version installed here; {advice}"
        ) from None
    if not workers:
        raise ClusterError(
            f"--flow-dask-address {address}: the scheduler has no workers;"
            f" start some with `dask worker {address}`"
        )


def _sends_first(connection: socket.socket) -> bool:
    """Return whether the other end sends first."""
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return False


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
        name = _PLUGIN

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


@contextmanager
def borrowed_workers(address: str, home: Path) -> Iterator[str]:
    """Make an existing cluster's workers take part in this pytest run, and restore them afterwards.

    Args:
        address: The scheduler's address.
        home: The folder of the pytest run.

    Yields:
        Why the virtual clock and faults do not reach the workers; empty if they do.
    """
    from distributed import Client, WorkerPlugin

    folder = str(home)

    def is_in_reach() -> bool:
        return find_spec("flowgauge") is not None and Path(folder).is_dir()

    class TakePart(WorkerPlugin):
        name = _PLUGIN

        def setup(self, worker: Any) -> None:
            from flowgauge.runners.worker_setup import take_part

            self.part = take_part(folder, expendable=False)

        def teardown(self, worker: Any) -> None:
            self.part.close()

    with Client(address, set_as_default=False) as client:
        out_of_reach = [worker for worker, ok in client.run(is_in_reach).items() if not ok]
        if out_of_reach:
            yield (
                f"the Dask worker {out_of_reach[0]} does not have flowgauge installed, or is not"
                " on pytest's machine: the virtual clock, faults, run_logs, run_events and fresh"
                " servers do not reach it; leave --flow-dask-address out, or choose other"
                " --flow-runners"
            )
            return
        client.register_plugin(TakePart())
        try:
            yield ""
        finally:
            client.unregister_worker_plugin(_PLUGIN)


def check_workers(address: str) -> None:
    """Check, before the first test, that a cluster's workers can run tasks for this pytest run.

    Args:
        address: The scheduler's address.

    Raises:
        ClusterError: If a worker has no Prefect or another version, or can't reach the test server.
    """
    from distributed import Client
    from prefect import __version__
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()

    def problem() -> str:
        import importlib.metadata
        import urllib.request

        try:
            version = importlib.metadata.version("prefect")
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        if version != __version__:
            return f"has Prefect {version}, but pytest has {__version__}: install that there"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            return (
                f"can't reach the test server at {url}, which listens on loopback only: run"
                " pytest on the workers' machine, or forward that port to it"
            )
        return ""

    with Client(address, set_as_default=False) as client:
        for worker, why in client.run(problem).items():
            if why:
                raise ClusterError(f"--flow-dask-address {address}: its worker {worker} {why}")
