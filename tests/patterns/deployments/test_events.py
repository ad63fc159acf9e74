# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/events.py`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import (
    provide_database_interface,
    temporary_database_config,
)
from prefect.server.events import triggers
from prefect.server.events.actions import RunDeployment
from prefect.server.events.models.automations import automations_session, create_automation
from prefect.server.events.schemas.automations import (
    Automation,
    EventTrigger,
    Firing,
    Posture,
    TriggeredAction,
    TriggerState,
)
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.messaging.memory import Cache, MemoryMessage
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.variables import Variable
from pydantic import Json

from flowgauge.waiting import patience, wait_until
from patterns.deployments.events import CHANGED, Order, main, on_event, send, ship
from tests.conftest import Start

NAME = "deployments/events"
QUIET = timedelta(seconds=10)
START: Any = datetime(2026, 11, 1, tzinfo=UTC)
RICH = {
    "id": "42",
    "cents": 2**53 + 1,
    "note": '{{ event.id }} {% raw %} "it\'s" <b>é 花 🌻</b> \\ \r\n\t',
    "more": {
        "variable": {"__prefect_kind": "workspace_variable", "variable_name": "password"},
        "jinja": [
            {"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"},
            {"__prefect_kind": "none"},
        ],
        "json": {"__prefect_kind": "json", "value": "[1]"},
        "numbers": [0, -1.5, 1e300, 1.0, True, None, []],
        "": {},
    },
}
"""A payload that has all that could go wrong on its way."""


@flow
def keep(payload: Json[Any]) -> None:
    """Take whatever comes; the tests never execute this flow."""


@flow
def pay(cents: Any) -> None:
    """Take a payload's field; the tests never execute this flow."""


@flow
def pay_number(cents: int) -> None:
    """Take a number; the tests never execute this flow."""


def deploy(flow: Any, *triggers: DeploymentEventTrigger) -> UUID:
    """Deploy a flow with triggers, and return the deployment's id."""
    id_: Any = RunnerDeployment.from_flow(flow, str(uuid4()), triggers=list(triggers)).apply()
    return UUID(str(id_))


def held(deployment: UUID) -> dict[str, Any]:
    """Return the automation of a deployment as JSON, as the server would send it."""
    with get_client(sync_client=True) as client:
        (found,) = client.read_resource_related_automations(f"prefect.deployment.{deployment}")
    return found.model_dump(mode="json")


def event(payload: Any, resource: str = "order.1", at: float = 0, name: str = CHANGED) -> Any:
    """Return an event as the server receives it, some seconds after the start."""
    occurred = START + timedelta(seconds=at)
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "event": name,
            "occurred": occurred,
            "received": occurred,
            "resource": {"prefect.resource.id": resource},
            "payload": payload,
        }
    )


def rendered(automation: dict[str, Any], arrived: ReceivedEvent) -> dict[str, Any]:
    """Return the parameters that the server's own action makes of an event."""
    action = RunDeployment.model_validate(automation["actions"][0])
    server_side = Automation.model_validate({**automation, "actions": [action]})
    triggered = TriggeredAction(
        automation=server_side,
        firing=Firing(
            trigger=server_side.trigger,
            trigger_states={TriggerState.Triggered},
            triggered=START,
            triggering_event=arrived,
        ),
        triggered=START,
        triggering_labels={},
        triggering_event=arrived,
        action=action,
    )
    return asyncio.run(action.render_parameters(triggered))


def run_with(deployment: UUID, parameters: dict[str, Any]) -> FlowRun:
    """Create a run of a deployment, as the action does."""
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(deployment, parameters=parameters)


def runs_of(deployment: UUID) -> list[FlowRun]:
    """Return the runs of a deployment."""
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(deployment_filter=wanted)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3),
    max_leaves=9,
)


@pytest.fixture(scope="module")
def keeping(prefect_server: str) -> tuple[UUID, dict[str, Any]]:
    """Return a deployment of the flow that takes whatever comes, and its automation."""
    id_ = deploy(keep, on_event(CHANGED, "order.*", "payload"))
    return id_, held(id_)


