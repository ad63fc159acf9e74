# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Push each run from a self-hosted server to a serverless service; no worker polls for it.

Problem:
    A worker polls all day for runs that come twice a week. In Prefect Cloud a push pool hands
    each run to a serverless service; a self-hosted server has no push pools. But it calls
    webhooks when events happen, and a run that is scheduled is an event.

    To deploy are `hand_over`, once for each deployment, and `take`, in the service before it
    starts a container with the command `prefect flow-run execute`. The service below is a
    stand-in that shows this on one machine: its jobs are processes.

Guarantees:
    pushed: a run is executed after one request that the server makes; no worker and no runner
        has ever polled for the deployment. The server may ask for authentication.
    token: each request has the token; who reads the server's blocks sees it only by asking for
        their secrets.
    alone: runs of other deployments are not handed over.
    schedules: a run that the deployment's schedule made is handed over when it is late.
    once: of several that take one run, also at the same moment, one may execute it, and none
        when it runs, waits in its process for a retry of its flow, or has ended. A run that was
        rescheduled after its process is gone may be taken again.
    at-its-time: a run for later is not taken before its time, and not at all if it is cancelled
        meanwhile.
    failure-shown: a run whose process is killed, as for want of memory, is Crashed.
    replaced: handing a deployment over again replaces the address and makes no second request;
        where somebody has disabled it, it stays so.

Prefect:
    cloud-only (3.8, 3.9): a self-hosted server takes a push or managed pool, and starts no run
        of it.
    unmarked (3.8, 3.9): a run that is killed together with the command that executes it, as when
        its whole container is, stays Running. `deployments/recover_runs` finds such runs.
    provisioned (3.8, 3.9): `--provision-infra` knows the pool types `cloud-run-v2:push`,
        `ecs:push`, `azure-container-instance:push` and `modal:push`.

Not for:
    Prefect Cloud. `prefect work-pool create --type cloud-run-v2:push --provision-infra NAME`
    makes a push pool there, with what it needs in your cloud account, and
    `prefect work-pool create --type prefect:managed NAME` one that runs on Prefect's machines.
    A deployment's job variables: a service gives its jobs their environment. Runs for much later:
    `take` sleeps until their time, also where they are cancelled meanwhile, and in the stand-in
    `at_once` such runs keep all others waiting. A service that was away when it was called, and a
    run of the second in which its deployment is handed over, which the server may miss: it is
    called when the server finds the run late, and after that no more. One that ends after it has
    taken a run, before it starts a job: the run stays Pending. Runs whose process is gone and that
    somebody forces to AwaitingRetry: nobody, no worker either, tells them from those that their
    process retries. A server on SQLite under load: its automations may act late, twice or not at
    all (`database is locked`).

Costs:
    Nothing between runs. A run that is triggered is handed over in less than a second. One that
    a schedule makes is no event until the server calls it late,
    `PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS` (15) after its time; and if it was made
    less than five minutes before that, the server holds the event back for a quarter of an hour.

Sources:
    - https://docs.prefect.io/v3/concepts/automations (the action that calls a webhook)
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/serverless
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/managed
    - Prefect #12728: the action `call-webhook`
    - Prefect #18934: `database is locked` on SQLite
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.events import AutomationCore, CallWebhook, EventTrigger
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from prefect.types import SecretDict
from pydantic import SecretStr

WAITING = ("Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot", "Resuming")
"""The names of the states in which a run waits to be started."""


async def hand_over(deployment: UUID, url: str, token: str) -> UUID:
    """Let the server call a service for each run of a deployment that waits to be started.

    Args:
        deployment: The deployment's id; it needs no work pool.
        url: Where the service listens.
        token: What proves to the service who calls; the server keeps it encrypted.

    Returns:
        The id of the automation that calls; deleting it ends the hand-over.
    """
    name = f"push-{deployment}"
    headers = SecretDict({"Authorization": f"Bearer {token}"})
    webhook = Webhook(url=SecretStr(url), headers=headers)
    automation = AutomationCore(
        name=name,
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in WAITING},
            match_related={
                "prefect.resource.id": f"prefect.deployment.{deployment}",
                "prefect.resource.role": "deployment",
            },
        ),
        actions=[
            CallWebhook(
                block_document_id=await webhook.asave(name, overwrite=True),
                payload="""{"run": "{{ event.resource.id | replace('prefect.flow-run.', '') }}"}""",
            )
        ],
    )
    async with get_client() as client:
        before = await client.read_automations_by_name(name)
        automation.enabled = all(each.enabled for each in before)
        created = await client.create_automation(automation)
        for each in before:
            await client.delete_automation(each.id)
    return created


