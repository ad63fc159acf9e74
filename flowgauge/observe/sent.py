# SPDX-License-Identifier: Apache-2.0
"""What the processes of a pytest run gave Prefect to send to the server: logs and events.

Prefect sends them in the background, from each process. A process notes each in a file before it
gives it to Prefect, so that a reader knows what is still on its way.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psutil

from flowgauge.append_log import locked, values_from, write_value

_WANTED, _AWAITED, _FLAGS = 0, 1, 2
"""Places of flags in a file, and their number."""


@dataclass(frozen=True)
class SentLog:
    """A log line that a process gave to Prefect.

    Attributes:
        place: Its number among all that was noted.
        pid: The process.
        line: What identifies it on the server, as `identity` returns it.
        task: The name of the task, or "".
        flow: The name of the flow, or "".
    """

    place: int
    pid: int
    line: tuple[Any, ...]
    task: str
    flow: str


@dataclass(frozen=True)
class SentEvent:
    """An event that a process gave to Prefect.

    Attributes:
        place: Its number among all that was noted.
        pid: The process.
        id: The event's id.
        name: The event's name.
    """

    place: int
    pid: int
    id: UUID
    name: str


Noted = TypeVar("Noted", SentLog, SentEvent)


def identity(
    flow_run_id: object, task_run_id: object, time: datetime, level: int, name: str, message: str
) -> tuple[Any, ...]:
    """Return what identifies a log line, both where it was logged and on the server.

    Args:
        flow_run_id: Its flow run, if any.
        task_run_id: Its task run, if any.
        time: Its timestamp.
        level: Its level.
        name: Its logger.
        message: Its text.

    Returns:
        A value to compare and hash.
    """
    runs = (str(flow_run_id or ""), str(task_run_id or ""))
    return (*runs, time.timestamp(), level, name, message)


def _shared_flags(home: Path) -> mmap.mmap:
    descriptor = os.open(home / "sent.flags", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < _FLAGS:
            os.ftruncate(descriptor, _FLAGS)
        return mmap.mmap(descriptor, _FLAGS)
    finally:
        os.close(descriptor)


class Sent:
    """The file in which the processes of a pytest run note what they gave to Prefect."""

    def __init__(self, home: Path) -> None:
        """Prepare to read or write the file.

        Args:
            home: The folder of the pytest run.
        """
        self._path = home / "sent.jsonl"
        self._flags = _shared_flags(home)
        self._lock = threading.Lock()
        self._position = self._count = 0
        self._flow_runs: set[UUID] = set()
        self._logs: dict[str, dict[int, SentLog]] = {}
        self._events: dict[str, dict[UUID, SentEvent]] = {}

    @property
    def wanted(self) -> bool:
        """Whether tests read logs or events, so that they must be noted."""
        return bool(self._flags[_WANTED])

    @property
    def awaited(self) -> bool:
        """Whether a test is waiting for events right now."""
        return bool(self._flags[_AWAITED])

    def noting(self) -> contextlib.AbstractContextManager[None]:
        """Make all processes of the pytest run note what they send.

        Returns:
            A context manager.
        """
        return self._set(_WANTED)

    def awaiting(self) -> contextlib.AbstractContextManager[None]:
        """Make the server write each event as it arrives.

        Returns:
            A context manager.
        """
        return self._set(_AWAITED)

    @contextlib.contextmanager
    def _set(self, flag: int) -> Iterator[None]:
        before, self._flags[flag] = self._flags[flag], 1
        try:
            yield
        finally:
            self._flags[flag] = before

    def note(self, about: str, value: Any, **more: Any) -> None:
        """Note something, if that is wanted.

        Args:
            about: "flow run", "log" or "event".
            value: What it is: JSON.
            **more: The runs and names.
        """
        if self.wanted:
            with locked(self._path) as file:
                write_value(file, {"about": about, "value": value, "pid": os.getpid(), **more})

    def flow_runs(self) -> set[UUID]:
        """Return the flow runs whose process notes what it sends."""
        self._read()
        return self._flow_runs

    def logs(self, run_ids: Iterable[UUID]) -> list[SentLog]:
        """Return the log lines of some runs.

        Args:
            run_ids: The ids of flow runs or task runs.

        Returns:
            The lines.
        """
        return self._of_runs(self._logs, run_ids)

    def events(self, run_ids: Iterable[UUID]) -> list[SentEvent]:
        """Return the events of some runs.

        Args:
            run_ids: The ids of flow runs or task runs.

        Returns:
            The events.
        """
        return self._of_runs(self._events, run_ids)

    def _of_runs(self, noted: dict[str, dict[Any, Noted]], run_ids: Iterable[UUID]) -> list[Noted]:
        self._read()
        found: dict[Any, Noted] = {}
        for run_id in run_ids:
            found |= noted.get(str(run_id), {})
        return list(found.values())

    def _read(self) -> None:
        with self._lock:
            values, self._position = values_from(self._path, self._position)
            for value in values:
                self._count += 1
                self._add(**value)

    def _add(self, about: str, value: Any, pid: int, **more: Any) -> None:
        if about == "flow run":
            self._flow_runs.add(UUID(value))
        elif about == "log":
            time = datetime.fromisoformat(value["timestamp"])
            runs = (value["flow_run_id"], value["task_run_id"])
            line = identity(*runs, time, value["level"], value["name"], value["message"])
            log = SentLog(self._count, pid, line, more["task"], more["flow"])
            for run_id in filter(None, runs):
                self._logs.setdefault(run_id, {})[log.place] = log
        else:
            event = SentEvent(self._count, pid, UUID(value), more["name"])
            for run_id in filter(None, more["runs"]):
                # A pool's worker and the process that forwards for it both send the event.
                self._events.setdefault(run_id, {}).setdefault(event.id, event)


def lives(pid: int) -> bool:
    """Return whether a process can still send something.

    Args:
        pid: The process.

    Returns:
        Whether it is alive.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
