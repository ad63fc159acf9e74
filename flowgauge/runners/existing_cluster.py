# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster that runs already: a look at its workers, and making them part of a pytest run."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from flowgauge.mistake import Mistake
from flowgauge.runners.dask_cluster import PLUGIN

CONNECT_TIMEOUT = 10
"""Seconds that a Dask scheduler has to answer."""


class ClusterError(Mistake):
    """An unusable Dask cluster; the one-line message says why and what to do."""


def check_dask_address(address: str) -> int:
    """Check that a Dask scheduler with workers answers at an address.

    Args:
        address: As Dask writes it, for instance `tcp://10.0.0.5:8786`.

    Returns:
        How many tasks its workers can run at once.

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
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
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
    return sum(worker["nthreads"] for worker in workers)


def _sends_first(connection: socket.socket) -> bool:
    """Return whether the other end sends first."""
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return False


@dataclass(frozen=True)
class Worker:
    """What a worker of an existing cluster said about itself.

    Attributes:
        address: Its address, as Dask writes it.
        prefect: The version of Prefect there; empty if there is none.
        flowgauge: Whether Flowgauge can be imported there.
        unreachable: Why it does not reach the API of the server; empty if it does.
        elsewhere: Whether it is on another host than pytest.
        shares: Whether pytest's files, memory and process ids are also the worker's.
    """

    address: str
    prefect: str
    flowgauge: bool
    unreachable: str
    elsewhere: bool
    shares: bool


def look_at_workers(address: str, url: str, home: Path) -> tuple[Worker, ...]:
    """Ask each worker of a cluster what it has, and what it shares with this process.

    Args:
        address: The scheduler's address.
        url: The API of the Prefect server that the workers must reach.
        home: The folder of the pytest run, where a file is made for a moment.

    Returns:
        The workers.
    """
    from distributed import Client

    token = home / f"token-{uuid4().hex}"
    path = str(token)

    # It is sent with all that it uses, because a worker may not have Flowgauge.
    def look(reach: bool) -> dict[str, str]:
        import importlib.metadata
        import importlib.util
        import os
        import socket
        import ssl
        import urllib.error
        import urllib.request
        import uuid

        def version(name: str) -> str:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return ""

        def text(file: str) -> str:
            try:
                with open(file) as opened:
                    return opened.read()
            except OSError:
                return ""

        def namespace(name: str) -> str:
            try:
                return os.readlink(f"/proc/self/ns/{name}")
            except OSError:
                return ""

        def why_not() -> str:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
            except urllib.error.HTTPError:
                return ""  # It answers.
            except urllib.error.URLError as error:
                # Prefect's client may know the certificate.
                return "" if isinstance(error.reason, ssl.SSLError) else str(error.reason)
            except OSError as error:
                return str(error)
            return ""

        spec = importlib.util.find_spec("flowgauge")
        # Other systems than Linux have no such file.
        boot = text("/proc/sys/kernel/random/boot_id") or str(uuid.getnode())
        return {
            "prefect": version("prefect"),
            # Without an origin it is but a folder of that name.
            "flowgauge": (spec.origin or "") if spec else "",
            "unreachable": why_not() if reach else "",
            "host": f"{boot} {namespace('net')} {socket.gethostname()}",
            "shared": f"{text(path)} {boot} {namespace('pid')}",
        }

    token.write_text(token.name)
    try:
        here = look(False)
        with Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:
            answers = client.run(look, True)
    finally:
        token.unlink()
    return tuple(
        Worker(
            worker,
            prefect=said["prefect"],
            flowgauge=bool(said["flowgauge"]),
            unreachable=said["unreachable"],
            elsewhere=said["host"] != here["host"],
            shares=said["shared"] == here["shared"],
        )
        for worker, said in sorted(answers.items())
    )


def check_workers(address: str, url: str, home: Path, *, existing: bool) -> tuple[Worker, ...]:
    """Check that a cluster's workers can run tasks for this pytest run.

    Args:
        address: The scheduler's address.
        url: The API of the Prefect server that the tests use.
        home: The folder of the pytest run.
        existing: Whether that server was not started by the pytest run.

    Returns:
        The workers.

    Raises:
        ClusterError: If a worker has no Prefect or another version, or can't reach the server; with
            an existing server also if it has no Flowgauge.
    """
    from importlib.metadata import version

    workers, here = look_at_workers(address, url, home), version("prefect")
    for worker in workers:
        if why := _problem(worker, url, here, existing=existing):
            raise ClusterError(f"--flow-dask-address {address}: its worker {worker.address} {why}")
    return workers


def _problem(worker: Worker, url: str, here: str, *, existing: bool) -> str:
    """Return what keeps a worker from running tasks; empty if nothing does."""
    if worker.prefect != here:
        return f"has Prefect {worker.prefect or 'none'}, but pytest has {here}: install that there"
    if worker.unreachable and existing:
        return (
            f"can't reach the server at {url} ({worker.unreachable}): start that with"
            " `prefect server start --host 0.0.0.0`, and name an address that workers reach"
        )
    if worker.unreachable:
        return (
            f"can't reach the test server at {url}, which listens on loopback only: run pytest on"
            " the workers' machine, or name a server that they reach with --flow-prefect-api"
        )
    if existing and not worker.flowgauge:
        return "has no flowgauge: install there what pytest has"
    return ""


def out_of_reach(workers: tuple[Worker, ...]) -> str:
    """Return why what needs files, memory or process ids in common does not reach the workers.

    Args:
        workers: The workers of a cluster.

    Returns:
        One line; empty if it does reach all of them.
    """
    for worker in workers:
        if worker.flowgauge and worker.shares:
            continue
        why = (
            "shares no files, memory and process ids with pytest"
            if worker.flowgauge
            else "does not have flowgauge installed"
        )
        return (
            f"the Dask worker {worker.address} {why}: the virtual clock, faults, effect_ledger,"
            " run_logs, run_events and fresh servers do not reach it; leave --flow-dask-address"
            " out, or choose other --flow-runners"
        )
    return ""


@contextmanager
def borrowed_workers(address: str, home: Path) -> Iterator[None]:
    """Make an existing cluster's workers take part in this pytest run, and restore them afterwards.

    Args:
        address: The scheduler's address; its workers share this process's files.
        home: The folder of the pytest run.

    Yields:
        Nothing.
    """
    from distributed import Client, WorkerPlugin

    folder = str(home)

    class TakePart(WorkerPlugin):
        name = PLUGIN

        def setup(self, worker: Any) -> None:
            from flowgauge.runners.worker_setup import take_part

            self.part = take_part(folder, expendable=False)

        def teardown(self, worker: Any) -> None:
            self.part.close()

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(address, set_as_default=False))
        client.register_plugin(TakePart())
        stack.callback(client.unregister_worker_plugin, PLUGIN)
        yield
