# SPDX-License-Identifier: Apache-2.0
"""What must be known about the runs of a test to say when time may be skipped.

Time may be skipped to the earliest deadline when nothing else is going on: no code of a task or
flow is running, no request is under way, no submitted task is about to begin, and nobody is about
to wake because what they wait for has just ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Doing = Literal["running", "submits", "waits for runs", "waits", "under another run"]
"""What the thread of a run does: runs code, hands a task to its runner, waits for futures, waits
for something else."""


@dataclass(frozen=True)
class LiveRun:
    """A task run or flow run that has begun and not ended.

    Attributes:
        process: The connection to the process that it runs in.
        name: Its task or flow.
        kind: "flow" or "task".
        parent: The run that called or submitted it.
        order: When it began: runs are numbered.
    """

    process: int
    name: str
    kind: str
    parent: str | None
    order: int


@dataclass(frozen=True)
class Submission:
    """A submitted task run that has not begun.

    Attributes:
        process: The connection to the process that submitted it.
        parent: The run that submitted it.
        upstream: The task runs whose results it needs first.
        slots: How many tasks its runner runs side by side; None if unknown.
    """

    process: int
    parent: str | None
    upstream: frozenset[str]
    slots: int | None


@dataclass(frozen=True)
class Wait:
    """A wait that may be skipped.

    Attributes:
        deadline: Virtual time in seconds since 1970.
        polls: Whether it asks again and again until something else happens.
        run: The run that waits, if one does.
        since: How many other things had happened when it began.
    """

    deadline: float
    polls: bool
    run: str | None
    since: int = 0


@dataclass(frozen=True)
class RunStatus:
    """What a process sees of one of its runs.

    Attributes:
        doing: What its thread does.
        awaited: The task runs that it waits for, where it waits for runs.
        where: File and line of the code that runs or waits.
    """

    doing: Doing
    awaited: frozenset[str] = frozenset()
    where: str = ""


@dataclass
class Runs:
    """All that processes have told; see the module."""

    live: dict[str, LiveRun] = field(default_factory=dict)
    submitted: dict[str, Submission] = field(default_factory=dict)
    waits: dict[tuple[int, int], Wait] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _submissions: dict[str, Submission] = field(default_factory=dict)
    _happened: int = 0

    def begin(self, process: int, key: str, name: str, kind: str, parent: str | None) -> None:
        """Note that a run begins."""
        submission = self.submitted.pop(key, None) or self._submissions.get(key)
        self._ended.discard(key)
        self._happened += 1
        parent = submission.parent if submission else parent
        self.live[key] = LiveRun(process, name, kind, parent, self._happened)

    def end(self, key: str) -> None:
        """Note that a run is over, and with it whatever it submitted and never began."""
        self.live.pop(key, None)
        self._ended.add(key)
        self._happened += 1
        for other, submission in list(self.submitted.items()):
            if submission.parent == key:
                del self.submitted[other]

    def submit(
        self,
        process: int,
        key: str,
        parent: str | None,
        upstream: Iterable[str],
        slots: int | None,
    ) -> None:
        """Note that a task run was submitted; it may have begun or ended by now."""
        submission = Submission(process, parent, frozenset(upstream), slots)
        self._submissions[key] = submission
        if key in self.live:
            run = self.live[key]
            self.live[key] = LiveRun(run.process, run.name, run.kind, parent, run.order)
        elif key not in self._ended:
            self.submitted[key] = submission

    def wait(
        self, process: int, wait_id: int, deadline: float, polls: bool, run: str | None
    ) -> None:
        """Note that somebody waits."""
        self._happened += not polls
        self.waits[process, wait_id] = Wait(deadline, polls, run, self._happened)

    def drop(self, process: int) -> None:
        """Forget a process that is gone; another one may begin its submitted runs again."""
        self.waits = {at: wait for at, wait in self.waits.items() if at[0] != process}
        for key, run in list(self.live.items()):
            if run.process == process:
                del self.live[key]
                if key in self._submissions:
                    self.submitted[key] = self._submissions[key]
        for key, submission in list(self.submitted.items()):
            if submission.process == process:
                del self.submitted[key]

    def skippable_until(self) -> float | None:
        """Return the deadline to skip to, if any.

        Who asks again and again gets another answer only after something else has happened.
        """
        return min(
            (
                wait.deadline
                for wait in self.waits.values()
                if not wait.polls or wait.since < self._happened
            ),
            default=None,
        )

    def about_to_begin(self) -> list[str]:
        """Return the submitted runs that have all they need and a free worker."""
        return [key for key, submission in self.submitted.items() if self._can_begin(submission)]

    def _can_begin(self, submission: Submission) -> bool:
        if any(key in self.live or key in self.submitted for key in submission.upstream):
            return False
        if submission.slots is None:
            return True
        taken = sum(
            1
            for key, run in self.live.items()
            if key in self._submissions and run.parent == submission.parent
        )
        return taken < submission.slots

    def busy(
        self, sightings: Mapping[str, RunStatus], polling: frozenset[int] = frozenset()
    ) -> list[str]:
        """Return the runs that may still do something before the next deadline.

        Args:
            sightings: What the processes see of their runs.
            polling: The processes in which something polls, for instance for a slot.

        Returns:
            The keys of those runs.
        """
        waiting = {wait.run for wait in self.waits.values()}
        return [
            key
            for key, run in self.live.items()
            if key not in waiting and self._is_busy(key, run, sightings.get(key), polling)
        ]

    def _is_busy(
        self, key: str, run: LiveRun, seen: RunStatus | None, polling: frozenset[int]
    ) -> bool:
        if seen is None:
            return True
        match seen.doing:
            case "running" | "submits":
                return True
            case "under another run":
                return False
            case "waits for runs":
                # Whoever waits for a run that has ended is about to wake.
                return bool(seen.awaited & self._ended)
        if run.process in polling:
            return False
        younger = run.kind == "flow" and any(
            other.order > run.order for other in self.live.values()
        )
        return not (younger or self._has_children(key))

    def _has_children(self, key: str) -> bool:
        return any(run.parent == key for run in self.live.values()) or any(
            submission.parent == key for submission in self.submitted.values()
        )