@pytest.mark.guarantee(NAME, "intact")
@settings(max_examples=15)
@given(payload=st.dictionaries(TEXT, VALUES, max_size=3))
@example(payload=RICH)
@example(payload={})
def test_a_payload_arrives_as_it_was_sent(
    keeping: tuple[UUID, dict[str, Any]], payload: dict[str, Any]
) -> None:
    """Through the server's own templates and its API, the flow is given an equal payload."""
    id_, automation = keeping
    run = run_with(id_, rendered(automation, event(payload)))
    arrived = keep.validate_parameters(run.parameters)["payload"]
    assert json.dumps(arrived, sort_keys=True) == json.dumps(payload, sort_keys=True)


@pytest.mark.guarantee(NAME, "typed")
def test_the_flow_receives_its_model(prefect_server: str) -> None:
    """The parameter that arrives is the flow's model, and one that does not fit names the field."""
    id_ = deploy(ship, on_event(CHANGED, "order.*", "order"))
    order = {"id": "42", "cents": 990, "note": "{{ 'é' }}"}
    run = run_with(id_, rendered(held(id_), event(order)))
    given = ship.validate_parameters(run.parameters)
    assert given == {"order": Order(id="42", cents=990, note="{{ 'é' }}")}
    assert ship.fn(**given) == "shipped 42 for 990: {{ 'é' }}"
    unfit = run_with(id_, rendered(held(id_), event({"id": "42", "cents": "many"})))
    with pytest.raises(Exception, match=r"order\.cents: Input should be a valid integer"):
        ship.validate_parameters(unfit.parameters)


@pytest.mark.fact(NAME, "replaced")
def test_what_a_plain_template_makes_of_a_payload(prefect_server: str) -> None:
    """A number stays one; in place of an object with a kind, the flow gets the variable's value."""
    Variable.set("events_password", "secret", overwrite=True)
    plain = DeploymentEventTrigger(
        expect={CHANGED}, parameters={"cents": "{{ event.payload.cents }}"}
    )
    id_ = deploy(pay, plain)
    kind = {"__prefect_kind": "workspace_variable", "variable_name": "events_password"}
    for sent, arrived in ((990, 990), ({"a": [kind]}, {"a": ["secret"]})):
        run = run_with(id_, rendered(held(id_), event({"cents": sent})))
        assert run.parameters == {"cents": arrived}


