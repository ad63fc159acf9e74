# SPDX-License-Identifier: Apache-2.0
"""The comparison of what exists after a test with what existed before."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import thread as pool_threads
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowgauge.compat.features import usable
from flowgauge.compat.names import PREFECT_SERVICES
from flowgauge.frames import frames_by_thread
from flowgauge.leftovers import audit, processes
from flowgauge.leftovers.audit import Activity, OpenedConnection
from flowgauge.leftovers.files import Folders, is_left
from flowgauge.leftovers.lasting import ends_with_a_runner, ports_of_kept_clients
from flowgauge.leftovers.pools import lasting_processes, waits_for_work
from flowgauge.leftovers.writes import end_of_reports, line_of, reported
from flowgauge.waiting import patience

KINDS = ("processes", "threads", "connections", "files")

PATIENCE = 10.0
"""Seconds that what a test started has to end after the test; `FLOWGAUGE_PATIENCE` scales them."""


@dataclass(frozen=True)
class Present:
    """A snapshot of what exists at one moment, of each kind."""

    pids: set[int]
    nannies: frozenset[Any]
    threads: set[threading.Thread]
    connections: frozenset[OpenedConnection]
    listed: set[str]
    written: set[str]


class LeftoverWatch:
    """The watch over one test.

    What wider-scoped fixtures start in the meantime is adopted: it belongs to the pytest run.
    """

    def __init__(self, folders: Folders) -> None:
        """Start to watch.

        Args:
            folders: The folders where files are allowed, and those that are searched for others.
        """
        global _current
        self._folders = folders
        self._sightings = Activity()
        self._read = end_of_reports(folders.home)
        self._before = self._present()
        _current = self
        audit.watch(self._sightings)

    def close(self) -> None:
        """Stop watching."""
        global _current
        _current = None
        audit.watch(None)

    def left(self, allowed: frozenset[str] = frozenset()) -> dict[str, list[str]]:
        """Return what is left once everything has had time to end.

        Args:
            allowed: The kinds that may be left behind and are not waited for.

        Returns:
            One line for each thing left, by kind; kinds with nothing left are omitted.
        """
        deadline = time.monotonic() + patience(PATIENCE)
        leftovers = self._left(allowed)
        if leftovers:
            # What only a reference cycle keeps alive does not count.
            gc.collect()
        while leftovers and time.monotonic() < deadline:
            # Not `time.sleep`: a test may have made that virtual.
            threading.Event().wait(0.005)
            leftovers = self._left(allowed)
        return leftovers

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Attribute what is started inside to the pytest run, not to the test."""
        start = self._present()
        yield
        now, before = self._present(), self._before
        self._before = Present(
            before.pids | now.pids - start.pids,
            before.nannies | now.nannies - start.nannies,
            before.threads | now.threads - start.threads,
            before.connections | now.connections - start.connections,
            before.listed | now.listed - start.listed,
            before.written | now.written - start.written,
        )

    def _present(self) -> Present:
        writes, self._read = reported(self._folders.home, self._read)
        for path, write in writes.items():
            self._sightings.written.setdefault(path, write)
        return Present(
            processes.running(),
            processes.nannies(),
            {thread for thread in threading.enumerate() if not thread.daemon},
            frozenset(self._sightings.connections),
            self._folders.listed(),
            set(self._sightings.written),
        )

    def _left(self, allowed: frozenset[str]) -> dict[str, list[str]]:
        now, before = self._present(), self._before
        leftovers = {
            "processes": _processes(now, before),
            "threads": self._threads(now.threads - before.threads, before),
            "connections": _connections(now.connections - before.connections, self._folders.home),
            "files": self._files(now, before),
        }
        return {kind: lines for kind, lines in leftovers.items() if lines and kind not in allowed}

    def _threads(self, new: set[threading.Thread], before: Present) -> list[str]:
        frames = frames_by_thread() if new else {}
        lines = []
        for thread in sorted(new, key=lambda thread: thread.name):
            frame = frames.get(thread.ident or 0)
            if frame is None or _of_an_earlier_pool(thread, before):
                continue
            if waits_for_work(thread, frame) or ends_with_a_runner(thread):
                continue
            started_at = self._sightings.threads.get(thread)
            origin = f", started at {started_at}" if started_at else ""
            lines.append(f"thread {thread.name!r}{origin}, now at {line_of(frame)}")
        return lines

    def _files(self, now: Present, before: Present) -> list[str]:
        changes = {}
        for path in now.written - before.written:
            write = self._sightings.written[path]
            if is_left(path, write.before) and not (write.cache or self._folders.allow(path)):
                changes[path] = f"{'changed' if write.before else 'created'} at {write.origin}"
        return [
            f"file {path}, {how}"
            for path, how in sorted(changes.items())
            if os.path.dirname(path) not in changes
        ]

    def appeared(self) -> list[str]:
        """Return the new files that a descendant of this process, or anyone else, may have made.

        Returns:
            Paths in the working directory and the home folder; all that is known is that they did
            not exist before.
        """
        now, before = self._present(), self._before
        new = now.listed - before.listed - now.written
        return sorted(
            path
            for path in new
            if not self._folders.allow(path) and self._a_process_may_have_made(path)
        )

    def _a_process_may_have_made(self, path: str) -> bool:
        try:
            ours = os.lstat(path).st_uid == os.getuid()
        except OSError:
            return False
        if not ours or not self._folders.alone:
            return False
        return self._sightings.processes or bool(processes.descendants(processes.running()))


