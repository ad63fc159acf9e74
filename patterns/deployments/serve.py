# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151", "sqlalchemy<2.1", "pydantic>=2.10,<3"]
# ///
"""Serve a flow from one process: checked parameters, schedules and a limit, and no work pool.

Problem:
    A script that is run by hand must become something that others start, with parameters that
    are checked before anything runs, and that starts by itself in the morning. For one machine
    that takes one process; work pools and workers can come later.

Guarantees:
    schema: the deployment tells the type, choices, bounds, default and description of each
        parameter, as the flow's signature and docstring have them.
    refused: parameters that do not fit make no run, and the error names the parameter.
    misspelt: stock: a parameter that the flow does not have is let through, and the run fails
        when it starts.
    served: a run that was asked for through the API is executed in a process of its own, with
        the parameters that were given, and its value can be read afterwards.
    schedules: each schedule of the deployment has its own time and its own parameters.
    limit: a run above the deployment's limit waits for a place, and is not cancelled.
    paused: when the process ends its deployment is paused, so nothing is scheduled that nobody
        would execute; it goes on when the process is started again.

Not for:
    More runs than one machine can hold, or runs that need an environment of their own: deploy
    to a work pool, see `deployments/deploy_to_pool`.

Costs:
    A new Python process for each run, which imports Prefect: seconds, whatever the flow does.
    Before that a run waits for the next look at the server, every ten seconds by default
    (`PREFECT_RUNNER_POLL_FREQUENCY`).

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/run-flows-in-local-processes
    - https://docs.prefect.io/v3/concepts/schedules
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runner import Runner
from prefect.schedules import Cron
from pydantic import Field


@flow(persist_result=True)  # or the value would end with the process of the run
def forecast(
    station: Annotated[str, Field(min_length=3)],
    days: Annotated[int, Field(ge=1, le=14)] = 3,
    unit: Literal["C", "F"] = "C",
) -> list[str]:
    """Forecast the temperature at a weather station.

    Args:
        station: Where it is measured.
        days: How many days ahead.
        unit: Of the temperatures.
    """
    return [f"{station} in {day} days: {20 + day} °{unit}" for day in range(1, days + 1)]


def forecasts() -> RunnerDeployment:
    """Return the deployment: its name, its parameters, when it runs and how often at once."""
    deployment: Any = forecast.to_deployment(
        name="served",
        parameters={"station": "Oslo"},
        schedules=[
            Cron("0 6 * * *", timezone="Europe/Oslo", slug="daily"),
            Cron("0 7 * * 1", timezone="Europe/Oslo", slug="weekly", parameters={"days": 7}),
        ],
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
    )
    assert isinstance(deployment, RunnerDeployment)  # in an event loop it would be awaitable
    return deployment


async def serve(deployment: RunnerDeployment, *, once: bool = False) -> None:
    """Execute the runs of a deployment as they come, until this process is told to end.

    Args:
        deployment: What is served.
        once: Execute the runs that are due now, and end after them.
    """
    runner = Runner(limit=4, pause_on_shutdown=True)
    await runner.aadd_deployment(deployment)
    await runner.start(run_once=once)


async def ask(deployment_id: UUID, **parameters: Any) -> UUID:
    """Ask for a run, and return its id.

    Args:
        deployment_id: Of the deployment.
        parameters: Those that differ from the deployment's own.

    Raises:
        ValueError: If they do not fit the flow; the message names the parameter.
    """
    async with get_client() as client:
        try:
            run = await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
            raise ValueError(error.response.json()["detail"]) from None
        return run.id


async def outcome(flow_run_id: UUID) -> Any:
    """Return what a run gave, or the name of its state while it has not completed."""
    async with get_client() as client:
        run = await client.read_flow_run(flow_run_id)
    if run.state is None or not run.state.is_completed():
        return run.state_name
    return await run.state.aresult()


async def show(deployment: RunnerDeployment) -> None:
    """Ask for a run that fits and one that does not, and serve until the first is done."""
    deployment_id = await deployment.aapply()
    try:
        await ask(deployment_id, days="soon")
    except ValueError as error:
        print(f"refused: {error}")
    run = await ask(deployment_id, days=2)
    await serve(deployment, once=True)
    print(await outcome(run))


def main() -> None:
    """Serve one run and end, or with the word `serve` go on until Ctrl-C."""
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve(forecasts()))
    else:
        asyncio.run(show(forecasts()))


if __name__ == "__main__":
    main()
