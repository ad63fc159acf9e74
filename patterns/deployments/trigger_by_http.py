# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Start a deployed flow and read back what it made, by plain HTTP and without Prefect.

Problem:
    A web service, a machine on the factory floor or a script in another language must start a
    flow and know how it ended, where nobody wants to install an orchestrator.

Guarantees:
    standard: it needs the standard library only; Prefect is not imported, nor installed.
    same: `prefect deployment run --watch`, `run_deployment` in Python and this file start the
        same run: same deployment, same parameters, same end.
    listed: without arguments it lists all deployments that the server knows, also where the
        server tells them in parts.
    watched: it waits for the end of the run and says how it ended, and whether that was well.
    artifacts: the tables and texts that the run published are read back, all of them: of those
        with one key the newest, and one without a key by its id.
    busy: a server that says it is too busy (503) is asked again for a minute; another refusal
        is final.
    once: a request that is repeated, because it was answered 503, makes no second run; nor does
        a later one for the same deployment with the same key.
    errors: a deployment that is not there, a parameter that does not fit, is given twice or, from
        Python, is no JSON (such as NaN), an address that is none, a server that does not answer
        and a run that takes too long are one line each, and status 2. On the command line a value
        that is no JSON, be it NaN, is text.

Not for:
    Servers that ask for a password or a key: add their header in `call`. Code that has Prefect
    installed anyway: `run_deployment` does it in one line.

Costs:
    Four requests and one for each look at the run, a second apart; one more for each 200
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
"""Seconds that a server may be busy, as Prefect's own client has it."""
LONG = 10_000
"""Characters from which on an artifact, such as an image, is not printed whole."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class TriggerError(Exception):
    """What went wrong, in one line."""


def call(api: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask the server for something.

    Args:
        api: Its address, which ends in `/api`.
        path: Of the request; with a body it is a POST.
        body: What is sent, as JSON.

    Returns:
        What it answered.

    Raises:
        TriggerError: If it does not answer, or refuses, or what is sent is no JSON.
    """
    try:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TriggerError(f"this is no JSON: {error}") from None
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
    except (AttributeError, ValueError):  # it is not of Prefect
        reason = None
    return f"the server refused ({error.code}): {reason or error.reason}"


def everything(api: str, path: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all that a filter finds, the newest first."""
    found: list[dict[str, Any]] = []
    # The server tells no more than two hundred things at once, or what it is set to.
    while page := call(api, path, {**wanted, "offset": len(found), "sort": "CREATED_DESC"}):
        found += page
    return found


def names(api: str) -> set[str]:
    """Return the names of the deployments that the server knows, such as `flow/deployment`."""
    deployments = everything(api, "/deployments/filter", {})
    flows = {each["id"]: each["name"] for each in everything(api, "/flows/filter", {})}
    # A flow that was deleted between the two requests took its deployments along.
    known = (each for each in deployments if each["flow_id"] in flows)
    return {f"{flows[each['flow_id']]}/{each['name']}" for each in known}


def find(api: str, name: str) -> dict[str, Any]:
    """Return the deployment of a name such as `flow/deployment`."""
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
        api: The address of the server.
        name: Of the deployment, such as `flow/deployment`.
        parameters: Those that differ from the deployment's own.
        key: What the run is for, such as the number of an order: asked for again with the same
            key, the server gives the run that it has. By default each call makes a run.

    Returns:
        The run's id.
    """
    deployment = find(api, name)["id"]
    body = {
        "parameters": parameters,
        "state": {"type": "SCHEDULED"},
        # The server holds a key to be one of the flow's, whichever deployment is meant.
        "idempotency_key": f"{deployment} {uuid.uuid4() if key is None else key}",
    }
    return str(call(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def watch(api: str, run: str, patience: float = 600) -> dict[str, Any]:
    """Wait until a run has ended.

    Args:
        api: The address of the server.
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
    """Return what a run published, its tables as lists of rows, by key, or else by id."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    return {
        each["key"] or each["id"]: json.loads(each["data"])
        if each["type"] == "table"
        else each["data"]
        for each in reversed(everything(api, "/artifacts/filter", wanted))
        # The value of a flow is kept as an artifact, too, which has neither.
        if each["key"] or each["type"]
    }


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` words; a value that is not JSON is text."""
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise TriggerError(f'"{word}" is no parameter: write name=value')
        if key in parameters:
            raise TriggerError(f'parameter "{key}" is given twice')
        try:
            parameters[key] = json.loads(text)
            json.dumps(parameters[key], allow_nan=False)  # Python reads NaN, which is no JSON
        except ValueError:
            parameters[key] = text
    return parameters


def main(arguments: Sequence[str] = ()) -> int:
    """List the deployments, or start the one that is named and wait for its end.

    Args:
        arguments: `flow/deployment name=value ...`.

    Returns:
        0 if the run completed, 1 if it ended otherwise, 2 if it could not be started.
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