@pytest.mark.guarantee(NAME, "each")
def test_only_the_named_events_count(keeping: tuple[UUID, dict[str, Any]]) -> None:
    """The server's own trigger covers events of the name whose resource matches, and no others."""
    trigger = EventTrigger.model_validate(keeping[1]["trigger"])
    assert trigger.covers(event({}, "order.1"))
    assert not trigger.covers(event({}, "invoice.1"))
    assert not trigger.covers(event({}, "order.1", name="order.deleted"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the server's own code decide in this process, on a database of its own."""
    path = tmp_path_factory.mktemp("events") / "events.db"
    url = f"sqlite+aiosqlite:///{path}"
    with temporary_database_config(AioSqliteConfiguration(connection_url=url)):
        asyncio.run(create_tables())
        yield


async def create_tables() -> None:
    """Create the server's tables of automations; all its migrations would take long."""
    interface = provide_database_interface()
    metadata = interface.Base.metadata
    tables = [each for each in metadata.sorted_tables if each.name.startswith("automation")]
    engine = await interface.engine()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all, tables=tables)


@contextmanager
def noting() -> Iterator[list[ReceivedEvent]]:
    """Yield the list of the events for which the server acts."""
    acted: list[ReceivedEvent] = []

    async def act(firing: Firing) -> None:
        assert firing.triggering_event
        acted.append(firing.triggering_event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triggers, "act", act)
        yield acted


async def fired(
    trigger: EventTrigger, arrivals: Sequence[Any], until: float, looks: bool = True
) -> list[Any]:
    """Return the payloads for which a trigger fires.

    Args:
        trigger: The server's trigger.
        arrivals: Events in order.
        until: Seconds after the start, when the server looks last whether a time is over.
        looks: Whether it looks before each event, too.

    Returns:
        A pair of the resource and the payload for each time it fires, in order.
    """
    triggers.clear_loaded_automations()
    session: Any
    create: Any = create_automation
    async with automations_session(begin_transaction=True) as session:
        action = RunDeployment.model_validate({"deployment_id": uuid4()})
        wanted = Automation(name=str(uuid4()), trigger=trigger, actions=[action])
        triggers.load_automation(await create(session, wanted))
    (loaded,) = triggers.triggers.values()

    async def look(now: datetime) -> None:
        await triggers.reset_events_clock()
        if loaded.posture == Posture.Proactive:
            await triggers.proactive_evaluation(loaded, now)  # type: ignore[arg-type]

    with noting() as acted:
        for arrived in arrivals:
            if looks:
                await look(arrived.occurred)
            await triggers.reactive_evaluation(arrived)
        await look(START + timedelta(seconds=until))
    return [(each.resource.id, each.payload["n"]) for each in acted]


@pytest.fixture(scope="module")
def quiet_trigger(prefect_server: str) -> EventTrigger:
    """Return the trigger for bursts as the server holds it."""
    id_ = deploy(keep, on_event(CHANGED, "order.*", "payload", quiet=QUIET))
    return EventTrigger.model_validate(held(id_)["trigger"])


@pytest.mark.guarantee(NAME, "burst")
@pytest.mark.guarantee(NAME, "apart")
@settings(max_examples=8)
@given(
    arrivals=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 14)), min_size=1, max_size=7),
    after=st.integers(0, 20),
)
@example(arrivals=[("a", 0), ("b", 1), ("a", 4), ("a", 7), ("a", 8), ("b", 9), ("a", 14)], after=9)
@example(arrivals=[("b", 0), ("a", 0), ("b", 9), ("a", 9), ("b", 9)], after=10)
def test_a_burst_has_one_run_with_the_last_payload(
    quiet_trigger: EventTrigger, database: None, arrivals: list[tuple[str, int]], after: int
) -> None:
    """An event has a run if no other of its resource follows within ten seconds, and only then."""
    now = 0
    times: list[tuple[str, int]] = []
    for name, gap in arrivals:
        now += gap
        times.append((f"order.{name}", now))
    happened = [event({"n": n}, name, at) for n, (name, at) in enumerate(times)]
    last = [
        (name, n)
        for n, (name, at) in enumerate(times)
        if at + 10 <= now + after
        and not any(name == other and later - at < 10 for other, later in times[n + 1 :])
    ]
    assert sorted(asyncio.run(fired(quiet_trigger, happened, now + after))) == sorted(last)


@pytest.mark.fact(NAME, "looks")
def test_an_event_may_come_before_the_server_looks(
    quiet_trigger: EventTrigger, database: None
) -> None:
    """An event that comes late, but before the server has looked, has a run at once.

    The next one begins a burst of its own.
    """
    burst = [event({"n": n}, at=at) for n, at in enumerate((0, 11, 12))]
    assert asyncio.run(fired(quiet_trigger, burst[:2], 0, looks=False)) == [("order.1", 1)]
    decided = asyncio.run(fired(quiet_trigger, burst, 22, looks=False))
    assert decided == [("order.1", 1), ("order.1", 2)]


OVERTAKEN = [event({"n": n}, at=at) for n, at in enumerate((0, 5, 3))]
"""Events of which the server takes the last one before the one in the middle."""


@pytest.mark.fact(NAME, "overtaken")
def test_the_event_that_is_taken_last_counts(quiet_trigger: EventTrigger, database: None) -> None:
    """The run has the payload of the event that the server took last."""
    assert asyncio.run(fired(quiet_trigger, OVERTAKEN, 30)) == [("order.1", 2)]


@pytest.mark.fact(NAME, "in-order")
def test_the_event_that_occurred_last_counts(quiet_trigger: EventTrigger, database: None) -> None:
    """The run has the payload of the event that occurred last, whichever the server took last."""
    assert asyncio.run(fired(quiet_trigger, OVERTAKEN, 30)) == [("order.1", 1)]


