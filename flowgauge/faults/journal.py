# SPDX-License-Identifier: Apache-2.0
"""What was reached and what struck during a test: one file that all its processes append to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flowgauge.faults.plan import Fault


class Journal:
    """Counts for all processes together; each reads only what is new to it."""

    def __init__(self, path: Path) -> None:
        """Read a journal.

        Args:
            path: The file; it must exist by the time that something is noted.
        """
        self._path = path
        self._lock = threading.Lock()
        self._read = 0
        self._attempts: Counter[tuple[int, str]] = Counter()
        self._runs: dict[tuple[int, str], list[str]] = {}
        self.tasks: set[str] = set()
        """Names of the tasks that ran."""
        self.reached: Counter[int] = Counter()
        """How often each fault could have struck."""
        self.struck: Counter[int] = Counter()
        """How often each fault did strike."""
        self.refused: list[str] = []
        """Faults that could not strike where the task ran, and why."""

    def create(self) -> None:
        """Make the file."""
        self._path.touch()

    def catch_up(self) -> None:
        """Read what other processes have noted."""
        with self._opened():
            pass

    def note_task(self, name: str) -> None:
        """Note that a task of this name ran."""
        with self._opened() as file:
            if name not in self.tasks:
                self._append(file, task=name)

    def note_refusal(self, line: str) -> None:
        """Note that a fault could not strike where the task ran."""
        with self._opened() as file:
            self._append(file, refused=line)

    def reach(self, faults: Sequence[Fault], seed: int, run: str, subject: str) -> list[Fault]:
        """Note that a task run got to the point of some faults.

        Args:
            faults: Of that point and task.
            seed: Of the test.
            run: The id of the task run.
            subject: What it does, the same on every runner. Runs that do the same are told
                apart by the order in which they get here first, so that which of them a fault
                strikes may change from run to run, but not how many.

        Returns:
            Those that strike now.
        """
        due = []
        with self._opened() as file:
            for fault in faults:
                number = fault.number
                alike = self._runs.get((number, subject), [])
                which = alike.index(run) if run in alike else len(alike)
                attempt = self._attempts[number, run] + 1
                name = f"{subject} #{which}"
                strikes = fault.strikes(seed, name, attempt, self.struck[number])
                self._append(file, reached=number, run=run, subject=subject, struck=strikes)
                if strikes:
                    due.append(fault)
        return due

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Keep everyone else out, and know all that they noted before."""
        with self._lock, self._path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._read)
            for line in file.read().splitlines():
                self._count(json.loads(line))
            self._read = file.tell()
            yield file

    def _append(self, file: BinaryIO, **line: Any) -> None:
        file.write(json.dumps(line).encode() + b"\n")
        self._read = file.tell()
        self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        match line:
            case {"task": name}:
                self.tasks.add(name)
            case {"refused": why}:
                self.refused.append(why)
            case {"reached": number, "run": run, "subject": subject, "struck": struck}:
                self.reached[number] += 1
                self.struck[number] += struck
                self._attempts[number, run] += 1
                alike = self._runs.setdefault((number, subject), [])
                if run not in alike:
                    alike.append(run)
