# SPDX-License-Identifier: Apache-2.0
"""Hosts for tests: network namespaces of this machine on one bridge, each with an address."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from distributed import Client

from flowgauge.waiting import patience, wait_until
from tests.code_blocks import ROOT, arguments, blocks


@dataclass
class Host:
    """A host.

    Attributes:
        name: The name of its namespace.
        address: Its address in the network.
        folder: Where its processes start and log.
        again: Starts its last process again.
    """

    name: str
    address: str
    folder: Path
    again: Callable[[], object] = print
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def command(self, *words: str) -> list[str]:
        """Return the command that executes another one on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process on this host; it ends with the network."""
        self.again = lambda: self.start(*words, **environment)
        clean = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=clean | environment,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(process.wait)
        return process

    def ended(self) -> bool:
        """Return whether nothing runs on this host."""
        return not ip("netns", "pids", self.name).split()

    def end(self) -> None:
        """End all that runs on this host, including what its processes have started."""
        wait_until(self._killed, f"the end of what runs on {self.name}")
        self._stack.close()

    def _killed(self) -> bool:
        running = [int(pid) for pid in ip("netns", "pids", self.name).split()]
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A process that has ended is in no namespace, even if nobody has waited for it.
        return not running

    def link(self, state: str) -> None:
        """Set the host's link "up" or "down"; while it is down, no packet leaves or arrives."""
        ip("link", "set", f"{self.name}h", state)


def ip(*words: str) -> str:
    """Run `ip`, and return what it prints."""
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def require_namespaces() -> None:
    """Skip the test where network namespaces can't be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which need root and the program `ip`")
    name = f"fg{secrets.token_hex(3)}"
    for words in (("netns", "add", name), ("link", "add", name, "type", "bridge")):
        if subprocess.run(["ip", *words], capture_output=True).returncode:
            pytest.skip(f"hosts are network namespaces: `ip {' '.join(words)}` fails here")
        subprocess.run(["ip", words[0], "del", name], check=True)


@contextmanager
def network(folder: Path, *names: str) -> Iterator[list[Host]]:
    """Make hosts that reach each other and this one, and remove them with all that they run.

    Args:
        folder: Where each host gets a folder.
        *names: What their folders are called.

    Yields:
        The hosts; this machine has the first address of their network.
    """
    # Addresses that no network uses, since they are for measuring devices (RFC 2544).
    token, net = secrets.token_hex(3), f"198.18.{secrets.randbelow(256)}"
    bridge = f"fg{token}"
    with contextlib.ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("address", "add", f"{net}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        hosts = []
        for number, name in enumerate(names, start=2):
            host = Host(f"fg{token}{number}", f"{net}.{number}", folder / name)
            host.folder.mkdir()
            ip("netns", "add", host.name)
            stack.callback(ip, "netns", "del", host.name)
            stack.callback(host.end)
            here = f"{host.name}h"
            ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            ip("link", "set", here, "master", bridge, "up")
            for words in (
                ("address", "add", f"{host.address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                ip("-n", host.name, *words)
            hosts.append(host)
        yield hosts


@dataclass(frozen=True)
class Cluster:
    """A Prefect server, a Dask scheduler and two workers, each on a host of its own.

    Attributes:
        api: The address of the server's API.
        scheduler: The address of the scheduler.
        workers: The hosts of the workers, each of which runs one task at a time.
        commands: The commands of the page on clusters, with the addresses of the hosts.
        modules: A folder from which the scheduler and the workers import.
        private: A folder that the last worker's host does not share with the others.
    """

    api: str
    scheduler: str
    workers: tuple[Host, ...]
    commands: tuple[list[str], ...]
    modules: Path
    private: Path


PAGE = "docs/how_to/use_your_cluster.md"
SERVER, SCHEDULER = "10.0.0.4", "10.0.0.5"
"""The addresses on the page."""
LOST_SOON = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
}
"""Dask's configuration: a worker that has not been heard of for 5 s is lost, by default 300 s; a
connection is closed when nothing was acknowledged for 11 s, the least that Dask accepts."""


@contextmanager
def cluster_of_hosts(folder: Path, database_url: str | None = None) -> Iterator[Cluster]:
    """Run a Prefect server and a Dask cluster on four hosts.

    Args:
        folder: An empty folder for what they write.
        database_url: The server's database, reached by a socket in the file system; by default
            SQLite in the server's folder.

    Yields:
        The cluster.
    """
    modules, private = folder / "modules", folder / "private"
    with network(folder, "server", "scheduler", "first", "second") as (server, scheduler, *workers):
        block, _ = blocks("console", PAGE)
        block = block.replace(SERVER, server.address).replace(SCHEDULER, scheduler.address)
        commands = tuple(map(arguments, block.splitlines()))
        modules.mkdir()
        private.mkdir()
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": database_url} if database_url else {}
        server.start(
            *commands[0],
            **database,
            PREFECT_HOME=str(server.folder / "prefect"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
        )
        settings = {**LOST_SOON, "PYTHONPATH": os.pathsep.join((str(modules), str(ROOT)))}
        scheduler.start(*commands[1], **settings)
        own = ("sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(private))
        for host, prefix in zip(workers, ((), own), strict=True):
            host.start(
                *(*prefix, *commands[2]),
                DASK_TEMPORARY_DIRECTORY=str(host.folder / "dask"),
                **settings,
            )
        api, address = commands[3][-3], commands[3][-1]
        wait_until(lambda: answers(api), "the Prefect server")
        with Client(address, timeout=patience(), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=patience())
        yield Cluster(api, address, tuple(workers), commands, modules, private)


def answers(url: str) -> bool:
    """Return whether a Prefect server answers at the address of an API."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=2).close()
    except OSError:
        return False
    return True