@pytest.mark.guarantee(NAME, "each")
@pytest.mark.fact(NAME, "cool-down")
def test_a_reactive_trigger_fires_at_once(
    keeping: tuple[UUID, dict[str, Any]], database: None
) -> None:
    """Without `quiet` each event counts; with a time in `within`, those after the first do not."""
    trigger = EventTrigger.model_validate(keeping[1]["trigger"])
    burst = [event({"n": n}, at=n) for n in range(4)]
    every = asyncio.run(fired(trigger, burst, 60))
    assert every == [("order.1", n) for n in range(4)]
    cooling = trigger.model_copy(update={"within": timedelta(seconds=10)})
    assert asyncio.run(fired(cooling, burst, 60)) == [("order.1", 0)]


@pytest.mark.guarantee(NAME, "short")
@pytest.mark.parametrize("seconds", [0, 9.5, -1])
def test_a_time_that_is_too_short_is_refused(seconds: float) -> None:
    """The error is one line and has the time that was asked for."""
    said = rf"^quiet is {seconds:g} s, but at least 10 s are needed\Z"
    with pytest.raises(ValueError, match=said):
        on_event(CHANGED, "order.*", "order", quiet=timedelta(seconds=seconds))


@pytest.mark.guarantee(NAME, "twice")
def test_a_delivery_has_one_id(prefect_server: str) -> None:
    """The same delivery has the same id, and another one, or none, has another."""
    ids = [send(CHANGED, "order.1", {}, delivery) for delivery in ("a", "a", "b", "", None, None)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 5


@pytest.mark.guarantee(NAME, "twice")
@pytest.mark.fact(NAME, "forgetful")
def test_the_server_remembers_ids_for_a_while() -> None:
    """Of two messages with an id the server's own cache passes one, until it has forgotten it."""

    async def passed() -> list[int]:
        cache = Cache()
        messages = [MemoryMessage(b"", {"id": id_}) for id_ in ("a", "a", "b")]
        counts = [len(await cache.without_duplicates("id", messages)) for _ in range(2)]
        await cache.clear_recently_seen_messages()
        return [*counts, len(await cache.without_duplicates("id", messages))]

    assert asyncio.run(passed()) == [2, 0, 2]
    remembered: Any = Cache._recently_seen_messages
    assert (remembered.ttl, remembered.maxsize) == (300, 1000)


def post(url: str, body: Any) -> int:
    """Post JSON without Prefect, and return the status."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=patience()) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code


@pytest.mark.fact(NAME, "webhooks")
def test_events_come_by_http(prefect_server: str) -> None:
    """The server takes events that are posted, and knows no webhooks."""
    body = {
        "id": str(uuid4()),
        "event": CHANGED,
        "occurred": "2026-11-01T00:00:00Z",
        "resource": {"prefect.resource.id": "order.1"},
    }
    assert post(f"{prefect_server}/events", [body]) == 204
    assert post(f"{prefect_server}/webhooks", body) == 404
    assert post(f"{prefect_server.removesuffix('/api')}/hooks/a", body) in (404, 405)


def test_the_demonstration_deploys(
    prefect_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`main` shows the trigger that the server holds, and sends an event."""
    monkeypatch.setattr(sys, "argv", ["events.py"])
    main()
    assert "order.changed of order.*: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["events.py", "send"])
    main()
    UUID(capsys.readouterr().out.strip())


SERVING = """
from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from patterns.deployments.events import CHANGED, on_event, ship

trigger = on_event(CHANGED, "each.*", "order")
serve(RunnerDeployment.from_flow(ship, "each", triggers=[trigger]), print_starting_message=False)
"""


def failed_actions(automation: str) -> list[str]:
    """Return why actions of an automation failed."""
    wanted = {
        "event": {"name": ["prefect.automation.action.failed"]},
        "resource": {"id": [f"prefect.automation.{automation}"]},
    }
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json={"filter": wanted}).json()
    return [json.dumps(each["payload"]) for each in found["events"]]


def knows(deployment: UUID, resource: str) -> bool:
    """Send an event, and return whether the server has begun to act on such events."""
    send(CHANGED, resource, {"cents": 1})
    return bool(runs_of(deployment))