_current: LeftoverWatch | None = None


@contextmanager
def adopted() -> Iterator[None]:
    """Attribute what is started inside to the pytest run, not to the test that is running."""
    if _current is None:
        yield
    else:
        with _current.adopting():
            yield


def _processes(now: Present, before: Present) -> list[str]:
    new = now.pids - before.pids
    if not new:
        return []
    # A worker that died is restarted by its nanny.
    expected = lasting_processes(before.nannies)
    commands = processes.descendants(new - expected, before.pids | expected)
    return [f"process {pid}: {command}" for pid, command in sorted(commands.items())]


def _connections(new: frozenset[OpenedConnection], home: Path) -> list[str]:
    if not new or ("prefect" in sys.modules and not usable(PREFECT_SERVICES, home)):
        return []
    lines = []
    kept = ports_of_kept_clients()
    for connection in new:
        connected = connection.socket()
        if connected is None or connected.fileno() == -1 or _is_of_prefect(connection.thread):
            continue
        match connection.address:
            case (host, port, *_) if port == _server_port():
                try:
                    local = connected.getsockname()[1]
                except OSError:
                    continue  # Its thread has just closed it.
                if local in kept:
                    continue
                lines.append(
                    f"connection from port {local} to the Prefect server at {host}:{port},"
                    f" made at {connection.origin}"
                )
    return lines


def _is_of_prefect(thread: threading.Thread) -> bool:
    """Return whether a thread is one of Prefect's own.

    These are its services for logs, events and telemetry, and those that renew the leases of slots.
    """
    if thread.name.startswith("concurrency-lease-renewal-"):
        return True
    module: Any = sys.modules.get("prefect._internal.concurrency.threads")
    loop = module and module._global_loop
    return loop is not None and thread is loop.thread


def _server_port() -> int | None:
    settings: Any = sys.modules.get("prefect.settings")
    url = settings and settings.PREFECT_API_URL.value()
    return urlsplit(url).port if url else None


def _of_an_earlier_pool(thread: threading.Thread, before: Present) -> bool:
    """Return whether a thread was added to a thread pool that existed before the test."""
    queues = pool_threads._threads_queues
    queue = queues.get(thread)
    return queue is not None and any(queues.get(earlier) is queue for earlier in before.threads)
