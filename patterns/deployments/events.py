# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Run a deployment for an event, with its payload as a typed parameter, and once for a burst.

Problem:
    A shop reports each change of an order, a file store each file: a flow shall run with what they
    report. A template in a parameter makes text of a payload, or lets its sender read variables of
    the server; if the payload does not fit, there is no run and nobody knows. Ten changes in a
    minute are ten runs, and what is advised against that keeps the first payload, not the last.

Guarantees:
    each: without `quiet`, there is one run for each event of that name whose resource matches.
    intact: the payload arrives as it was sent: quotes, any script, line ends, numbers, `null` and
        nested objects; templates and `__prefect_kind` in it stay what they are.
    typed: the flow receives the payload as its pydantic model. If it does not fit there is a run
        all the same, which fails and has the reason in its state.
    burst: with `quiet`, events of a resource that follow one another in less than that time have
        one run, with the payload of the last one, once none has followed for that time; but see
        `looks`.
    apart: events of other resources neither delay a run nor are part of it.
    twice: events that are sent with the same `delivery` have the same id, and the server acts on
        the first.
    short: a `quiet` of less than the ten seconds that Prefect needs is a ValueError of one line.

Prefect:
    webhooks (3.8, 3.9): a self-hosted server has no webhooks, but whoever can send JSON can send an
        event: `POST /api/events` takes a list of them.
    unseen (3.8, 3.9): if parameters do not fit the deployment's schema, no run is created; only an
        event `prefect.automation.action.failed` has the reason.
    replaced (3.8, 3.9): with the parameter `{{ event.payload.x }}`, a number stays a number, but an
        object with a `__prefect_kind` is replaced, so the sender can read the server's variables.
    cool-down (3.8, 3.9): a Reactive trigger with a time in `within` fires for the first event at
        once, and the others are lost.
    looks (3.8, 3.9): the server looks every few seconds whether a time is over. An event that comes
        when it is over, but before the server looks, has a run at once, and the next one begins a
        burst of its own.
    overtaken (3.8): the server takes two events at a time. If it takes the earlier one of a burst
        last, the run has the payload of that.
    in-order (3.9): the run has the payload of the one that occurred last.
    forgetful (3.8, 3.9): the server remembers an id for five minutes, in its memory, and at most a
        thousand of them.

Not for:
    A resource whose events do not stop: with `quiet`, no run comes until they pause. On 3.8, events
    of a resource within milliseconds, if the last payload counts (`overtaken`). A server that is
    behind by more than `quiet`: a burst may have several runs. Events that are sent again later:
    `deployments/trigger_once` has a key for them. Senders that choose the format: something must
    turn it into an event. Secrets: payloads are kept as events. A payload with a NUL character on
    PostgreSQL. A server on SQLite under load (`deployments/triggers`).

Costs:
    With `quiet`, a run starts up to five seconds later than that, because the server looks at times
    that often.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/automations/passing-event-payloads-to-flows
    - https://docs.prefect.io/v3/advanced/debouncing-events
    - https://docs.prefect.io/v3/how-to-guides/cloud/create-a-webhook
    - Prefect #14875, #17885, #18907: templates make text of numbers and objects
    - Prefect #11199: several events at once have one run
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from prefect import flow, get_client, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import Posture
from pydantic import BaseModel, Json, PositiveInt

CHANGED = "order.changed"
SHORTEST = timedelta(seconds=10)
"""Prefect does not accept less."""
# As a text: the server would replace objects in it that have a `__prefect_kind`.
PAYLOAD = {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"}


class Order(BaseModel):
    """An order, as the shop sends it."""

    id: str
    cents: PositiveInt
    note: str = ""


@flow
def ship(order: Json[Order]) -> str:
    """Ship an order.

    Args:
        order: As a parameter of a run it is JSON text; the flow receives an `Order`.

    Returns:
        What was shipped.
    """
    return f"shipped {order.id} for {order.cents}: {order.note}"


def on_event(
    event: str, resources: str, parameter: str, quiet: timedelta | None = None
) -> DeploymentEventTrigger:
    """Return a trigger that runs a deployment for events.

    Args:
        event: The name of the event.
        resources: The ids of the resources, which may end in `*`: `order.*`.
        parameter: The parameter of the flow that receives the payload: a `Json[...]` of pydantic.
        quiet: If given, there is one run for a burst: this long after the last event of a resource.

    Returns:
        The trigger, for the deployment that is to run.

    Raises:
        ValueError: If the time is shorter than Prefect allows.
    """
    if quiet is not None and quiet < SHORTEST:
        raise ValueError(f"quiet is {quiet.total_seconds():g} s, but at least 10 s are needed")
    # Fires if an event is not followed by another one of its resource in time.
    debounced = {"posture": Posture.Proactive, "after": {event}, "within": quiet}
    timing = {"posture": Posture.Reactive} if quiet is None else debounced
    return DeploymentEventTrigger(
        name=f"{event} of {resources}",
        expect={event},
        match={"prefect.resource.id": resources},
        for_each={"prefect.resource.id"},
        parameters={parameter: PAYLOAD},
        **timing,
    )


def send(
    event: str, resource: str, payload: Mapping[str, Any], delivery: str | None = None
) -> UUID:
    """Send an event to the server.

    Args:
        event: The name of the event.
        resource: The id of the resource that it is about, such as `order.42`.
        payload: What happened, as JSON would have it.
        delivery: What identifies this event where it comes from, if it may be sent twice.

    Returns:
        The id of the event.
    """
    id_ = uuid4() if delivery is None else uuid5(NAMESPACE_OID, delivery)
    body = {
        "id": str(id_),
        "event": event,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": resource},
        "payload": payload,
    }
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[body])
    return id_


def main() -> None:
    """Deploy the flow and show its trigger; `serve` also runs it, and `send` sends an event."""
    if sys.argv[1:] == ["send"]:
        print(send(CHANGED, "order.42", {"id": "42", "cents": 990}))
        return
    trigger = on_event(CHANGED, "order.*", "order", quiet=timedelta(seconds=30))
    deployment = RunnerDeployment.from_flow(ship, "on-change", triggers=[trigger])
    if sys.argv[1:] == ["serve"]:
        serve(deployment)
        return
    resource = f"prefect.deployment.{deployment.apply()}"
    with get_client(sync_client=True) as client:
        for held in client.read_resource_related_automations(resource):
            print(f"{held.name}: {held.trigger.describe_for_cli()}")
    print(ship.fn(Order(id="42", cents=990)))


if __name__ == "__main__":
    main()
