# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151", "sqlalchemy<2.1"]
# ///
"""Run a deployment when another one has completed, and hand it what it needs to know.

Problem:
    The report comes after the load. Two clock times with an hour between them break on the day
    the load takes longer, and one flow that calls the other joins what two teams own.

Guarantees:
    completes: when a run of the first deployment completes, a run of the second is made.
    parameters: it is given the id of the run that completed, from the event.
    failed: a run of the first that fails starts nothing, nor does another deployment's run.
    once: one run that completes starts one run.
    held: the server holds the trigger as an automation of the second deployment; deploying
        again replaces it and makes no second one.

Not for:
    A value that the second flow needs at once: call it as a subflow. Many runs in a row that
    need an answer within a second.

Costs:
    None in the first flow: it does not know. Events reach the server by a connection of their
    own and a run is made a second or two after the state; a server of one's own needs its
    event services on, as `prefect server start` has them.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/automations/creating-deployment-triggers
    - https://docs.prefect.io/v3/how-to-guides/automations/chaining-deployments-with-events
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from uuid import UUID

from prefect import flow, serve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.events import Automation, DeploymentEventTrigger


@flow
def load(day: str) -> str:
    """Load the rows of a day, if it is one."""
    if not day:
        raise ValueError("no day was given")
    return f"rows of {day}"


@flow
def summarise(loaded_by: str) -> str:
    """Summarise what a run has loaded.

    Args:
        loaded_by: The id of the run.
    """
    return f"summary of what {loaded_by} loaded"


def after(name: str) -> DeploymentEventTrigger:
    """Return a trigger that fires when a run of a deployment completes.

    Args:
        name: Of that deployment, without its flow.
    """
    return DeploymentEventTrigger(
        name=f"after {name}",
        expect={"prefect.flow-run.Completed"},
        match_related={
            "prefect.resource.name": name,
            "prefect.resource.role": "deployment",
        },
        parameters={
            "loaded_by": "{{ event.resource.id | replace('prefect.flow-run.', '') }}",
        },
    )


def chained(name: str) -> tuple[RunnerDeployment, RunnerDeployment]:
    """Return a deployment of each flow, of which the second runs after the first.

    Args:
        name: Of the first deployment; it must be the only one of that name.
    """
    first: Any = load.to_deployment(name)
    second: Any = summarise.to_deployment(f"after-{name}", triggers=[after(name)])
    return first, second


async def triggers_of(deployment_id: UUID) -> list[Automation]:
    """Return what the server holds as triggers of a deployment."""
    async with get_client() as client:
        return await client.read_resource_related_automations(f"prefect.deployment.{deployment_id}")


def main() -> None:
    """Deploy both and show what the server holds, or with the word `serve` serve them."""
    if sys.argv[1:] == ["serve"]:
        serve(*chained("nightly"))
        return
    first, second = chained("nightly")
    first.apply()
    second_id: Any = second.apply()
    for held in asyncio.run(triggers_of(second_id)):
        print(f"{held.name}: {held.trigger.describe_for_cli()}")


if __name__ == "__main__":
    main()
