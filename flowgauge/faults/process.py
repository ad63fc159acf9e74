# SPDX-License-Identifier: Apache-2.0
"""One process's side of a test's faults: it follows the plan in the folder of the pytest run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgauge.faults.journal import Journal
from flowgauge.faults.plan import Fault, Moment, Plan, plan_path


def faults_folder(home: Path) -> Path:
    """Return the folder with the plan and journals of a pytest run."""
    return home / "faults"


class FaultProcess:
    """What this process knows of the plan; while there is none, a check costs one `stat`."""

    def __init__(self, home: Path, *, expendable: bool, crash_on: Sequence[str] = ()) -> None:
        """Start to follow the plans of a pytest run.

        Args:
            home: The folder of the pytest run.
            expendable: Whether this process may be killed.
            crash_on: Task runners whose processes may be killed, to name in the message if this one
                may not.
        """
        self.expendable = expendable
        self.crash_on = crash_on
        self._folder = faults_folder(home)
        self._path = str(plan_path(self._folder))
        self._stamp: tuple[int, int, int] | None = None
        self._plan: Plan | None = None
        self._journal = Journal(self._folder)
        self._noted: set[str] = set()

    @property
    def plan(self) -> Plan | None:
        """The plan of the current test; None if it has no faults."""
        try:
            status = os.stat(self._path)
            stamp = status.st_mtime_ns, status.st_ino, status.st_size
            if stamp != self._stamp:
                plan: Plan = pickle.loads(Path(self._path).read_bytes())
                self._follow(plan)
                self._stamp = stamp
        except FileNotFoundError:
            self._plan = self._stamp = None
        return self._plan

    def _follow(self, plan: Plan) -> None:
        if self._plan is None or plan.journal != self._plan.journal:
            self._journal = Journal(self._folder / plan.journal)
            self._noted = set()
        self._plan = plan

    def note_task(self, name: str) -> None:
        """Record that a task of this name runs here."""
        if self.plan is not None and name not in self._noted:
            self._journal.note_task(name)
            self._noted.add(name)

    def refuse(self, line: str) -> None:
        """Record that a fault can't strike here, in case the error is not reported otherwise."""
        self._journal.note_refusal(line)

    def due(self, task: str, at: Moment, run: str, subject: Callable[[], str]) -> list[Fault]:
        """Return the faults that strike now.

        Args:
            task: The name of the task.
            at: The point that the task run has reached.
            run: The id of the task run.
            subject: Returns a description of the task run's work, the same on every task runner.

        Returns:
            The faults, in the order in which the test requested them.
        """
        plan = self.plan
        if plan is None:
            return []
        faults = [fault for fault in plan.faults if fault.at == at and fault.concerns(task)]
        if not faults:
            return []
        return self._journal.reach(task, faults, plan.seed, run, subject())