def take(api: str, run: UUID) -> bool:
    """Wait for a run's time and take it, as a worker does before it starts a job.

    Args:
        api: The address of the server's API; the settings say what it asks for, such as
            `PREFECT_API_AUTH_STRING`.
        run: The run that was handed over.

    Returns:
        Whether to start a job: not if another has taken the run, or its own process retries it,
        or it was cancelled, or its deployment's limit is reached. In that last case the server
        makes an event when to try again.
    """
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        # A server lets a run that has ended begin again: only one that waits may be taken.
        while (state := (held := client.read_flow_run(run)).state) and state.is_scheduled():
            # A flow's own retry: the process that runs it is there, and waits. The server offers
            # such a run to no worker either.
            if state.name == "AwaitingRetry" and held.empirical_policy.retry_type == "in_process":
                return False
            due = state.state_details.scheduled_time
            left = due.timestamp() - time.time() if due else 0
            if left <= 0:
                pending: State[Any] = Pending()
                return client.set_flow_run_state(run, pending).status is SetStateStatus.ACCEPT
            time.sleep(left)
    return False


# What follows stands in for a service, to show and test the above on one machine. Don't deploy it.


@contextmanager
def serverless(
    api: str, token: str, settings: Mapping[str, str] | None = None, at_once: int = 4
) -> Iterator[str]:
    """Start a process on this machine for each run that is POSTed as `{"run": "<id>"}`.

    Args:
        api: The address of the server's API.
        token: What each request must bring.
        settings: More environment variables for jobs.
        at_once: How many runs are waited for or executed at once.

    Yields:
        Where to POST. It ends when the runs that it was handed have ended.
    """
    environment = {**os.environ, "PREFECT_API_URL": api, **(settings or {})}

    def look_after(run: UUID) -> None:
        try:
            if take(api, run):
                job = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run)]
                subprocess.run(job, env=environment)
        except Exception:  # nobody asks a job how it ended
            get_logger().exception("run %s was not started", run)

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            given = self.headers["Authorization"] or ""
            known = hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
            if known:
                jobs.submit(look_after, UUID(json.loads(body)["run"]))
            self.send_response(202 if known else 401)
            self.end_headers()

    with (
        ThreadPoolExecutor(at_once) as jobs,
        ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server,
        ThreadPoolExecutor(1) as listening,
    ):
        listening.submit(server.serve_forever, 0.05)
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@flow
def weigh(grams: int) -> float:
    """Return the kilograms of a parcel."""
    return grams / 1000


async def show() -> None:
    """Deploy a flow, hand it over, ask for a run and wait for its end."""
    here = Path(__file__)
    source: Any = await weigh.from_source(str(here.parent), f"{here.name}:weigh")  # type: ignore[misc]
    deployment = await source.to_deployment("pushed")
    id_ = await deployment.apply()
    token = secrets.token_urlsafe()
    async with get_client() as client:
        api = str(client.api_url).rstrip("/")
        with (
            tempfile.TemporaryDirectory() as home,
            serverless(api, token, settings={"PREFECT_HOME": home}) as url,
        ):
            automation = await hand_over(id_, url, token)
            run = await client.create_flow_run_from_deployment(id_, parameters={"grams": 1500})
            while not (run.state and run.state.is_final()):
                await asyncio.sleep(0.2)
                run = await client.read_flow_run(run.id)
            await client.delete_automation(automation)
        polled = (await client.read_deployment(id_)).last_polled
    print(f"run {run.name}: {run.state and run.state.name}; last polled: {polled or 'never'}")


def main() -> None:
    """Show one run that is pushed."""
    asyncio.run(show())


if __name__ == "__main__":
    main()
