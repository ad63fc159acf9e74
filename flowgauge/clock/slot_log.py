# SPDX-License-Identifier: Apache-2.0
"""Who holds slots of concurrency limits, and who waits for some: one log for all processes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from flowgauge.append_log import locked, values_from, write_value

_LOG = "slots.jsonl"
_ids = itertools.count()


@dataclass(frozen=True)
class Code:
    """Code that does one thing at a time: what a thread executes, or a task of its event loop.

    Attributes:
        pid: The identifier of its process.
        created: When the process was created, in seconds since the epoch.
        thread: The identifier of its thread.
        task: What tells its task from others of the same event loop; 0 without an event loop.
    """

    pid: int
    created: float
    thread: int
    task: int = 0

    @classmethod
    def here(cls) -> Code:
        """Return the code that calls this."""
        pid = os.getpid()
        try:
            task = id(asyncio.current_task())
        except RuntimeError:
            task = 0
        return cls(pid, _created(pid), threading.get_ident(), task)

    def lives(self) -> bool:
        """Return whether its process has not ended."""
        try:
            process = psutil.Process(self.pid)
            # Another process may have got the same id.
            return (
                process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


@functools.cache
def _created(pid: int) -> float:
    return psutil.Process(pid).create_time()


@dataclass(frozen=True)
class Holding:
    """Slots that code holds.

    Attributes:
        code: The code.
        limits: The names of the concurrency limits.
        slots: How many slots of each of them.
        taken: When it took them, in seconds since the epoch.
    """

    code: Code
    limits: tuple[str, ...]
    slots: int
    taken: float


@dataclass(frozen=True)
class SlotWait:
    """The wait of code for slots, which does not end by itself.

    Attributes:
        code: The code.
        name: What runs there, as people call it.
        limits: The names of the concurrency limits, of each of which it needs slots at once.
        slots: How many slots of each of them.
        where: File and line of the code that waits.
    """

    code: Code
    name: str
    limits: tuple[str, ...]
    slots: int
    where: str


def note_held(home: Path, lease: str, holding: Holding) -> None:
    """Note that code of this process holds slots.

    Args:
        home: The folder of the pytest run.
        lease: The id of the lease.
        holding: The slots.
    """
    _write(home, ["held", lease, asdict(holding)])


def note_free(home: Path, lease: str) -> None:
    """Note that slots are given back.

    Args:
        home: The folder of the pytest run.
        lease: The id of the lease.
    """
    _write(home, ["held", lease, None])


@contextmanager
def noted_wait(home: Path, wait: SlotWait) -> Iterator[None]:
    """Note that code of this process waits for slots, for as long as it does.

    Args:
        home: The folder of the pytest run.
        wait: The wait.

    Yields:
        Nothing.
    """
    key = f"{wait.code.pid} {next(_ids)}"
    _write(home, ["waits", key, asdict(wait)])
    try:
        yield
    finally:
        _write(home, ["waits", key, None])


def _write(home: Path, entry: list[Any]) -> None:
    # A process may outlive its pytest run.
    if home.is_dir():
        with locked(home / _LOG) as log:
            write_value(log, entry)


class SlotLog:
    """What the log says."""

    def __init__(self, home: Path) -> None:
        """Read the log of a pytest run.

        Args:
            home: The folder of the pytest run.
        """
        self._path = home / _LOG
        self._read = 0
        self._held: dict[str, Any] = {}
        self._waits: dict[str, Any] = {}

    def read_on(self) -> None:
        """Read what was written since it was read last."""
        entries, self._read = values_from(self._path, self._read)
        for kind, key, fields in entries:
            noted = self._held if kind == "held" else self._waits
            noted.pop(key, None)
            if fields is not None:
                code, limits = Code(**fields.pop("code")), tuple(fields.pop("limits"))
                record = Holding if kind == "held" else SlotWait
                noted[key] = record(code=code, limits=limits, **fields)

    @property
    def held(self) -> dict[str, Holding]:
        """What is held, also by processes that have ended, by lease."""
        return dict(self._held)

    @property
    def waits(self) -> list[SlotWait]:
        """The waits that have not ended, also those of processes that have."""
        return list(self._waits.values())
