# SPDX-License-Identifier: Apache-2.0
"""Finding the run that was meant, waiting until it has ended, and the flow runs below it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.event_loop import held_up
from flowgauge.waiting import patience

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

_POLL = 0.05
"""Seconds between two requests to the API."""
_GUARD_SECONDS = 60.0
"""A server on SQLite may wait this long for a lock."""
_PAGE = 200
"""The number of runs and logs that the API returns at most, by default."""


@dataclass(frozen=True)
class Reader:
    """What reads about runs, for the messages of errors.

    Attributes:
        name: For instance "run_history".
        error: The type of its errors.
        instead: What to do instead of waiting for the end of a run, if anything.
    """

    name: str
    error: type[LookupError]
    instead: str = ""

    def refuse(self, message: str) -> LookupError:
        """Return an error of this reader.

        Args:
            message: One line.

        Returns:
            The error, to raise.
        """
        return self.error(f"{self.name}: {message}")


@dataclass(frozen=True)
class RunStates:
    """A run, and the states that it was in.

    Attributes:
        kind: "flow" or "task".
        id: Its id.
        states: The states, first to last.
    """

    kind: str
    id: UUID
    states: tuple[State[Any], ...]

    def __str__(self) -> str:
        """Return the kind and the id."""
        return f"{self.kind} run {self.id}"


class Patience:
    """A deadline that only guards against hanging, and the pause between two attempts."""

    def __init__(self, seconds: float | None) -> None:
        """Start waiting.

        Args:
            seconds: How long; by default a minute, multiplied by `FLOWGAUGE_PATIENCE` if set.
        """
        self.seconds = patience(_GUARD_SECONDS) if seconds is None else seconds
        self._deadline = time.monotonic() + self.seconds

    @property
    def over(self) -> bool:
        """Whether it is time to give up."""
        return time.monotonic() > self._deadline

    def pause(self) -> None:
        """Wait a moment."""
        # Not `time.sleep`: a test may have made that virtual.
        threading.Event().wait(_POLL)


def states_of(
    client: SyncPrefectClient, run: Any, reader: Reader, wait: Patience, *, final: bool = True
) -> RunStates:
    """Read the states of a run.

    Args:
        client: A client of the API.
        run: A flow run or task run, its id, one of its states, or a future.
        reader: Who reads them.
        wait: How long to wait for the run.
        final: Whether to wait until the run has ended; task run states arrive up to a second late.

    Returns:
        The run and its states.

    Raises:
        LookupError: The reader's error if `run` is not a run, or is unknown to the server or has
            not ended in time, or can't end because this call blocks its event loop.
    """
    kinds, run_id = _identify(run, reader)
    while True:
        states: tuple[State[Any], ...] = ()
        for kind in kinds:
            states = tuple(_states(client, kind, run_id))
            if states and (not final or states[-1].is_final()):
                return RunStates(kind, run_id, states)
            if states:
                kinds = (kind,)
                break
        if str(run_id) in held_up():
            raise reader.refuse(
                f"{' or '.join(kinds)} run {run_id} has not ended, and stands still while this call"
                f" blocks its event loop; write `await asyncio.to_thread({reader.name}, …)`"
            )
        if wait.over:
            raise reader.refuse(_why_not(" or ".join(kinds), run_id, states, wait, reader))
        wait.pause()


def flow_runs_below(client: SyncPrefectClient, flow_run_id: UUID) -> list[FlowRun]:
    """Return a flow run, its subflow runs, and theirs.

    Args:
        client: A client of the API.
        flow_run_id: The flow run.

    Returns:
        The flow runs that the server knows so far, parents first.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterParentFlowRunId,
    )

    found: dict[UUID, FlowRun] = {}
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    while True:
        level: dict[UUID, FlowRun] = {}
        while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(level)):
            level |= {run.id: run for run in page}
            if len(page) < _PAGE:
                break
        level = {run_id: run for run_id, run in level.items() if run_id not in found}
        if not level:
            return list(found.values())
        found |= level
        wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=list(level)))


def _identify(run: Any, reader: Reader) -> tuple[tuple[str, ...], UUID]:
    """Return the kinds of run that may have this id, and the id."""
    from prefect.client.schemas.objects import FlowRun, State, TaskRun

    if isinstance(run, FlowRun | TaskRun):
        return ("flow" if isinstance(run, FlowRun) else "task",), run.id
    if isinstance(run, str | UUID):
        try:
            return ("flow", "task"), UUID(str(run))
        except ValueError:
            raise reader.refuse(f"{run!r} is not the id of a run") from None
    holder = run.state_details if isinstance(run, State) else run
    # Task first: the states of a task run name its flow run too.
    for kind in ("task", "flow"):
        run_id = getattr(holder, f"{kind}_run_id", None)
        if run_id is not None:
            return (kind,), UUID(str(run_id))
    raise reader.refuse(
        f"{run!r:.80} is not a run; give a flow run, a task run, an id, a future, or"
        " the state that a run returned (return_state=True)"
    )


def _states(client: SyncPrefectClient, kind: str, run_id: UUID) -> list[State[Any]]:
    if kind == "flow":
        return client.read_flow_run_states(run_id)
    return client.read_task_run_states(run_id)


def _why_not(
    kinds: str, run_id: UUID, states: tuple[State[Any], ...], wait: Patience, reader: Reader
) -> str:
    run = f"{kinds} run {run_id}"
    if not states:
        return f"the server had no states for a {run} within {wait.seconds:g} s"
    so_far = " ".join(str(state.name) for state in states)
    return (
        f"{run} did not end within {wait.seconds:g} s ({so_far}); wait longer with"
        f" timeout={reader.instead}"
    )