def served() -> UUID | None:
    """Return the deployment of the process that serves, once it is there with its trigger."""
    with get_client(sync_client=True) as client:
        for each in client.read_deployments():
            resource = f"prefect.deployment.{each.id}"
            if each.name == "each" and client.read_resource_related_automations(resource):
                return each.id
    return None


def plain(resources: str) -> DeploymentEventTrigger:
    """Return a trigger without the pattern, which gives a field to a typed parameter."""
    return DeploymentEventTrigger(
        expect={CHANGED},
        match={"prefect.resource.id": resources},
        parameters={"cents": "{{ event.payload.cents }}"},
    )


def payloads(deployment: UUID) -> list[dict[str, Any]]:
    """Return the payloads that runs have, in the order in which these were created."""
    runs = sorted(runs_of(deployment), key=lambda run: str(run.created))
    return [json.loads(run.parameters["order"]) for run in runs]


def final(deployment: UUID) -> dict[str, FlowRun] | None:
    """Return the runs by their order, once all have ended."""
    runs = runs_of(deployment)
    if not all(run.state and run.state.is_final() for run in runs):
        return None
    by_id = {json.loads(run.parameters["order"])["id"]: run for run in runs}
    return by_id if {"rich", "unfit"} <= set(by_id) else None


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "each")
@pytest.mark.guarantee(NAME, "intact")
@pytest.mark.guarantee(NAME, "typed")
@pytest.mark.guarantee(NAME, "burst")
@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.guarantee(NAME, "twice")
@pytest.mark.fact(NAME, "unseen")
def test_events_run_deployments(live_server: str, start: Start) -> None:
    """A server runs a served flow for events: each of them once, or the last of a burst.

    The run with an unfit payload fails; a typed parameter that does not fit has none.
    """
    start("-c", SERVING, PREFECT_RUNNER_POLL_FREQUENCY="1", PYTHONPATH=":".join(sys.path))
    with temporary_settings({PREFECT_API_URL: live_server}):
        quiet = deploy(ship, on_event(CHANGED, "quiet.*", "order", quiet=QUIET))
        number = deploy(pay_number, plain("plain.*"))
        # The server learns of triggers in order: once it knows a later one, it knows the others.
        wait_until(lambda: knows(number, "plain.1"), "the first triggers", pause=0.5)
        for n, cents in ((1, 1), (2, 7), (1, 2)):
            send(CHANGED, f"quiet.{n}", {"id": str(n), "cents": cents})
        send(CHANGED, "plain.2", {"cents": "many"})
        why = wait_until(lambda: failed_actions(held(number)["id"]), "the action to fail")
        assert any("'many' is not of type 'integer'" in each for each in why)
        assert all(run.parameters == {"cents": 1} for run in runs_of(number))
        # Not at once: the server takes two events at a time, and may take the later one first.
        send(CHANGED, "quiet.1", {"id": "1", "cents": 3})

        each = wait_until(served, "the flow to be served")
        late = deploy(pay_number, plain("late.*"))
        wait_until(lambda: knows(late, "late.1"), "the trigger that is served", pause=0.5)
        rich = {**RICH, "id": "rich"}
        for _ in range(2):
            send(CHANGED, "each.1", rich, delivery="rich")
        send(CHANGED, "each.1", {"id": "unfit", "cents": "many"})
        runs = wait_until(lambda: final(each), "all runs to end")
        by_id = sorted(payloads(each), key=lambda payload: str(payload["id"]))
        assert by_id == [rich, {"id": "unfit", "cents": "many"}]
        assert runs["rich"].state
        assert runs["rich"].state.is_completed()
        assert runs["unfit"].state
        assert runs["unfit"].state.is_failed()
        assert "order.cents: Input should be a valid integer" in str(runs["unfit"].state.message)

        # How many runs there are is proved above: on a slow server a burst may have two.
        wait_until(
            lambda: {int(p["id"]): p["cents"] for p in payloads(quiet)} == {1: 3, 2: 7},
            "the last payloads of both bursts",
        )
        with get_client(sync_client=True) as client:
            for deployment in (quiet, number, late, each):
                client.delete_automation(UUID(held(deployment)["id"]))
