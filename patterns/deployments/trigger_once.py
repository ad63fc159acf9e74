# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Start a deployment once for each request, or unless it already runs with the same parameters.

Problem:
    A webhook is delivered twice, a client repeats a request whose answer was lost, a cron job and a
    person start the same import: there are two runs. An idempotency key prevents that, but for
    good: after a failure, too, and whatever the parameters. And to look for a running one first
    does not help if two callers look at the same time.

Guarantees:
    request: `trigger_for` creates one run for each request id and deployment: called again, or by
        several threads or processes at once, it returns that run, even if the run has failed.
    other: a request id that comes again with other parameters is a ValueError of one line; no run
        is created.
    running: `trigger_unless_running` returns the run with the same parameters that is not in a
        final state: scheduled, pending, running, paused or being cancelled. If there is none,
        because it completed, failed, crashed, was cancelled or was deleted, a new run is created.
    at-once: several threads or processes that call it at once are given the same run, if it does
        not end in between.
    same: parameters are the same if they are equal as JSON, in whatever order their names stand; a
        parameter that is left out is equal to its default in the deployment or in the flow.
    new: exactly one caller is told that the run is new, even if the client had to repeat its
        request because the answer was lost.
    errors: a deployment that does not exist, and parameters that are missing or of a wrong type,
        are a ValueError of one line; no run is created.

Prefect:
    flow-wide (3.8, 3.9): a key belongs to the flow: with another deployment of that flow, it
        returns the run of the first.
    kept (3.8, 3.9): a key is kept as long as its run, whatever the state of that run; once the run
        is deleted, the key creates a new one. An empty key is refused the second time.
    ignored (3.8, 3.9): with other parameters a key returns its run, with the old parameters.
    http (3.8, 3.9): `POST /deployments/{id}/create_flow_run` and `run_deployment` share keys. The
        status is 201 for a new run, and 200 for an existing one.
    subflow (3.8, 3.9): a flow that calls `run_deployment` twice with a key has a second task run
        for it that stays Pending, unless with `as_subflow=False`.
    limit (3.8, 3.9): a concurrency limit of 1 counts all runs of a deployment, whatever their
        parameters, and from Pending on: the second run is created, and when it becomes Pending it
        is Cancelled (`CANCEL_NEW`) or waits its turn (`ENQUEUE`).

Not for:
    Runs that are started in another way: `trigger_unless_running` sees only those that it started.
    Runs whose process is gone but which stay Running (`deployments/recover_runs`): they count.
    Effects that must not happen twice: a run may be retried (`transactions/idempotent_write`).
    Machines without Prefect: `deployments/trigger_by_http` does the first half. Requests that come
    again after their run was deleted. Defaults inside a model that is a parameter: they are not
    filled in. 1 and 1.0 are different parameters. A parameter that the flow does not have: the
    server creates the run, which crashes. A run in a flow that should be its parent.

Costs:
    Two requests to the server for `trigger_for`, four for `trigger_unless_running`.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployments/run-deployments
    - https://docs.prefect.io/v3/concepts/deployments
    - Prefect #7237: a key for `run_deployment`; #8847: a key can't be used again
    - Prefect #17857: a run with the same parameters; #21193, not merged: keys that end with a run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Completed


class Triggered(NamedTuple):
    """A run, and whether this call created it."""

    run: FlowRun
    new: bool


def trigger_for(
    request: str, deployment: str, parameters: Mapping[str, Any] | None = None
) -> Triggered:
    """Start a deployment, once for each request.

    From async code, call it in a thread: `await asyncio.to_thread(trigger_for, ...)`.

    Args:
        request: What identifies the request, such as the id of a delivery or of an order.
        deployment: The deployment's flow and name: `import-day/nightly`.
        parameters: The parameters that differ from the deployment's own, as JSON would have them.

    Returns:
        The run of this request.

    Raises:
        ValueError: If the deployment does not exist or does not accept the parameters, or if the
            request was for other parameters.
    """
    given = dict(parameters or {})
    with get_client(sync_client=True) as client:
        triggered = create_run(client, read(client, deployment), given, f"request {request}")
    if triggered.run.labels.get("trigger.given") != digest(given):
        raise ValueError(f"request {request!r} had other parameters before: {triggered.run.id}")
    return triggered


