# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/serve.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.states import Pending

from flowgauge.waiting import patience, wait_until
from patterns.deployments import serve as pattern
from patterns.deployments import trigger_by_http as http
from patterns.deployments.serve import ask, forecasts, outcome, serve

NAME = "deployments/serve"


@pytest.fixture
def deployment_id(prefect_server: str) -> Iterator[UUID]:
    """Give a deployment that no other test has asked for runs of."""
    deployment_id = UUID(str(forecasts().apply()))
    yield deployment_id
    asyncio.run(delete(deployment_id))


async def delete(deployment_id: UUID) -> None:
    """Delete a deployment."""
    async with get_client() as client:
        await client.delete_deployment(deployment_id)


def held(deployment_id: UUID) -> Any:
    """Return what the server says of a deployment."""

    async def read() -> Any:
        async with get_client() as client:
            return await client.read_deployment(deployment_id)

    return asyncio.run(read())


def number_of_runs() -> int:
    """Return how many flow runs the server knows."""

    async def count() -> int:
        async with get_client() as client:
            return await client.count_flow_runs()

    return asyncio.run(count())


@pytest.mark.guarantee(NAME, "schema")
def test_the_deployment_tells_the_schema_of_the_parameters(deployment_id: UUID) -> None:
    """Types, choices, bounds, defaults and descriptions stand in the deployment's schema."""
    schema = held(deployment_id).parameter_openapi_schema
    station, days, unit = (schema["properties"][name] for name in ("station", "days", "unit"))
    assert station["type"] == "string"
    assert station["minLength"] == 3
    assert station["description"] == "Where it is measured."
    assert (days["type"], days["minimum"], days["maximum"], days["default"]) == (
        "integer",
        1,
        14,
        3,
    )
    assert unit["enum"] == ["C", "F"]
    assert schema["required"] == ["station"]


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"days": "soon"}, "'days'. Failure reason: 'soon' is not of type 'integer'"),
        ({"days": 15}, "'days'. Failure reason: 15 is greater than the maximum of 14"),
        ({"unit": "K"}, r"'unit'. Failure reason: 'K' is not one of \['C', 'F'\]"),
        ({"station": None}, "'station'. Failure reason: None is not of type 'string'"),
    ],
    ids=["type", "bound", "choice", "none"],
)
def test_parameters_that_do_not_fit_make_no_run(
    deployment_id: UUID, parameters: dict[str, Any], reason: str
) -> None:
    """The error names the parameter in one line, and no run has been made."""
    before = number_of_runs()
    with pytest.raises(ValueError, match=reason) as caught:
        asyncio.run(ask(deployment_id, **parameters))
    assert "\n" not in str(caught.value)
    assert number_of_runs() == before


@pytest.mark.guarantee(NAME, "misspelt")
def test_a_misspelt_parameter_makes_a_run(deployment_id: UUID) -> None:
    """The API takes a parameter that the flow does not have."""
    before = number_of_runs()
    asyncio.run(ask(deployment_id, day=2))
    assert number_of_runs() == before + 1


@pytest.mark.guarantee(NAME, "schedules")
def test_each_schedule_has_its_own_parameters(deployment_id: UUID) -> None:
    """The weekly schedule asks for seven days, the daily one for what the deployment says."""
    schedules = {each.slug: each for each in held(deployment_id).schedules}
    assert {slug: each.schedule.cron for slug, each in schedules.items()} == {
        "daily": "0 6 * * *",
        "weekly": "0 7 * * 1",
    }
    assert {slug: each.parameters for slug, each in schedules.items()} == {
        "daily": {},
        "weekly": {"days": 7},
    }
    assert {each.schedule.timezone for each in schedules.values()} == {"Europe/Oslo"}


@pytest.mark.guarantee(NAME, "limit")
def test_a_run_above_the_limit_waits(deployment_id: UUID) -> None:
    """Of two runs that begin one is let through, and the other waits for its place."""

    async def begin_two() -> list[tuple[StateType, str | None]]:
        async with get_client() as client:
            states = []
            pending: State[Any] = Pending()
            for _ in range(2):
                run = await ask(deployment_id)
                answer = await client.set_flow_run_state(run, pending)
                assert answer.state is not None
                states.append((answer.state.type, answer.state.name))
            return states

    first, second = asyncio.run(begin_two())
    assert first == (StateType.PENDING, "Pending")
    assert second == (StateType.SCHEDULED, "AwaitingConcurrencySlot")


@pytest.mark.guarantee(NAME, "served")
@pytest.mark.guarantee(NAME, "paused")
def test_a_run_is_executed_and_the_deployment_paused_after_it(deployment_id: UUID) -> None:
    """The value has the parameters that were given; served again, the deployment goes on."""
    assert not held(deployment_id).paused
    run = asyncio.run(ask(deployment_id, days=1, unit="F"))
    asyncio.run(serve(forecasts(), once=True))
    assert asyncio.run(outcome(run)) == ["Oslo in 1 days: 21 °F"]
    assert held(deployment_id).paused
    assert UUID(str(forecasts().apply())) == deployment_id
    assert not held(deployment_id).paused


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "served")
@pytest.mark.guarantee(NAME, "paused")
def test_a_process_serves_until_it_is_ended(
    live_server: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    """A process that serves runs what is asked for by HTTP, and pauses when it is terminated."""
    (tmp_path / "serve.py").write_text(Path(pattern.__file__).read_text())
    process = start("serve.py", "serve", PREFECT_RUNNER_POLL_FREQUENCY="1")
    wait_until(lambda: "forecast/served" in http.names(live_server), "the deployment")
    run = http.start(live_server, "forecast/served", {"station": "Bergen"})
    assert http.watch(live_server, run, patience=patience())["type"] == "COMPLETED"
    process.terminate()
    process.wait(timeout=patience())
    assert http.find(live_server, "forecast/served")["paused"]
