# SPDX-License-Identifier: Apache-2.0
"""The events of a flow run, and those that were emitted in it, on any task runner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from re import Pattern
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.observe.runs import Patience, Reader, RunStates, flow_runs_below, states_of
from flowgauge.observe.search import Search, searched
from flowgauge.observe.sent import Sent, SentEvent, lives

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.events import EventPage
    from prefect.client.schemas.objects import FlowRun
    from prefect.events.schemas.events import ReceivedEvent

_PAGE = 50
"""The number of events that the API returns at most."""
_ALWAYS = {
    # By default, until the present: events of virtual time are in the future.
    "since": datetime(1970, 1, 1, tzinfo=UTC),
    "until": datetime(9999, 1, 1, tzinfo=UTC),
}
_MARKER = "flowgauge.marker"
"""The name of the events that are sent behind all others of this process."""


@dataclass(frozen=True)
class RunEvent:
    """An event of a run, or one that was emitted in it.

    Attributes:
        time: When it occurred; virtual if the test uses the virtual clock.
        name: For instance "prefect.flow-run.Completed", or the name given to `emit_event`.
        resource: The id of its resource.
        payload: What was sent with it.
        id: Its id.
    """

    time: datetime
    name: str
    resource: str
    payload: Mapping[str, Any]
    id: UUID

    def __str__(self) -> str:
        """Return the name, the resource and the payload; Prefect's own payloads are left out."""
        payload = "" if self.name.startswith("prefect.") else f" {json.dumps(self.payload)}"
        return f"{self.name} {self.resource}{payload}"


@dataclass(frozen=True)
class Events:
    """The events of a run, first to last.

    Attributes:
        run: A readable description of the run.
        events: The events.
    """

    run: str
    events: tuple[RunEvent, ...]

    def contains(
        self,
        name: str | Pattern[str],
        *,
        payload: Mapping[str, Any] | None = None,
        resource: str | None = None,
    ) -> Search:
        """Search for an event.

        Args:
            name: Its name, or a pattern that matches the whole name.
            payload: A part of its payload: these keys have these values, possibly among others.
            resource: The id of its resource.

        Returns:
            A result to `assert`: falsy if there is no such event, and it says which there are.
        """
        part = {key: _as_json(value) for key, value in (payload or {}).items()}
        checked = []
        for event in self.events:
            named = event.name == name if isinstance(name, str) else name.fullmatch(event.name)
            holds = {"name": bool(named)}
            if payload is not None:
                there = {key: _as_json(event.payload[key]) for key in part if key in event.payload}
                holds["payload"] = there == part
            if resource is not None:
                holds["resource"] = event.resource == resource
            checked.append((event.name, holds))
        criteria = {"payload": payload, "resource": resource}
        with_these = [f", {key} {value!r}" for key, value in criteria.items() if value is not None]
        what = repr(name) if isinstance(name, str) else f"matching {name.pattern!r}"
        wanted = f"event {what}{''.join(with_these)}"
        return searched("events", self.run, self.events, wanted, name, checked)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.events)

    def __iter__(self) -> Iterator[RunEvent]:
        """Return the events, first to last."""
        return iter(self.events)

    def __str__(self) -> str:
        """Return the events, one a line."""
        return "\n".join(map(str, self.events))


class EventsError(LookupError):
    """A run whose events can't be read; the one-line message says why and what to do."""


_READER = Reader("run_events", EventsError)


