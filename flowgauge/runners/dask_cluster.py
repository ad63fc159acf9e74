# SPDX-License-Identifier: Apache-2.0
"""Dask clusters: one that a test run starts, and one that exists."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowgauge.mistake import Mistake
from flowgauge.server.isolation import environment_kept

CONNECT_TIMEOUT = 10
"""Seconds that a Dask scheduler has to answer."""


_PLUGIN = "flowgauge"


class ClusterError(Mistake):
    """A Dask cluster that can't be used; one line says why and what to do."""


def check_dask_address(address: str) -> None:
    """Make sure that a Dask scheduler answers at an address.

    Args:
        address: As Dask writes it, for instance `tcp://10.0.0.5:8786`.

    Raises:
        ClusterError: If the address can't be read, or nothing or something else answers there.
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
            # A scheduler greets whoever connects; Dask's client would wait for that for ever.
            greeted = parts.scheme == "tls" or _greets(connection)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(
            f"--flow-dask-address {address}: no Dask scheduler answers ({reason.lower()}); {advice}"
        ) from None
    if find_spec("distributed") is None:
        raise ClusterError('--flow-dask-address needs Dask; pip install "flowgauge[dask]"')
    from distributed import Client

    try:
        if not greeted:
            raise ConnectionError
        with Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
    except Exception:
        raise ClusterError(
            f"--flow-dask-address {address}: what answers there is no Dask scheduler of the version"
            f" installed here; {advice}"
        ) from None
    if not workers:
        raise ClusterError(
            f"--flow-dask-address {address}: the scheduler has no workers;"
            f" start some with `dask worker {address}`"
        )


def _greets(connection: socket.socket) -> bool:
    """Say whether the other end speaks first."""
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return False


@contextmanager
def local_cluster(workers: int, home: Path, *, in_process: bool, as_shipped: bool) -> Iterator[str]:
    """Run a Dask cluster that listens on loopback only.

    Args:
        workers: How many tasks may run side by side.
        home: The folder of the run; the cluster writes there.
        in_process: Whether one worker's threads in this process do, and not processes.
        as_shipped: Whether workers do all that Prefect and Dask do, to be measured.

    Yields:
        The scheduler's address.
    """
    import dask
    from distributed import LocalCluster

    # Not `local_directory`: nannies and schedulers write elsewhere all the same.
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(temporary_directory=str(home / "dask")))
        # Dask closes a worker for good that a nanny on a busy machine does not restart in 15 s.
        stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}))
        if not as_shipped:
            # A worker's profiler looks at frames while other threads run them. In CPython 3.11 that
            # is a segmentation fault now and then, here of the whole test run.
            stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
        # A nanny writes what its worker is to find (OMP_NUM_THREADS=1 and more) into the
        # environment of its own process, where it would stay for all that starts later.
        with environment_kept():
            cluster = LocalCluster(
                n_workers=1 if in_process else workers,
                threads_per_worker=workers if in_process else 1,
                processes=not in_process,
                host=None if in_process else "127.0.0.1",
                # Dask would serve its pages on all interfaces.
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            )
        stack.enter_context(cluster)
        if not in_process:
            prepare_workers(cluster.scheduler_address, home, as_shipped)
        yield str(cluster.scheduler_address)


def prepare_workers(address: str, home: Path, as_shipped: bool) -> None:
    """Prepare every worker process of a cluster for this run, also those that start later.

    Args:
        address: The scheduler's address.
        home: The folder of the run.
        as_shipped: Whether they do all that Prefect does, to be measured.
    """
    from distributed import Client, WorkerPlugin

    from flowgauge.runners.worker_setup import prepare_worker

    folder = str(home)

    class PrepareWorker(WorkerPlugin):
        name = _PLUGIN

        def setup(self, worker: Any) -> None:
            prepare_worker(folder, as_shipped)

    with Client(address, set_as_default=False) as client:
        client.register_plugin(PrepareWorker())


@contextmanager
def borrowed_workers(address: str, home: Path) -> Iterator[str]:
    """Let the workers of somebody's cluster take part in this run, and leave them as they were.

    Args:
        address: The scheduler's address.
        home: The folder of the run.

    Yields:
        Why the virtual clock and faults do not reach the workers; empty if they do.
    """
    from distributed import Client, WorkerPlugin

    folder = str(home)

    def reached() -> bool:
        return find_spec("flowgauge") is not None and Path(folder).is_dir()

    class TakePart(WorkerPlugin):
        name = _PLUGIN

        def setup(self, worker: Any) -> None:
            from flowgauge.runners.worker_setup import take_part

            self.part = take_part(folder, expendable=False)

        def teardown(self, worker: Any) -> None:
            self.part.close()

    with Client(address, set_as_default=False) as client:
        out_of_reach = [worker for worker, sees in client.run(reached).items() if not sees]
        if out_of_reach:
            yield (
                f"the Dask worker {out_of_reach[0]} does not have flowgauge installed, or is not"
                " on pytest's machine: the virtual clock and faults do not reach it; leave"
                " --flow-dask-address out, or choose other --flow-runners"
            )
            return
        client.register_plugin(TakePart())
        try:
            yield ""
        finally:
            client.unregister_worker_plugin(_PLUGIN)


def check_workers(address: str) -> None:
    """Find out before the first test whether a cluster's workers can run tasks for this run.

    Args:
        address: The scheduler's address.

    Raises:
        ClusterError: If a worker has no Prefect, another one, or can't reach the test server.
    """
    from distributed import Client
    from prefect import __version__
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()

    def fault() -> str:
        import importlib.metadata
        import urllib.request

        try:
            found = importlib.metadata.version("prefect")
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != __version__:
            return f"has Prefect {found}, and here is {__version__}: install the same there"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            return (
                f"can't reach the test server at {url}, which listens on loopback only: run"
                " pytest on the workers' machine, or forward that port to it"
            )
        return ""

    with Client(address, set_as_default=False) as client:
        for worker, why in client.run(fault).items():
            if why:
                raise ClusterError(f"--flow-dask-address {address}: its worker {worker} {why}")
