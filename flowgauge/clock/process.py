# SPDX-License-Identifier: Apache-2.0
"""One process's side of the virtual clock: reports runs and waits to the coordinator, and waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgauge.clock.coordinator import socket_path
from flowgauge.clock.outside import code_outside
from flowgauge.clock.shared_time import SharedTime
from flowgauge.clock.sightings import is_blocked, look_at
from flowgauge.frames import frames_by_thread

current_run: ContextVar[str | None] = ContextVar("flowgauge_run", default=None)
"""The key of the run whose code is executing."""
_submission: ContextVar[_Submission | None] = ContextVar("flowgauge_submission", default=None)
"""The submission that the code which is executing was started by."""


class ClockEndedError(RuntimeError):
    """Raised in runs that outlive their test, instead of waiting for hours in real time."""


@dataclass(frozen=True)
class _OpenRun:
    thread: int
    is_async: bool


@dataclass(eq=False)
class _Submission:
    """A run that is submitting a task to its runner.

    Attributes:
        by: The key of the run that submits.
        runs: Whether the task is running meanwhile, as on a runner that runs it in `submit`.
    """

    by: str | None
    runs: bool = False


class ClockProcess:
    """This process's side of the clock; does nothing unless a test uses the clock."""

    def __init__(self, home: Path) -> None:
        """Open the shared time of a pytest run.

        Args:
            home: The folder of the pytest run.
        """
        self.home = home
        self.time = SharedTime(home)
        self._requests: Counter[int] = Counter()
        self._submissions: set[_Submission] = set()
        self.slots: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._path = socket_path(home)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pid = 0
        self._runs: dict[str, _OpenRun] = {}
        self._ids = itertools.count(1)
        self._sleepers: dict[int, Callable[[], None]] = {}

    @contextlib.contextmanager
    def run(self, key: str, name: str, kind: str, *, is_async: bool) -> Iterator[None]:
        """Report a run to the coordinator for as long as it lasts.

        Args:
            key: The run's key, which its submitter knows too.
            name: The name of its task or flow.
            kind: "flow" or "task".
            is_async: Whether it shares its thread with other runs.

        Yields:
            Nothing.
        """
        parent = current_run.get()
        self._runs[key] = _OpenRun(threading.get_ident(), is_async)
        self.tell(about="begin", key=key, name=name, kind=kind, parent=parent)
        current_run.set(key)
        submission = _submission.get() or _Submission(parent)
        submission.runs = True
        # Runs that this one calls were not submitted.
        _submission.set(None)
        try:
            yield
        finally:
            submission.runs = False
            _submission.set(submission)
            current_run.set(parent)
            self._runs.pop(key, None)
            self.tell(about="end", key=key)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Record that this thread has a request to the Prefect server in flight."""
        thread = threading.get_ident()
        self._requests[thread] += 1
        try:
            yield
        finally:
            self._requests[thread] -= 1

    @contextlib.contextmanager
    def submission(self) -> Iterator[None]:
        """Record that the current run is submitting a task to its runner, which may block.

        A thread pool may wait for a free worker. What runs each task in `submit` may wait for the
        task, in another thread if it is an async task of an async flow.
        """
        submission = _Submission(current_run.get())
        self._submissions.add(submission)
        before = _submission.set(submission)
        try:
            yield
        finally:
            _submission.reset(before)
            self._submissions.discard(submission)

    def runs_here(self) -> bool:
        """Return whether this thread is executing the code of a run right now."""
        run = self._runs.get(current_run.get() or "")
        return run is not None and run.thread == threading.get_ident()

    def sleep(
        self,
        seconds: float,
        *,
        poller: int | None = None,
        gives_up_in: float = math.inf,
        awaited_run: str | None = None,
    ) -> None:
        """Wait for virtual time to pass.

        Args:
            seconds: How long.
            poller: If the caller polls until something else happens, what tells it from others.
            gives_up_in: Seconds after which it stops to poll; the wait ends then, too.
            awaited_run: The flow run that it polls for, if it is one.
        """
        now = self.time.now()
        woken = threading.Event()
        with contextlib.ExitStack() as waits:
            told = waits.enter_context(self.waiting(woken.set, now + seconds, poller=poller))
            if gives_up_in < math.inf:
                end = now + gives_up_in
                waits.enter_context(
                    self.waiting(woken.set, end, gives_up=True, awaited_run=awaited_run)
                )
            if told:
                woken.wait()
        self._check_woken(now + min(seconds, gives_up_in))

    async def sleep_async(
        self, seconds: float, *, poller: int | None = None, slot: bool = False
    ) -> None:
        """Wait for virtual time to pass, leaving the thread to other runs.

        Args:
            seconds: How long.
            poller: If the caller polls until something else happens, what tells it from others.
            slot: Whether it polls for a concurrency slot, for another run of this process.
        """
        deadline = self.time.now() + seconds
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(woken.set)

        with self.waiting(wake, deadline, poller=poller, slot=slot) as told:
            if told:
                await woken.wait()
        self._check_woken(deadline)

    @contextlib.contextmanager
    def waiting(
        self,
        wake: Callable[[], None],
        deadline: float,
        *,
        poller: int | None = None,
        slot: bool = False,
        gives_up: bool = False,
        awaited_run: str | None = None,
        idle: bool = False,
    ) -> Iterator[bool]:
        """Tell the coordinator of a wait for as long as it lasts.

        Args:
            wake: What ends it. It is called in another thread, at the deadline or when the clock
                ends.
            deadline: Virtual time, in seconds since the epoch.
            poller: If the waiter polls until something else happens, what tells it from others.
            slot: Whether it polls for a concurrency slot, for another run of this process.
            gives_up: Whether the deadline is the end of a wait for someone else.
            awaited_run: The flow run that it waits for, if it is one.
            idle: Whether it waits for work: until the deadline, or until something may have been
                scheduled. Time is not skipped for its sake alone.

        Yields:
            Whether there is a coordinator.
        """
        wait_id = next(self._ids)
        self._sleepers[wait_id] = wake
        try:
            yield self.tell(
                about="wait",
                id=wait_id,
                deadline=deadline,
                run=None if slot else current_run.get(),
                poller=poller,
                slot=slot,
                gives_up=gives_up,
                awaited_run=awaited_run,
                idle=idle,
            )
        finally:
            self._sleepers.pop(wait_id, None)
            self.tell(about="no wait", id=wait_id)

    def _check_woken(self, deadline: float) -> None:
        # A tenth of a second of tolerance, in case the system clock is set back meanwhile.
        if self.time.now() < deadline - 0.1:
            raise ClockEndedError(
                f"the virtual clock ended {deadline - self.time.now():.0f} s before the end of"
                " this wait: the test that used the clock is over"
            )

    def tell(self, **message: Any) -> bool:
        """Send a message to the coordinator.

        Args:
            **message: The fields of the message.

        Returns:
            Whether there is a coordinator.
        """
        with self._lock:
            try:
                if self._socket is None or self._pid != os.getpid():
                    self._connect()
                assert self._socket is not None
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self._socket = None
                return False
        return True

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._path)
        self._socket, self._pid = connection, os.getpid()
        threading.Thread(
            target=self._listen, args=(connection,), name="flowgauge-clock-listener", daemon=True
        ).start()

    def _listen(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if message["about"] == "wake":
                    self._wake(message["id"])
                else:
                    self._answer(message["question"], message["outside"])
        with self._lock:
            if self._socket is connection:
                self._socket = None
        for wait_id in list(self._sleepers):
            self._wake(wait_id)

    def _wake(self, wait_id: int) -> None:
        if wake := self._sleepers.get(wait_id):
            wake()

    def _answer(self, question: int, outside: bool) -> None:
        threads = {run.thread for run in list(self._runs.values()) if not run.is_async}
        self.tell(
            about="sightings",
            question=question,
            requests=self._requests_under_way(),
            runs=[[key, *sighting] for key, sighting in self._look().items()],
            outside=code_outside(threads) if outside else "",
        )

    def _requests_under_way(self) -> int:
        """Return the number of requests in flight, except those of blocked event loops."""
        frames = frames_by_thread()
        return sum(
            count
            for thread, count in list(self._requests.items())
            if count and thread in frames and not is_blocked(frames[thread])
        )

    def _look(self) -> dict[str, tuple[str, list[str], str]]:
        """Return, by run, what its thread is doing, which runs it awaits, and where it is."""
        frames = frames_by_thread()
        submitting = {open_.by for open_ in list(self._submissions) if not open_.runs}
        last_in_thread: dict[int, str] = {}
        for key, run in list(self._runs.items()):
            if not run.is_async:
                last_in_thread[run.thread] = key
        sightings: dict[str, tuple[str, list[str], str]] = {}
        for key, run in list(self._runs.items()):
            if last_in_thread.get(run.thread, key) != key:
                sightings[key] = ("under another run", [], "")
            elif frame := frames.get(run.thread):
                doing, awaited, where = look_at(frame, is_async=run.is_async)
                if doing == "waits" and key in submitting:
                    doing = "submits"
                sightings[key] = (doing, awaited, where)
        return sightings
