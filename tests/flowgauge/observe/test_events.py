# SPDX-License-Identifier: Apache-2.0
"""The events of flow runs, on every task runner."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.task_runners import TaskRunner

from flowgauge import Events, EventsError, RunEvent, VirtualClock
from flowgauge.observe.sent import Sent
from flowgauge.plugin.session import run_home

ReadEvents = Callable[..., Events]


def emit(name: str, **payload: Any) -> None:
    """Emit an event of an invoice."""
    emit_event(name, {"prefect.resource.id": "invoice.1"}, payload=payload)


@task
def send(number: int) -> str:
    """Emit events, and return the id of the task run."""
    for part in range(3):
        emit("invoice.part", id=number, part=part)
    emit("invoice.sent", id=number)
    run_id: str = task_run.id
    return run_id


@flow
def inner() -> None:
    """Run a task that emits events."""
    send(7)


@flow
def billing() -> str:
    """Emit events in the flow, in a task, and in a subflow."""
    emit("billing.begun")
    sent = send.submit(1).result()
    inner()
    emit("billing.over")
    return sent


def emitted(events: Events) -> list[str]:
    """Return the names of the events that are not Prefect's."""
    return [event.name for event in events if not event.name.startswith("prefect.")]


def test_all_events_are_there(task_runner: TaskRunner[Any], run_events: ReadEvents) -> None:
    """Right after a run, its events are there in order, whichever process emitted them."""
    run: Any = billing.with_options(task_runner=task_runner)
    state = run(return_state=True)
    events = run_events(state)
    of_a_task = [*["invoice.part"] * 3, "invoice.sent"]
    assert emitted(events) == ["billing.begun", *of_a_task, *of_a_task, "billing.over"]
    parts = [event.payload["part"] for event in events if event.name == "invoice.part"]
    assert parts == [0, 1, 2, 0, 1, 2]
    flow_run = f"prefect.flow-run.{state.state_details.flow_run_id}"
    of_the_flow = [event.name for event in events if event.resource == flow_run]
    assert of_the_flow == [
        f"prefect.flow-run.{name}" for name in ("Pending", "Running", "Completed")
    ]
    of_the_task = [e.name for e in events if e.resource == f"prefect.task-run.{state.result()}"]
    assert of_the_task == [
        f"prefect.task-run.{name}" for name in ("Pending", "Running", "Completed")
    ]
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert events.contains("invoice.sent", payload={"id": 1}, resource="invoice.1")
    assert events.contains("invoice.sent", payload={"id": 7})
    assert not events.contains("invoice.sent", payload={"id": 2})

    of_task = run_events(state.result())
    assert emitted(of_task) == of_a_task
    assert of_task.contains("prefect.task-run.Completed")
    assert not of_task.contains("invoice.sent", payload={"id": 7})


def test_events_on_their_way(run_events: ReadEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that are still on their way when they are first read are awaited."""
    was_read = threading.Event()
    reads = itertools.count(1)
    send, read = EventsWorker._handle, SyncPrefectClient.read_events

    async def send_late(self: EventsWorker, event: Any) -> None:
        while not was_read.is_set():
            await asyncio.sleep(0.01)
        await send(self, event)

    def read_and_note(self: SyncPrefectClient, *args: Any, **kwargs: Any) -> Any:
        found = read(self, *args, **kwargs)
        if next(reads) == 2:
            was_read.set()
        return found

    monkeypatch.setattr(EventsWorker, "_handle", send_late)
    monkeypatch.setattr(SyncPrefectClient, "read_events", read_and_note)
    state = inner(return_state=True)
    assert not was_read.is_set()
    assert emitted(run_events(state)) == [*["invoice.part"] * 3, "invoice.sent"]


def test_virtual_times(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, run_events: ReadEvents
) -> None:
    """With the virtual clock, events of the virtual future are there."""

    @task(retries=1, retry_delay_seconds=86400 * 3)
    def flaky() -> None:
        emit("attempted", count=task_run.run_count)
        if task_run.run_count == 1:
            raise ConnectionError("no answer")

    @flow(task_runner=task_runner)
    def retried() -> None:
        flaky.submit().result()

    events = run_events(retried(return_state=True))
    first, second = (event.time for event in events if event.name == "attempted")
    assert second - first >= timedelta(days=3)
    assert events.events[-1].name == "prefect.flow-run.Completed"


def test_hundreds_of_events(run_events: ReadEvents) -> None:
    """All events are there even if they are more than the API returns at once."""

    @flow
    def many() -> None:
        for number in range(120):
            emit("counted", number=number)

    events = run_events(many(return_state=True))
    counted = [event.payload["number"] for event in events if event.name == "counted"]
    assert counted == list(range(120))


def note_event(sent: Sent, pid: int, flow_run_id: UUID) -> None:
    """Note an event that a process gave to Prefect, which never sends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        sent.note("event", str(uuid4()), name="lost", runs=[str(flow_run_id)])


def test_an_event_that_does_not_arrive(run_events: ReadEvents, pytestconfig: pytest.Config) -> None:
    """An event that does not arrive is an error of one line, unless its process was killed."""
    state = inner(return_state=True)
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    sent = Sent(run_home(pytestconfig))
    note_event(sent, ended.pid, flow_run_id)
    assert run_events(state).contains("invoice.sent")
    note_event(sent, os.getpid(), flow_run_id)
    with pytest.raises(EventsError) as caught:
        run_events(state, timeout=1)
    says = f"run_events: 1 events of flow run {flow_run_id} did not reach the server's database"
    assert str(caught.value).startswith(says)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_in_an_unknown_process(run_events: ReadEvents) -> None:
    """Of a run elsewhere, the event of its final state is there."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(inner)
        client.set_flow_run_state(run.id, Completed(), force=True)
    assert run_events(run).contains("prefect.flow-run.Completed")


def test_what_is_not_a_run_is_one_line(run_events: ReadEvents) -> None:
    """Something that has no events is reported in one line by the fixture's name."""
    with pytest.raises(EventsError, match=r"^run_events: 'one' is not the id of a run$"):
        run_events("one")


def test_what_is_searched_for() -> None:
    """A search compares names, parts of payloads as JSON, and resources."""
    payload = {"id": 1, "lines": [1, 2]}
    event = RunEvent(datetime(2026, 1, 1, tzinfo=UTC), "sent", "invoice.1", payload, UUID(int=1))
    events = Events("flow run 1", (event,))
    assert events.contains("sent", payload={})
    assert events.contains(re.compile("s.*t"), payload={"lines": (1, 2)}, resource="invoice.1")
    assert not events.contains("sen")
    assert not events.contains(re.compile("se"))
    assert not events.contains("sent", payload={"id": True})
    assert not events.contains("sent", payload={"other": None})
    assert not events.contains("sent", resource="invoice.2")
    assert str(events) == 'sent invoice.1 {"id": 1, "lines": [1, 2]}'
    assert repr(Events("flow run 1", ()).contains("sent")) == (
        "no event 'sent' in the 0 events of flow run 1; there are none"
    )
