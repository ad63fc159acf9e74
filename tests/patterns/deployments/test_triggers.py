# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/triggers.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running

from flowgauge.waiting import wait_until
from patterns.deployments.trigger_by_http import call
from patterns.deployments.triggers import chained, load, triggers_of

NAME = "deployments/triggers"


def deploy(name: str) -> tuple[UUID, UUID]:
    """Deploy both flows, and return their ids."""
    first, second = (deployment.apply() for deployment in chained(name))
    return UUID(str(first)), UUID(str(second))


def held(deployment_id: UUID) -> list[dict[str, Any]]:
    """Return the automations of a deployment as the server would write them."""
    found = asyncio.run(triggers_of(deployment_id))
    return [each.model_dump(mode="json") for each in found]


@pytest.mark.guarantee(NAME, "held")
def test_the_server_holds_one_automation(prefect_server: str) -> None:
    """Deployed twice, the second has one trigger, which runs it when the first completes."""
    deploy("held")
    first, second = deploy("held")
    (automation,) = held(second)
    assert automation["enabled"]
    assert automation["trigger"]["expect"] == ["prefect.flow-run.Completed"]
    assert automation["trigger"]["match_related"]["prefect.resource.name"] == "held"
    (action,) = automation["actions"]
    assert (action["type"], action["deployment_id"]) == ("run-deployment", str(second))
    assert held(first) == []


@pytest.fixture
def live(live_server: str) -> Iterator[tuple[str, UUID, UUID]]:
    """Give a server that acts on events, and both deployments there."""
    with temporary_settings({PREFECT_API_URL: live_server}):
        first, second = deploy("chained")
        yield live_server, first, second
        for automation in held(second):
            delete(automation["id"])


def delete(automation_id: str) -> None:
    """Delete an automation."""

    async def ask() -> None:
        async with get_client() as client:
            await client.delete_automation(UUID(automation_id))

    asyncio.run(ask())


def run_through(deployment_id: UUID, *states: State[Any]) -> str:
    """Make a run and let it pass through states as an engine reports them; return its id."""

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
@pytest.mark.guarantee(NAME, "once")
def test_a_completed_run_starts_the_other(live: tuple[str, UUID, UUID]) -> None:
    """Of a run that failed, another deployment's and one that completed, the last starts one."""
    api, first, second = live
    stranger = UUID(str(load.to_deployment("stranger").apply()))  # type: ignore[union-attr]
    run_through(first, Running(), Failed())
    run_through(stranger, Running(), Completed())
    # Events are taken in their order: when this one has had its effect, the others had theirs.
    completed = run_through(first, Running(), Completed())
    again = run_through(first, Running(), Completed())
    wait_until(lambda: len(runs_of(api, second)) >= 2, "both runs that are triggered")
    made = [run["parameters"] for run in runs_of(api, second)]
    assert sorted(each["loaded_by"] for each in made) == sorted([completed, again])
