# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/triggers.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running

from flowgauge.waiting import wait_until
from patterns.deployments.trigger_by_http import call
from patterns.deployments.triggers import after, chained, load

NAME = "deployments/triggers"


@flow
def unload(day: str) -> str:
    """Return the day; this flow is somebody else's, whose deployments may have the same names."""
    return day


def deploy(name: str) -> tuple[UUID, UUID]:
    """Deploy both flows, and return their ids."""
    first, second = (deployment.apply() for deployment in chained(name))
    return UUID(str(first)), UUID(str(second))


def held(deployment_id: UUID) -> list[dict[str, Any]]:
    """Return the automations of a deployment as JSON, as the server would send them."""
    with get_client(sync_client=True) as client:
        found = client.read_resource_related_automations(f"prefect.deployment.{deployment_id}")
    return [each.model_dump(mode="json") for each in found]


def event(name: str, **related: tuple[UUID, str]) -> ReceivedEvent:
    """Return an event of a run, with related resources: for each kind an id and a name."""
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"},
            "related": [
                {
                    "prefect.resource.id": f"prefect.{kind}.{id_}",
                    "prefect.resource.name": called,
                    "prefect.resource.role": kind,
                }
                for kind, (id_, called) in related.items()
            ],
            "received": datetime.now(UTC),
        }
    )


@pytest.mark.guarantee(NAME, "completes")
@pytest.mark.guarantee(NAME, "failed")
@pytest.mark.guarantee(NAME, "others")
def test_only_the_first_deployment_is_followed(prefect_server: str) -> None:
    """The server's own trigger matches completed runs of the first deployment, and nothing else."""
    first, second = deploy("followed")
    (automation,) = held(second)
    trigger = EventTrigger.model_validate(automation["trigger"])
    ours, theirs = (first, "followed"), (uuid4(), "followed")
    flow, other_flow = (uuid4(), "load"), (uuid4(), "unload")
    assert trigger.covers(event("Completed", flow=flow, deployment=ours))
    for name in ("Failed", "Crashed", "Cancelled", "Running"):
        assert not trigger.covers(event(name, flow=flow, deployment=ours))
    assert not trigger.covers(event("Completed", flow=other_flow, deployment=theirs))
    queued = {"deployment": (uuid4(), "other"), "work-queue": theirs, "work-pool": theirs}
    assert not trigger.covers(event("Completed", flow=flow, **queued))
    assert not trigger.covers(event("Completed", flow=flow))


@pytest.mark.guarantee(NAME, "once")
def test_one_event_is_enough(prefect_server: str) -> None:
    """The server's own trigger fires immediately, on the first event and on each one after it."""
    (automation,) = held(deploy("at-once")[1])
    trigger = EventTrigger.model_validate(automation["trigger"])
    assert trigger.immediate
    assert trigger.threshold == 1


@pytest.mark.guarantee(NAME, "parameters")
def test_the_triggered_run_is_given_the_id(prefect_server: str) -> None:
    """The server's own templates turn a completed run's event into the id of that run."""
    (automation,) = held(deploy("parameters")[1])
    (action,) = automation["actions"]
    completed = event("Completed")
    given = {
        name: asyncio.run(render_user_template(text, {"event": completed}))
        for name, text in action["parameters"].items()
    }
    assert given == {"loaded_by": completed.resource.id.removeprefix("prefect.flow-run.")}


@pytest.mark.guarantee(NAME, "parameters")
def test_a_flow_without_the_parameter_is_given_none(prefect_server: str) -> None:
    """The second flow may have no parameters, or take the id in one with another name."""
    deploy("without")
    assert not after("load/without").parameters
    assert list(after("load/without", parameter="source").parameters or {}) == ["source"]


@pytest.mark.guarantee(NAME, "held")
def test_the_server_holds_one_automation(prefect_server: str) -> None:
    """Deployed twice, the second deployment has one enabled trigger, which runs it.

    The first deployment has none.
    """
    deploy("held")
    first, second = deploy("held")
    (automation,) = held(second)
    assert automation["enabled"]
    (action,) = automation["actions"]
    assert (action["type"], action["deployment_id"]) == ("run-deployment", str(second))
    assert held(first) == []


@pytest.mark.fact(NAME, "enabled-again")
def test_a_disabled_automation_is_replaced(prefect_server: str) -> None:
    """Deployed again, the second deployment has a new automation, which is enabled."""
    (automation,) = held(deploy("disabled")[1])
    with get_client(sync_client=True) as client:
        client.pause_automation(automation["id"])
    (again,) = held(deploy("disabled")[1])
    assert again["id"] != automation["id"]
    assert again["enabled"]


@pytest.mark.guarantee(NAME, "unknown")
@pytest.mark.parametrize("name", ["load/misspelt", "misspelt/nightly", "nightly"])
def test_a_deployment_that_does_not_exist_cannot_be_followed(
    prefect_server: str, name: str
) -> None:
    """The error is a ValueError of one line that names the deployment."""
    with pytest.raises(ValueError, match=f'^no deployment "{name}": deploy it first$'):
        after(name)


@pytest.fixture
def live(live_server: str) -> Iterator[tuple[str, UUID, UUID]]:
    """Yield a server that acts on events, and both deployments there."""
    with temporary_settings({PREFECT_API_URL: live_server}):
        first, second = deploy("chained")
        yield live_server, first, second
        with get_client(sync_client=True) as client:
            for automation in held(second):
                client.delete_automation(UUID(automation["id"]))


def strangers() -> list[UUID]:
    """Deploy another flow under the same name, and the same flow to a queue of that name."""
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name="strangers", type="process"))
        queued = client.create_deployment(
            flow_id=client.create_flow(load),
            name="stranger",
            work_pool_name="strangers",
            work_queue_name="chained",
        )
    return [UUID(str(RunnerDeployment.from_flow(unload, "chained").apply())), queued]


def run_through(deployment_id: UUID, *states: State[Any]) -> str:
    """Create a run, report states for it as an engine does, and return its id."""

    async def report() -> str:
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(
                deployment_id, parameters={"day": "Monday"}
            )
            for state in states:
                await client.set_flow_run_state(run.id, state)
        return str(run.id)

    return asyncio.run(report())


def runs_of(api: str, deployment_id: UUID) -> list[dict[str, Any]]:
    """Return the runs of a deployment."""
    wanted = {"deployments": {"id": {"any_": [str(deployment_id)]}}}
    found: list[dict[str, Any]] = call(api, "/flow_runs/filter", wanted)
    return found


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "completes")
@pytest.mark.guarantee(NAME, "parameters")
@pytest.mark.guarantee(NAME, "failed")
@pytest.mark.guarantee(NAME, "others")
@pytest.mark.guarantee(NAME, "once")
@pytest.mark.fact(NAME, "named")
def test_a_completed_run_starts_the_other(live: tuple[str, UUID, UUID]) -> None:
    """Each run of the first deployment that completes starts one run of the second.

    A failed run, a run that completes under another state name, and runs of other deployments start
    none.
    """
    api, first, second = live
    run_through(first, Running(), Failed())
    run_through(first, Running(), Completed(name="Empty"))
    for stranger in strangers():
        run_through(stranger, Running(), Completed())
    # Events are processed in order: once these have had their effect, so have the earlier ones.
    completed = run_through(first, Running(), Completed())
    again = run_through(first, Running(), Completed())
    wait_until(lambda: len(runs_of(api, second)) >= 2, "both runs that are triggered")
    made = [run["parameters"] for run in runs_of(api, second)]
    assert sorted(each["loaded_by"] for each in made) == sorted([completed, again])
