# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Run a deployment when another one has completed, and hand it what it needs to know.

Problem:
    The report comes after the load. Two scheduled times an hour apart break on the day the load
    takes longer, and one flow that calls the other couples what two teams own.

Guarantees:
    completes: when a run of the first deployment ends in the state `Completed`, a run of the
        second is triggered.
    parameters: the triggered run receives the id of the run that completed, from the event, as
        the named parameter; if no parameter is named it receives none.
    failed: a run of the first that fails triggers nothing.
    others: nor does a run of another deployment, even one of the same name, of the same flow or in
        a work queue of that name, nor a run of the flow without a deployment.
    once: each time a run completes one run is triggered.
    held: the server holds the trigger as an automation of the second deployment; deploying
        again replaces it and adds no second one.
    unknown: a deployment that does not exist cannot be followed: that is a one-line error,
        whereas a trigger by its name would wait forever.

Prefect:
    named (3.8, 3.9): an event has the name of the state: a run that ends in
        `Completed(name="Empty")` triggers nothing.
    enabled-again (3.8, 3.9): deploying again recreates the automation, with another id, and
        enabled even if somebody had disabled it.

Not for:
    A value that the second flow needs at once: call it as a subflow. Many runs in a row that
    need an answer within a second. A first deployment that is deleted and created again has
    another id: deploy the second again, too. A server on SQLite under load: its automations may
    act late, twice or not at all (`database is locked`); use PostgreSQL.

Costs:
    None in the first flow, which does not know of the second. Events reach the server over a
    separate connection, and a run is created a second or two after the state; a self-hosted server
    needs its event services on, as `prefect server start` has them.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/automations/creating-deployment-triggers
    - https://docs.prefect.io/v3/how-to-guides/automations/chaining-deployments-with-events
    - Prefect #18934: `database is locked` on SQLite
    - Prefect #8253: match a deployment by its id, which is the most reliable, or by its name
"""

from __future__ import annotations

import sys

from prefect import flow, get_client, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound


@flow
def load(day: str) -> str:
    """Load the rows of a day."""
    return f"rows of {day}"


@flow
def summarise(loaded_by: str) -> str:
    """Summarise what a run has loaded.

    Args:
        loaded_by: The id of the run.

    Returns:
        The summary.
    """
    return f"summary of what {loaded_by} loaded"


def after(deployment: str, parameter: str | None = None) -> DeploymentEventTrigger:
    """Return a trigger that fires when a run of a deployment completes.

    Args:
        deployment: The deployment's flow and name: `load/nightly`.
        parameter: The parameter of the triggered flow that receives the id of the completed run.

    Returns:
        The trigger, for the deployment that is to run afterwards.

    Raises:
        ValueError: If there is no such deployment; the message is one line.
    """
    with get_client(sync_client=True) as client:
        try:
            first = client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError):
            raise ValueError(f'no deployment "{deployment}": deploy it first') from None
    run = "{{ event.resource.id | replace('prefect.flow-run.', '') }}"
    return DeploymentEventTrigger(
        name=f"after {deployment}",
        expect={"prefect.flow-run.Completed"},
        # By id: another flow may have a deployment of the same name.
        match_related={"prefect.resource.id": f"prefect.deployment.{first.id}"},
        # Prefect crashes a run that is given a parameter its flow does not have.
        parameters={parameter: run} if parameter else None,
    )


def chained(name: str) -> tuple[RunnerDeployment, RunnerDeployment]:
    """Return a deployment of each flow, the second of which runs after the first.

    Args:
        name: The name of the first deployment, which is deployed at once because the trigger needs
            its id. (Where an event loop is running, as in a notebook, await `apply`.)

    Returns:
        The first deployment and the second, which is not yet deployed.
    """
    first = RunnerDeployment.from_flow(load, name)
    first.apply()
    trigger = after(f"load/{name}", parameter="loaded_by")
    second = RunnerDeployment.from_flow(summarise, f"after-{name}", triggers=[trigger])
    return first, second


def main() -> None:
    """Deploy both and show what the server holds, or serve them if the argument is `serve`."""
    first, second = chained("nightly")
    if sys.argv[1:] == ["serve"]:
        serve(first, second)
        return
    deployment = f"prefect.deployment.{second.apply()}"
    with get_client(sync_client=True) as client:
        for held in client.read_resource_related_automations(deployment):
            print(f"{held.name}: {held.trigger.describe_for_cli()}")


if __name__ == "__main__":
    main()
