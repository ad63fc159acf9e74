# SPDX-License-Identifier: Apache-2.0
"""Executes the flow runs of deployments, each at its scheduled, virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.deadlocks.deployments import SERVICE_THREAD
from flowgauge.event_loop import held_up
from flowgauge.mistake import Mistake
from flowgauge.services.scheduled import Source, start_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

    from flowgauge.clock.process import ClockProcess

LOOK_EVERY = 0.2
"""Real seconds after which a service looks for work again; with the virtual clock it is told."""

LOOK_ANYWAY = 1.0
"""Real seconds after which it does so with the virtual clock, for what the clock does not see."""

SOON = 60.0
"""Real seconds for which `runs` waits for the next flow run without the virtual clock."""

STOP_SECONDS = 10.0
"""Real seconds that the flow runs of a service have to end when its test is over."""


Running = Callable[[bool], AbstractContextManager[str]]
"""What to do while a flow is executed, given whether an event loop executes it: the virtual clock
then knows of it, by the key that this yields."""

Execute = Callable[["FlowRun", Running], "State[Any] | None"]
"""Executes a flow run, and returns its state, None if only the server knows it."""


class FailedRun(UserWarning):
    """A flow run of a deployment that failed, in a test that did not look at it."""


@dataclass(eq=False)
class _Executing:
    run: FlowRun
    thread: threading.Thread


class Service:
    """Executes the flow runs of a deployment, or of a work pool, until its test is over.

    With the virtual clock a run starts at its scheduled time, without waiting: whenever time passes
    in the test, in a flow that waits or with `advance`, it stops at each run on the way.

    Attributes:
        name: The name of the deployment, for `run_deployment`, or of the work pool.
    """

    name: str

    def __init__(
        self,
        name: str,
        source: Source,
        execute: Execute,
        clock: ClockProcess | None,
        limit: int | None,
    ) -> None:
        """Start to look for work.

        Args:
            name: The name of the deployment or work pool.
            source: Where it finds its work.
            execute: How it executes a flow run.
            clock: This process's side of the virtual clock, if the test uses it.
            limit: How many flow runs it executes at once; None for any number.
        """
        self.name = name
        self._source = source
        self._execute_run = execute
        self._clock = clock
        self._limit = limit
        self._context = contextvars.copy_context()
        self._executing: dict[UUID, _Executing] = {}
        self._ended: dict[UUID, State[Any]] = {}
        self._seen: set[UUID] = set()
        self._next_start = math.inf
        self._looks = self._looks_needed = 0
        self._problem: BaseException | None = None
        self._stopping = False
        self._woken = threading.Event()
        self._news = threading.Condition()
        self._thread = self._started(self._work, SERVICE_THREAD + name)

    @property
    def executing(self) -> list[UUID]:
        """The ids of the flow runs that are being executed."""
        return list(self._executing)

    def runs(self, count: int | None = None) -> list[FlowRun]:
        """Wait for flow runs to end, and return all that have ended, in the order of their ends.

        Args:
            count: How many have to end; with the virtual clock, time passes until then. None for
                all that should have started by now.

        Returns:
            The flow runs, each with its last state. If the flow returned a value or raised an
                exception, `run.state.result()` has it; that of a process only if it is stored.

        Raises:
            Mistake: If fewer have ended, and no other one will start.
        """
        if runs := held_up():
            raise Mistake(
                f"runs() of {self.name!r}: a {next(iter(runs.values()))} stands still while this"
                " call blocks its event loop; write `await asyncio.to_thread(….runs, …)`"
            )
        with self._passing_time(count), self._news:
            self._look_again()
            while self._problem is None and not self._is_over(count):
                if self._looks < self._looks_needed:
                    self._woken.set()
                self._news.wait()
            if self._problem is not None:
                raise self._problem
            ended = dict(self._ended)
        self._seen |= ended.keys()
        return _read(ended)

    def _look_again(self) -> None:
        """Make what is known too old; the look that is going on may miss what just happened."""
        self._looks_needed = self._looks + 2
        self._woken.set()

    def _is_over(self, count: int | None) -> bool:
        """Return whether `runs` has waited long enough."""
        if count is not None and len(self._ended) >= count:
            return True
        if self._looks < self._looks_needed or self._executing:
            return False
        if count is None:
            return True
        ended = f"{len(self._ended)} of {count} flow runs of {self.name!r} have ended"
        if self._next_start == math.inf:
            raise Mistake(f"runs({count}): {ended}, and no other one is scheduled")
        seconds = self._next_start - self._now()
        if self._clock is None and seconds > SOON:
            start = datetime.fromtimestamp(self._next_start, UTC)
            raise Mistake(
                f"runs({count}): {ended}, and the next one starts at {start:%Y-%m-%d %H:%M} UTC;"
                " ask for the fixture virtual_clock, so that time passes"
            )
        return False

    def stop(self) -> list[FlowRun]:
        """Stop looking for work, and wait for the flow runs that are being executed.

        Returns:
            Those that failed or crashed and that `runs` has not returned.

        Raises:
            Mistake: If a flow run does not end.
        """
        self._stopping = True
        self._woken.set()
        self._thread.join()
        deadline = time.monotonic() + STOP_SECONDS
        for each in list(self._executing.values()):
            each.thread.join(max(0.0, deadline - time.monotonic()))
            if each.thread.is_alive():
                raise Mistake(
                    f"flow run {each.run.name!r} of {self.name!r} still runs at the end of the"
                    " test; wait for it with runs()"
                )
        if self._problem is not None:
            raise self._problem
        unseen = {run: state for run, state in self._ended.items() if run not in self._seen}
        return _read({run: s for run, s in unseen.items() if s.is_failed() or s.is_crashed()})

    def _started(self, work: Callable[..., None], name: str, *args: Any) -> threading.Thread:
        context = self._context.copy()
        thread = threading.Thread(target=context.run, args=(work, *args), name=name)
        thread.start()
        return thread

    def _now(self) -> float:
        return time.time() if self._clock is None else self._clock.time.now()

    @contextlib.contextmanager
    def _passing_time(self, count: int | None) -> Iterator[None]:
        """Let virtual time pass for as long as somebody waits for runs that are yet to start."""
        with contextlib.ExitStack() as stack:
            if self._clock is not None and count is not None:
                stack.enter_context(self._clock.waiting(lambda: None, math.inf))
            yield

    @contextlib.contextmanager
    def _running(self, what: str, is_async: bool) -> Iterator[None]:
        """Keep the virtual clock from skipping time while something runs."""
        with contextlib.ExitStack() as stack:
            if self._clock is not None:
                run = self._clock.run(what, self.name, "service", is_async=is_async)
                stack.enter_context(run)
            yield

    def _work(self) -> None:
        """Look for work and start it, until the test is over."""
        from prefect.client.orchestration import get_client

        try:
            with (
                self._running(f"service {id(self)}", False),
                get_client(sync_client=True) as client,
            ):
                while True:
                    self._woken.clear()
                    if self._stopping:
                        break
                    next_start = self._start_due(client)
                    with self._news:
                        self._next_start = next_start
                        self._looks += 1
                        self._news.notify_all()
                    self._wait(next_start)
        except BaseException as error:
            with self._news:
                self._problem = error
                self._news.notify_all()

    def _wait(self, next_start: float) -> None:
        """Wait for the next start, or for what may have scheduled another one."""
        if self._clock is None:
            self._woken.wait(min(LOOK_EVERY, max(0.0, next_start - self._now())))
            return
        with self._clock.waiting(self._woken.set, next_start, poller=id(self), idle=True):
            self._woken.wait(LOOK_ANYWAY)

    def _start_due(self, client: SyncPrefectClient) -> float:
        """Start what is due; return when the next flow run is, in seconds since the epoch."""
        now = self._now()
        for run in self._source.scheduled(client, datetime.fromtimestamp(now, UTC)):
            start = start_of(run).timestamp()
            if start > now:
                return start
            if self._limit is not None and len(self._executing) >= self._limit:
                break
            if run.id not in self._executing:
                self._start(client, run)
        return math.inf

    def _start(self, client: SyncPrefectClient, scheduled: FlowRun) -> None:
        """Start a flow run, and wait until the clock knows of it."""
        from prefect.client.schemas.responses import SetStateStatus
        from prefect.states import Pending

        answer: Any = client.set_flow_run_state(scheduled.id, Pending())
        if answer.status != SetStateStatus.ACCEPT:
            # For instance, there is no place for it within the limit of its deployment.
            return
        run, begun = client.read_flow_run(scheduled.id), threading.Event()
        with self._news:
            thread = self._started(self._execute, f"flowgauge-{run.name}", run, begun)
            self._executing[run.id] = _Executing(run, thread)
        begun.wait()

    def _execute(self, run: FlowRun, begun: threading.Event) -> None:
        """Execute a flow run, and note how it ended."""
        try:
            state = self._outcome(run, begun)
        except BaseException as error:
            state, self._problem = None, error
        begun.set()
        with self._news:
            del self._executing[run.id]
            if state is not None and state.is_final():
                self._ended[run.id] = state
            self._look_again()
            self._news.notify_all()

    def _outcome(self, run: FlowRun, begun: threading.Event) -> State[Any] | None:
        """Execute a flow run, and return its state."""
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectSignal
        from prefect.states import exception_to_crashed_state

        @contextlib.contextmanager
        def running(is_async: bool) -> Iterator[str]:
            key = f"flow run {run.id}"
            with self._running(key, is_async):
                begun.set()
                yield key

        crash: BaseException | None = None
        try:
            if state := self._execute_run(run, running):
                return state
        except PrefectSignal:
            pass  # It was suspended, or the server refused a state.
        except BaseException as error:
            crash = error
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.id).state
            if crash is not None and not (state and state.is_final()):
                state = asyncio.run(exception_to_crashed_state(crash))
                client.set_flow_run_state(run.id, state, force=True)
        return state


def _read(states: dict[UUID, State[Any]]) -> list[FlowRun]:
    """Return flow runs as the server has them, but with states that hold unstored results."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [
            client.read_flow_run(run).model_copy(update={"state": state})
            for run, state in states.items()
        ]
