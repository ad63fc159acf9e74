# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Start a deployed flow and read back what it made, by plain HTTP and without Prefect.

Problem:
    A web service, a machine on the factory floor or a script in another language must start a
    flow and learn how it ended, where nobody wants to install an orchestrator.

Guarantees:
    standard: it needs the standard library only; Prefect is neither imported nor installed.
    same: `prefect deployment run --watch`, `run_deployment` in Python and this file start the
        same run: same deployment, same parameters, same outcome.
    listed: without arguments it lists all deployments that the server knows, even if the server
        returns them in pages.
    watched: it waits until the run has ended, and reports how it ended and whether it succeeded.
    artifacts: all tables and texts that the run published are read back: of several with the same
        key the newest, and one without a key by its id.
    busy: a request to a server that says it is too busy (503) is repeated for a minute; any other
        refusal is final.
    once: a request that is repeated because it was answered with 503 creates no second run; nor
        does a later one for the same deployment with the same key.
    errors: a deployment that does not exist, a parameter that does not fit, is given twice or,
        from Python, is not JSON (such as NaN), an invalid address, a server that does not answer
        and a run that takes too long each give a one-line message and exit status 2. On the
        command line a value that is not JSON, NaN included, is taken as text.

Not for:
    Servers that require a password or a key: add its header in `call`. Code that has Prefect
    installed anyway: `run_deployment` does it in one line.

Costs:
    Four requests, plus one for each poll of the run, a second apart, and one more for each 200
    artifacts.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployments/run-deployments
    - https://docs.prefect.io/v3/api-ref/rest-api
    - Prefect #18934: a server on SQLite that answers 503
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

LOCAL = "http://127.0.0.1:4200/api"
BUSY = 60
"""Seconds that a server may stay busy, as in Prefect's own client."""
LONG = 10_000
"""Artifacts of at least this many characters, such as images, are not printed in full."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class TriggerError(Exception):
    """A failure to trigger or watch a run; its message is one line."""


def call(api: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Send a request to the server's API.

    Args:
        api: The address of the API, which ends in `/api`.
        path: The path of the request, below that address.
        body: What to send as JSON, by POST; without it the request is a GET.

    Returns:
        The JSON of the answer, parsed.

    Raises:
        TriggerError: If the server does not answer, or refuses, or the body is not JSON.
    """
    try:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TriggerError(f"not valid JSON: {error}") from None
    deadline = time.monotonic() + BUSY
    try:
        request = Request(api + path, data, {"Content-Type": "application/json"})
        while True:
            try:
                with urlopen(request, timeout=BUSY) as response:
                    return json.load(response)
            except HTTPError as error:
                # Such as a server on SQLite whose database is locked.
                if error.code != 503 or time.monotonic() > deadline:
                    raise TriggerError(_said(error)) from None
                time.sleep(0.5)
    except (URLError, OSError, HTTPException) as error:
        why = getattr(error, "reason", error)
        raise TriggerError(f"no answer from {api} ({why}): is PREFECT_API_URL right?") from None
    except ValueError:
        raise TriggerError(
            f"{api} is not the API of a Prefect server: set PREFECT_API_URL"
        ) from None


def _said(error: HTTPError) -> str:
    """Return the server's own reason for a refusal."""
    try:
        answer = json.load(error)
        reason = answer.get("detail") or answer.get("exception_detail")
    except (AttributeError, ValueError):  # the answer is not Prefect's
        reason = None
    return f"the server refused ({error.code}): {reason or error.reason}"