def read_events(run: Any, sent: Sent, *, timeout: float | None = None) -> Events:
    """Read the events of a run, once all of them have reached the server's database.

    A process that is killed loses what it had not sent.

    Args:
        run: A flow run or task run, its id, one of its states, or a future. Of a flow run, the
            events of its task runs and subflow runs, and theirs, are included.
        sent: What the processes of this pytest run sent.
        timeout: Seconds to wait for the run to end and for the events; by default a minute,
            multiplied by the environment variable `FLOWGAUGE_PATIENCE` if it is set.

    Returns:
        The events.

    Raises:
        EventsError: If `run` is not a run, or its events do not reach the server in time.
    """
    from prefect.client.orchestration import get_client

    wait = Patience(timeout)
    with get_client(sync_client=True) as client, sent.awaiting():
        ended = states_of(client, run, _READER, wait)
        missing: set[UUID] = set()
        marker = _send_marker()
        while True:
            if _read(client, {"id": {"id": [marker]}}):
                flow_runs = flow_runs_below(client, ended.id) if ended.kind == "flow" else []
                run_ids = [run.id for run in flow_runs] or [ended.id]
                noted = sent.events(run_ids)
                stored = _stored(client, ended.kind, run_ids, noted)
                expected = {event.id for event in noted if lives(event.pid)}
                expected |= _final_states(client, ended, flow_runs, sent)
                missing = expected - stored.keys()
                if not missing:
                    break
            if wait.over:
                raise _READER.refuse(
                    f"{len(missing) or 'some'} events of {ended} did not reach the server's"
                    f" database within {wait.seconds:g} s; if the server's log shows no error, wait"
                    " longer with timeout="
                )
            wait.pause()
    places = {event.id: event.place for event in noted}
    events = sorted(stored.values(), key=lambda event: (event.occurred, places.get(event.id, 0)))
    return Events(str(ended), tuple(map(_event, events)))


def _send_marker() -> UUID:
    """Send an event behind all that this process has to send, and return its id."""
    from prefect.events import emit_event

    marker = emit_event(_MARKER, {"prefect.resource.id": _MARKER})
    if marker is None:
        raise _READER.refuse(
            "this process sends no events to the server, because something replaced Prefect's"
            " events client; do without that in tests that read events"
        )
    return marker.id


def _stored(
    client: SyncPrefectClient, kind: str, run_ids: list[UUID], noted: list[SentEvent]
) -> dict[UUID, ReceivedEvent]:
    resources = [f"prefect.{kind}-run.{run_id}" for run_id in run_ids]
    # Prefect relates events outside runs, too, to the run that happened to start its service.
    wanted = {"any_resource": {"id": resources}, "event": {"exclude_name": [_MARKER]}}
    found = _read(client, wanted)
    # Prefect does not relate all events to the run that emitted them.
    unrelated = [event.id for event in noted if event.id not in found]
    for start in range(0, len(unrelated), _PAGE):
        found |= _read(client, {"id": {"id": unrelated[start : start + _PAGE]}})
    return found


def _read(client: SyncPrefectClient, wanted: dict[str, Any]) -> dict[UUID, ReceivedEvent]:
    from prefect.events.filters import EventFilter

    always = {"occurred": _ALWAYS, "order": "ASC"}
    events = EventFilter.model_validate(always | wanted)
    page: EventPage | None = client.read_events(events, limit=_PAGE)
    found: dict[UUID, ReceivedEvent] = {}
    while page is not None:
        found |= {event.id: event for event in page.events}
        page = page.get_next_page_sync(client)
    return found


def _final_states(
    client: SyncPrefectClient, ended: RunStates, flow_runs: list[FlowRun], sent: Sent
) -> set[UUID]:
    """Return the ids of the states that ended runs: those of their last events."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    final = {ended.states[-1].id}
    final |= {run.state.id for run in flow_runs if run.state and run.state.is_final()}
    unheard = [run.id for run in flow_runs if run.id not in sent.flow_runs()]
    if unheard:
        of_unheard = FlowRunFilter(id=FlowRunFilterId(any_=unheard))
        final |= {
            run.state.id
            for run in client.read_task_runs(flow_run_filter=of_unheard)
            # The task run that stands for a subflow run has no events.
            if run.state and run.state.is_final() and not run.state.state_details.child_flow_run_id
        }
    return final


def _event(event: ReceivedEvent) -> RunEvent:
    return RunEvent(event.occurred, event.event, event.resource.id, event.payload, event.id)


def _as_json(value: Any) -> str:
    """Return a string equal for two values only if they are the same in JSON (1 is not True)."""
    return json.dumps(value, sort_keys=True, default=str)