def trigger_unless_running(
    deployment: str, parameters: Mapping[str, Any] | None = None
) -> Triggered:
    """Start a deployment, unless a run with the same parameters has not ended yet.

    Args:
        deployment: The deployment's flow and name: `import-day/nightly`.
        parameters: The parameters that differ from the deployment's own, as JSON would have them.

    Returns:
        The run that has not ended, or a new one.

    Raises:
        ValueError: If the deployment does not exist or does not accept the parameters.
    """
    given = dict(parameters or {})
    with get_client(sync_client=True) as client:
        found = read(client, deployment)
        same = digest(defaults(found) | given)
        tag = f"trigger-{same[:16]}"
        ours = {"deployment_id": {"any_": [found.id]}, "tags": {"all_": [tag]}}
        unfinished = {"state": {"type": {"not_any_": list(TERMINAL_STATES)}}}
        ended = None
        # First those that have not ended: somebody may have set an old run to Scheduled again.
        for wanted in (ours | unfinished, ours):
            for run in client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate(wanted),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=1,
            ):
                if not has_ended(run):
                    return Triggered(run, new=False)
                ended = run.id
        # Whoever saw the same run end has the same key, so one of them creates the next run.
        while True:
            key = f"{same} after {ended}"
            triggered = create_run(client, found, given, key, tags=[tag])
            if triggered.new or not has_ended(triggered.run):
                return triggered
            ended = triggered.run.id


def create_run(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    given: Mapping[str, Any],
    key: str,
    tags: Sequence[str] = (),
) -> Triggered:
    """Create a run of a deployment, or return the one that was created with this key."""
    # Only the caller that created the run finds its own mark on it. The status of the answer would
    # not do: if the client had to repeat the request, it is 200.
    mark = str(uuid4())
    try:
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=dict(given),
            # To the server a key belongs to the flow. As a digest it is short and plain.
            idempotency_key=f"{deployment.id} {digest(key)}",
            tags=tags,
            labels={"trigger.mark": mark, "trigger.given": digest(given)},
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:
            raise
        reason = " ".join(str(error.response.json()["detail"]).split())
        raise ValueError(f"{deployment.name}: {reason}") from None
    return Triggered(run, new=run.labels.get("trigger.mark") == mark)


def read(client: SyncPrefectClient, deployment: str) -> DeploymentResponse:
    """Return the deployment of this name."""
    try:
        return client.read_deployment_by_name(deployment)
    except (ObjectNotFound, ValueError):
        raise ValueError(f'no deployment "{deployment}": deploy it first') from None


def defaults(deployment: DeploymentResponse) -> dict[str, Any]:
    """Return the parameters that a run has if none are given."""
    declared = (deployment.parameter_openapi_schema or {}).get("properties", {})
    of_flow = {name: each["default"] for name, each in declared.items() if "default" in each}
    return of_flow | deployment.parameters


def digest(value: Any) -> str:
    """Return a short text that is the same for equal JSON."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def has_ended(run: FlowRun) -> bool:
    """Return whether a run is in a final state."""
    return bool(run.state and run.state.is_final())


@flow
def import_day(day: str, shop: str = "main") -> str:
    """Import a day's orders of a shop."""
    return f"orders of {shop} on {day}"


def main() -> None:
    """Trigger a deployment several times, and print which runs were new."""
    RunnerDeployment.from_flow(import_day, "demo").apply()
    name, monday = "import-day/demo", {"day": "Monday"}
    request = str(uuid4())
    for _ in range(2):
        run, new = trigger_for(request, name, monday)
        print(f"request {request}: {run.name}, new: {new}")
    for _ in range(2):
        run, new = trigger_unless_running(name, monday)
        print(f"unless running: {run.name}, new: {new}")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Completed(), force=True)
    run, new = trigger_unless_running(name, monday)
    print(f"once it has ended: {run.name}, new: {new}")


if __name__ == "__main__":
    main()