def everything(api: str, path: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all items that match a filter, newest first."""
    found: list[dict[str, Any]] = []
    # The server returns at most two hundred items at once, or as many as it is set to.
    while page := call(api, path, {**wanted, "offset": len(found), "sort": "CREATED_DESC"}):
        found += page
    return found


def names(api: str) -> set[str]:
    """Return the names of all deployments on the server, such as `flow/deployment`."""
    deployments = everything(api, "/deployments/filter", {})
    flows = {each["id"]: each["name"] for each in everything(api, "/flows/filter", {})}
    # A flow that was deleted between the two requests took its deployments with it.
    known = (each for each in deployments if each["flow_id"] in flows)
    return {f"{flows[each['flow_id']]}/{each['name']}" for each in known}


def find(api: str, name: str) -> dict[str, Any]:
    """Return the deployment with a name such as `flow/deployment`."""
    try:
        found: dict[str, Any] = call(api, f"/deployments/name/{quote(name)}")
    except TriggerError as error:
        if "(404)" not in str(error):
            raise
        known = ", ".join(sorted(names(api))) or "none"
        raise TriggerError(f'no deployment "{name}" at {api}; there are: {known}') from None
    return found


def start(api: str, name: str, parameters: Mapping[str, Any], key: str | None = None) -> str:
    """Trigger a run of a deployment.

    Args:
        api: The address of the API.
        name: The deployment's name, such as `flow/deployment`.
        parameters: The parameters that differ from the deployment's own.
        key: What the run is for, such as an order number: if it is requested again with the same
            key, the server returns the existing run. By default each call creates a run.

    Returns:
        The run's id.
    """
    deployment = find(api, name)["id"]
    body = {
        "parameters": parameters,
        "state": {"type": "SCHEDULED"},
        # To the server a key belongs to the flow, whichever deployment is meant.
        "idempotency_key": f"{deployment} {uuid.uuid4() if key is None else key}",
    }
    return str(call(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def watch(api: str, run: str, patience: float = 600) -> dict[str, Any]:
    """Wait until a run has ended.

    Args:
        api: The address of the API.
        run: The id of the run.
        patience: How many seconds to wait.

    Returns:
        Its final state: `type`, `name` and `message`.

    Raises:
        TriggerError: If it has not ended by then.
    """
    deadline = time.monotonic() + patience
    while True:
        state: dict[str, Any] = call(api, f"/flow_runs/{run}")["state"]
        if state["type"] in FINAL:
            return state
        if time.monotonic() > deadline:
            raise TriggerError(f"run {run} is {state['name']} after {patience:g} seconds")
        time.sleep(1)


def artifacts(api: str, run: str) -> dict[str, Any]:
    """Return a run's artifacts by key, or by id if they have none; tables are lists of rows."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    return {
        each["key"] or each["id"]: json.loads(each["data"])
        if each["type"] == "table"
        else each["data"]
        for each in reversed(everything(api, "/artifacts/filter", wanted))
        # The value of a flow is stored as an artifact, too, one with neither key nor type.
        if each["key"] or each["type"]
    }


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Parse `name=value` words; a value that is not JSON is taken as text."""
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise TriggerError(f'"{word}" is not a parameter: write name=value')
        if key in parameters:
            raise TriggerError(f'parameter "{key}" is given twice')
        try:
            parameters[key] = json.loads(text)
            json.dumps(parameters[key], allow_nan=False)  # Python reads NaN, which is no JSON
        except ValueError:
            parameters[key] = text
    return parameters


def main(arguments: Sequence[str] = ()) -> int:
    """List the deployments, or start a run of the named one and wait until it has ended.

    Args:
        arguments: `flow/deployment name=value ...`, or nothing to list the deployments.

    Returns:
        0 if the run completed, 1 if it ended otherwise, 2 if it could not be started or watched.
    """
    api = (os.environ.get("PREFECT_API_URL") or LOCAL).rstrip("/")
    try:
        if not arguments:
            print("\n".join(sorted(names(api))) or f"no deployments at {api}")
            return 0
        run = start(api, arguments[0], parsed(arguments[1:]))
        state = watch(api, run)
        print(f"run {run}: {state['name']} {state.get('message') or ''}".rstrip())
        for key, data in artifacts(api, run).items():
            text = json.dumps(data)
            print(f"{key}: {text if len(text) < LONG else text[:60] + '…'}")
    except TriggerError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if state["type"] == "COMPLETED" else 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if status:
        sys.exit(status)
