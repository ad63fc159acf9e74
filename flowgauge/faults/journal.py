# SPDX-License-Identifier: Apache-2.0
"""The journal of a test's faults, reached and struck: one file that all its processes append to."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from flowgauge.append_log import locked, values_from, write_value
from flowgauge.faults.plan import Fault, Return


class Journal:
    """Counts over all processes; each process reads only the lines that are new to it."""

    def __init__(self, path: Path) -> None:
        """Prepare to read and write a journal.

        Args:
            path: The file; its folder must exist.
        """
        self._path = path
        self._lock = threading.Lock()
        self._read = 0
        self._attempts: Counter[tuple[int, str]] = Counter()
        self._runs: dict[tuple[int, str], list[str]] = {}
        self._order: dict[int, dict[str, int]] = {}
        self.tasks: set[str] = set()
        """Names of the tasks that ran."""
        self.reached: Counter[int] = Counter()
        """How often each fault's point was reached."""
        self.struck: Counter[tuple[int, str]] = Counter()
        """How often each fault struck each task."""
        self.refused: list[str] = []
        """Faults that could not strike where the task ran, and why."""

    def create(self) -> None:
        """Create the file."""
        self._path.touch()

    def catch_up(self) -> None:
        """Read what other processes have recorded."""
        with self._opened():
            pass

    def note_task(self, name: str) -> None:
        """Record that a task of this name ran."""
        with self._opened() as file:
            if name not in self.tasks:
                self._append(file, task=name)

    def note_refusal(self, line: str) -> None:
        """Record that a fault could not strike where its task ran."""
        with self._opened() as file:
            self._append(file, refused=line)

    def reach(
        self, task: str, faults: Sequence[Fault], seed: int, run: str, subject: str
    ) -> list[Fault]:
        """Record that a task run reached the point of some faults.

        Args:
            task: The name of the task.
            faults: The faults for that point and task, in the order in which they strike.
            seed: The seed of the test.
            run: The id of the task run.
            subject: A description of its work, the same on every task runner. Task runs with the
                same description are distinguished by the order in which they first get here, so
                which of them a fault strikes may change between pytest runs, but not how many.

        Returns:
            The faults that strike now: none after one that ends the attempt, and of those that
            replace the body only the last.
        """
        due: list[Fault] = []
        replaced = [fault for fault in faults if isinstance(fault.effect, Return)][:-1]
        with self._opened() as file:
            for fault in faults:
                number = fault.number
                alike = self._runs.get((number, subject), [])
                index = alike.index(run) if run in alike else len(alike)
                attempt = self._attempts[number, run] + 1
                name = f"{subject} #{index}"
                order = self._order.get(number, {})
                place = order.get(run, len(order) + 1)
                strikes = (
                    fault not in replaced
                    and not (due and due[-1].ends_attempt)
                    and fault.strikes(seed, name, attempt, self._struck(number), place)
                )
                line = {"reached": number, "task": task, "run": run, "subject": subject}
                self._append(file, **line, struck=strikes)
                if strikes:
                    due.append(fault)
        return due

    def _struck(self, number: int) -> int:
        return sum(count for (fault, _), count in self.struck.items() if fault == number)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Lock the file, read what others have recorded so far, and yield it for appending."""
        with self._lock, locked(self._path) as file:
            self._catch_up()
            yield file

    def _append(self, file: IO[bytes], **line: Any) -> None:
        write_value(file, line)
        self._catch_up()

    def _catch_up(self) -> None:
        lines, self._read = values_from(self._path, self._read)
        for line in lines:
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        match line:
            case {"reached": number, "task": task, "run": run, "subject": subject, "struck": hit}:
                self.reached[number] += 1
                self.struck[number, task] += hit
                self._attempts[number, run] += 1
                order = self._order.setdefault(number, {})
                order.setdefault(run, len(order) + 1)
                alike = self._runs.setdefault((number, subject), [])
                if run not in alike:
                    alike.append(run)
            case {"task": name}:
                self.tasks.add(name)
            case {"refused": why}:
                self.refused.append(why)
