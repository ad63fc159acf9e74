# SPDX-License-Identifier: Apache-2.0
"""The points of a task run at which faults strike, and what each kind of fault does."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from prefect.events.worker import EventsWorker

from flowgauge.faults.connection import LossyConnection
from flowgauge.faults.errors import FaultRefused, Refusal
from flowgauge.faults.plan import (
    Crash,
    Fail,
    FailSometimes,
    Fault,
    LoseConnection,
    Moment,
    Slow,
    describe,
)
from flowgauge.faults.process import FaultProcess

DELIVERY = 10.0
"""Seconds that Prefect has to send its pending events before a crash."""

_POOL_WOULD_HANG = (
    "on the task runner processes, an error that escapes Prefect's engine stops the pool, and code"
    " that waits for the task hangs forever; use another task runner or another point"
)


class Points:
    """Makes faults strike at the points of a task run."""

    def __init__(self, process: FaultProcess) -> None:
        """Start with a working connection.

        Args:
            process: This process's side of the faults.
        """
        self.process = process
        self.connection = LossyConnection(process)

    def wait(self, engine: Any, at: Moment) -> None:
        """Make the faults that are due at a point strike, in the thread of a sync task.

        Args:
            engine: The engine of the task run.
            at: The point that it has reached.

        Raises:
            Exception: The error that the test makes the task fail with.
            Refusal: If a fault can't strike in this process.
        """
        for seconds in self._strike(engine, at):
            time.sleep(seconds)

    async def wait_async(self, engine: Any, at: Moment) -> None:
        """Do what `wait` does, in the event loop of an async task."""
        for seconds in self._strike(engine, at):
            await asyncio.sleep(seconds)

    def due(self, run: Any, at: Moment) -> list[Fault]:
        """Record that a task run has reached a point, and return the faults that strike there.

        Args:
            run: The engine or the context of the task run.
            at: The point.

        Returns:
            The faults.
        """
        return self.process.due(run.task.name, at, str(run.task_run.id), lambda: _subject(run))

    def refuse(self, line: str) -> NoReturn:
        """Record that a fault can't strike in this task run, and end the run.

        Args:
            line: What to say.

        Raises:
            FaultRefused: In a process pool, which would not survive the other one.
            Refusal: Elsewhere, so that Prefect does not retry.
        """
        self.process.refuse(line)
        raise FaultRefused(line) if _pool_queue() else Refusal(line)

    def _strike(self, engine: Any, at: Moment) -> Iterator[float]:
        """Execute the faults that are due, yielding the seconds to wait for each `Slow`."""
        for fault in self.due(engine, at):
            match fault.effect:
                case Slow(seconds):
                    yield seconds
                case Fail() | FailSometimes() if at == "after completion" and _pool_queue():
                    self.process.refuse(f"{fault.call}: {_POOL_WOULD_HANG}")
                case Fail(error=error) | FailSometimes(error=error):
                    raise pickle.loads(error)
                case LoseConnection(requests):
                    # Otherwise the requests that fail would be those for earlier events.
                    _deliver_events()
                    self.connection.lose(requests)
                case Crash():
                    self._crash(fault)

    def _crash(self, fault: Fault) -> None:
        if self.process.expendable:
            kill_this_process()
        runners = self.process.crash_on
        mark = ", ".join(f'"{name}"' for name in runners)
        line = (
            f"{fault.call}: the task runs in pytest's own process; submit it on the task runner"
            f" {' or '.join(runners)} (@pytest.mark.runners({mark}))"
        )
        self.refuse(line)


def _subject(run: Any) -> str:
    """Return a description of a task run's work: Prefect's own run names and keys are random."""
    if run.task.task_run_name:
        return str(run.task_run.name)
    return f"{run.task.name}({describe(run.parameters)})"


def kill_this_process() -> None:
    """Kill this process, once it has sent what it has for Prefect's server.

    A worker of a process pool that is killed while it sends leaves half a message, or the lock of
    the queue: Prefect then waits for the rest, for ever, when the pool ends.
    """
    _deliver_events()
    if queue := _pool_queue():
        queue.close()
        queue.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def _deliver_events() -> None:
    """Wait until Prefect has sent the states that it has recorded so far."""
    delivery = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    delivery.start()
    delivery.join(DELIVERY)


def _pool_queue() -> Any:
    """Return the queue to pytest's process; None outside the workers of a process pool."""
    _, options = EventsWorker._client_override or (None, ())
    return dict(options).get("event_queue")
