# SPDX-License-Identifier: Apache-2.0
"""The state of a test's runs, from which the coordinator decides when time may be skipped.

Time may be skipped to the earliest deadline when nothing else is going on: no code of a task or
flow is running, no request is in flight, no submitted task is about to start, and no run is about
to wake because what it waits for has just ended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Doing = Literal["running", "submits", "waits for runs", "waits", "under another run"]
"""What the thread of a run is doing: running code, submitting a task to its runner, waiting for
futures, waiting for something else, or running another run that started later in the thread."""


@dataclass(frozen=True)
class LiveRun:
    """A task run or flow run that has started and not ended.

    Attributes:
        process: The number of the connection to the process that it runs in.
        name: The name of its task or flow.
        kind: "flow" or "task"; "service" for what looks for flow runs of deployments, and for what
            executes one.
        parent: The run that called or submitted it.
        order: Its place in the order in which runs started.
    """

    process: int
    name: str
    kind: str
    parent: str | None
    order: int


@dataclass(frozen=True)
class Submission:
    """A submitted task run that has not started.

    Attributes:
        process: The number of the connection to the process that submitted it.
        parent: The run that submitted it.
        upstream: The task runs whose results it needs.
        slots: How many tasks its runner runs at once; None if unknown.
    """

    process: int
    parent: str | None
    upstream: frozenset[str]
    slots: int | None


@dataclass(frozen=True)
class Wait:
    """A wait that may be skipped.

    Attributes:
        deadline: Virtual time, in seconds since the epoch.
        run: The run that waits, if it is one.
        poller: What tells a waiter that polls until something else happens from others; None if
            it does not poll.
        slot: Whether it polls for a concurrency slot, for a run of its process.
        gives_up: Whether the deadline is the end of a wait for someone else.
        awaited_run: The flow run that it waits for, if it is one.
        seen: If it polls, the number of other events that it may have seen; None if it is new.
        idle: Whether it waits for work: until the deadline, or until something may have been
            scheduled. Time is not skipped for its sake alone.
    """

    deadline: float
    run: str | None = None
    poller: int | None = None
    slot: bool = False
    gives_up: bool = False
    awaited_run: str | None = None
    seen: int | None = None
    idle: bool = False

    def is_of_a_run(self) -> bool:
        """Return whether it is a wait of Prefect, not of the test or of what waits for work."""
        of_prefect = self.slot or self.gives_up or self.poller is not None
        return not self.idle and (self.run is not None or of_prefect)


@dataclass(frozen=True)
class Lease:
    """The lease of concurrency slots that a process holds and renews.

    Attributes:
        process: The number of the connection to the process.
        since: When it was taken: virtual time, in seconds since the epoch, like `ends`.
        seconds: How long it lasts after it was taken or renewed.
        every: Seconds between renewals.
        ends: When it is over, once the process is gone.
    """

    process: int
    since: float
    seconds: float
    every: float
    ends: float = math.inf

    def abandoned(self, now: float) -> Lease:
        """Return the lease as the process leaves it that was its holder until now."""
        renewed = now - (now - self.since) % self.every
        return dataclasses.replace(self, ends=renewed + self.seconds)


@dataclass(frozen=True)
class RunStatus:
    """The status of a run, as its process reports it.

    Attributes:
        doing: What its thread is doing.
        awaited: The task runs that it waits for, if it waits for runs.
        where: File and line of the code that is running or waiting.
    """

    doing: Doing
    awaited: frozenset[str] = frozenset()
    where: str = ""


@dataclass
class Runs:
    """Everything that processes have reported; see the module docstring."""

    live: dict[str, LiveRun] = field(default_factory=dict)
    submitted: dict[str, Submission] = field(default_factory=dict)
    waits: dict[tuple[int, int], Wait] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _submissions: dict[str, Submission] = field(default_factory=dict)
    happened: int = 0
    _new_work: int = 0
    _seen: dict[tuple[int, int], int] = field(default_factory=dict)

    def begin(self, process: int, key: str, name: str, kind: str, parent: str | None) -> None:
        """Record that a run has started."""
        submission = self.submitted.pop(key, None) or self._submissions.get(key)
        self._ended.discard(key)
        self.happened += 1
        parent = submission.parent if submission else parent
        self.live[key] = LiveRun(process, name, kind, parent, self.happened)

    def end(self, key: str) -> None:
        """Record that a run has ended, and with it whatever it submitted that never started."""
        self.live.pop(key, None)
        self._ended.add(key)
        self.happened += 1
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
        """Record that a task run was submitted; it may already have started or ended."""
        submission = Submission(process, parent, frozenset(upstream), slots)
        self._submissions[key] = submission
        if key in self.live:
            run = self.live[key]
            self.live[key] = LiveRun(run.process, run.name, run.kind, parent, run.order)
        elif key not in self._ended:
            self.submitted[key] = submission

    def wait(self, process: int, wait_id: int, wait: Wait) -> None:
        """Record that a wait has started."""
        if wait.poller is not None:
            seen = self._seen.get((process, wait.poller))
            wait = dataclasses.replace(wait, seen=seen)
        elif not wait.gives_up:
            self.happened += 1
        self.waits[process, wait_id] = wait

    def wake(self, process: int, wait_id: int) -> None:
        """Record that a wait is over; who polls sees what has happened until now."""
        wait = self.waits.pop((process, wait_id))
        if wait.poller is not None:
            self._seen[process, wait.poller] = self._new_work if wait.idle else self.happened

    def change(self, work: bool = False) -> None:
        """Record that something was changed on the Prefect server.

        Args:
            work: Whether something may have been scheduled.
        """
        self.happened += 1
        self._new_work += work

    def due(self, now: float) -> list[tuple[int, int]]:
        """Return the waits that are over.

        Args:
            now: Virtual time, in seconds since the epoch.

        Returns:
            Their processes and numbers.
        """
        return [
            at
            for at, wait in self.waits.items()
            if wait.deadline <= now or (wait.idle and (wait.seen or 0) < self._new_work)
        ]

    def drop(self, process: int, now: float) -> None:
        """Forget a process that is gone; another may start its submitted runs again.

        Nobody renews its leases any more.

        Args:
            process: The number of the connection to it.
            now: Virtual time, in seconds since the epoch.
        """
        for key, lease in self.leases.items():
            if lease.process == process and lease.ends == math.inf:
                self.leases[key] = lease.abandoned(now)
        self.waits = {at: wait for at, wait in self.waits.items() if at[0] != process}
        self._seen = {at: seen for at, seen in self._seen.items() if at[0] != process}
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

        A poll gets a different answer only after something else has happened, so polls without
        that are ignored, but for the first one: what happened just before it may be unseen.

        The end of a lease is something that happens to those who poll for a slot.

        Returns:
            Virtual time, in seconds since the epoch; None if there is nothing to skip to.
        """
        if all(wait.idle for wait in self.waits.values()):
            return None
        deadlines = [
            wait.deadline
            for wait in self.waits.values()
            if wait.idle or wait.poller is None or wait.seen is None or wait.seen < self.happened
        ]
        if any(wait.slot for wait in self.waits.values()):
            deadlines += [lease.ends for lease in self.leases.values()]
        until = min(deadlines, default=math.inf)
        return None if until == math.inf else until

    def leases_over(self, now: float) -> list[str]:
        """Return the leases that are over and forget them; who polls sees that.

        Args:
            now: Virtual time, in seconds since the epoch.

        Returns:
            Their ids.
        """
        over = [key for key, lease in self.leases.items() if lease.ends <= now]
        for key in over:
            del self.leases[key]
            self.happened += 1
        return over

    def served(self) -> bool:
        """Return whether a service executes a flow run; one without work waits."""
        waiting = {wait.run for wait in self.waits.values()}
        return any(run.kind == "service" and key not in waiting for key, run in self.live.items())

    def giving_up(self, until: float) -> list[Wait]:
        """Return the waits for someone else that end unsuccessfully if time is skipped.

        Args:
            until: Virtual time, in seconds since the epoch.

        Returns:
            The waits.
        """
        return [w for w in self.waits.values() if w.gives_up and w.deadline <= until]

    def about_to_begin(self) -> list[str]:
        """Return the submitted runs whose upstream runs have ended and that have a free worker."""
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
            sightings: The status of each run, as its process reports it.
            polling: The processes in which something polls, for instance for a concurrency slot.

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
        self, key: str, run: LiveRun, status: RunStatus | None, polling: frozenset[int]
    ) -> bool:
        if status is None:
            return True
        match status.doing:
            case "running" | "submits":
                return True
            case "under another run":
                return False
            case "waits for runs":
                # A run that waits for one that has ended is about to wake.
                return bool(status.awaited & self._ended)
        if run.process in polling:
            return False
        has_younger = run.kind == "flow" and any(
            other.order > run.order for other in self.live.values()
        )
        return not (has_younger or self._has_children(key))

    def _has_children(self, key: str) -> bool:
        return any(run.parent == key for run in self.live.values()) or any(
            submission.parent == key for submission in self.submitted.values()
        )
