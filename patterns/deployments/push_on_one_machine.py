# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Push runs from a self-hosted server to a serverless service, without a worker that polls.

Problem:
    A worker polls all day for runs that come twice a week. In Prefect Cloud a push pool passes
    each run to a serverless service; a self-hosted server has no push pools. But it calls
    webhooks when events happen, and the scheduling of a run is an event.

    Two functions are meant for use: `hand_over`, once for each deployment, and `take`, in the
    service before it starts a container with the command `prefect flow-run execute`. The service
    below is a stand-in that shows this on one machine: its jobs are processes.

Guarantees:
    pushed: a run is executed after a single request from the server; no worker or runner has
        ever polled for the deployment. The server may require authentication.
    token: each request carries the token; anyone who reads the server's blocks sees it only by
        explicitly asking for their secrets.
    alone: runs of other deployments are not passed to the service.
    schedules: a run that the deployment's schedule created is passed to the service when it is
        late.
    once: of several callers that take the same run, even at the same moment, one may execute it,
        and none when it is running, waits in its process for a retry of its flow, or has ended. A
        run that was rescheduled after its process was gone may be taken again.
    at-its-time: a run scheduled for later is not taken before its time, and not at all if it is
        cancelled in the meantime.
    failure-shown: a run whose process is killed, for example for lack of memory, is Crashed.
    replaced: calling `hand_over` again for a deployment replaces the address and causes no second
        request; if somebody has disabled the automation, it stays disabled.

Prefect:
    cloud-only (3.8, 3.9): a self-hosted server accepts a push or managed pool, but starts none of
        its runs.
    unmarked (3.8, 3.9): a run that is killed together with the command that executes it, as when
        its whole container is killed, stays Running. `deployments/recover_runs` finds such runs.
    provisioned (3.8, 3.9): `--provision-infra` supports the pool types `cloud-run-v2:push`,
        `ecs:push`, `azure-container-instance:push` and `modal:push`.

Not for:
    Prefect Cloud. `prefect work-pool create --type cloud-run-v2:push --provision-infra NAME`
    creates a push pool there, with what it needs in your cloud account, and
    `prefect work-pool create --type prefect:managed NAME` one that runs on Prefect's machines.
    A deployment's job variables: the service sets the environment of its jobs. Runs for much
    later: `take` sleeps until their time, even if they are cancelled in the meantime, and in the
    stand-in `at_once` such runs keep all others waiting. A service that was down when it was
    called, and a run created in the very second of its deployment's `hand_over`, which the server
    may miss: the service is called when the server finds the run late, and not again after that. A
    service that ends after it has taken a run, before it starts a job: the run stays Pending. Runs
    whose process is gone and that somebody forces to AwaitingRetry: nothing, not even a worker,
    can distinguish them from runs that their own process is retrying. A server on SQLite under
    load: its automations may act late, twice or not at all (`database is locked`).

Costs:
    Nothing between runs. A triggered run is passed to the service in less than a second. A run
    that a schedule creates causes no event until the server marks it late,
    `PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS` (15) after its time; and if it was created
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
    """Make the server call a service for each run of a deployment that is waiting to start.

    Args:
        deployment: The deployment's id; it needs no work pool.
        url: The address at which the service listens.
        token: Proves to the service who is calling; the server stores it encrypted.

    Returns:
        The id of the automation that makes the calls; deleting it stops them.
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
    """Wait until a run is due and take it, as a worker does before it starts a job.

    Args:
        api: The address of the server's API; any credentials it requires come from the settings,
            such as `PREFECT_API_AUTH_STRING`.
        run: The id of the run that the service was called for.

    Returns:
        Whether to start a job: no if somebody else has taken the run, its own process is retrying
        it, it was cancelled, or its deployment's limit is reached. In that last case the server
        emits an event when it is time to try again.
    """
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        # A server lets a run that has ended start again: take only a run that is waiting.
        while (state := (held := client.read_flow_run(run)).state) and state.is_scheduled():
            # A retry of the flow: the run's process is still there, waiting. The server offers
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


# The rest is a stand-in for a service, to show and test the above on one machine. Don't deploy it.


@contextmanager
def serverless(
    api: str, token: str, settings: Mapping[str, str] | None = None, at_once: int = 4
) -> Iterator[str]:
    """Start a process on this machine for each run that is POSTed as `{"run": "<id>"}`.

    Args:
        api: The address of the server's API.
        token: The token that each request must carry.
        settings: Additional environment variables for jobs.
        at_once: How many runs it waits for or executes at once.

    Yields:
        The address to POST to. The block ends once all runs that were POSTed have ended.
    """
    environment = {**os.environ, "PREFECT_API_URL": api, **(settings or {})}

    def look_after(run: UUID) -> None:
        try:
            if take(api, run):
                job = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run)]
                subprocess.run(job, env=environment)
        except Exception:  # nobody reads the result of a job
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
    """Return the weight of a parcel in kilograms."""
    return grams / 1000


async def show() -> None:
    """Deploy a flow, hand it over, trigger a run and wait until it has ended."""
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
    """Show one pushed run."""
    asyncio.run(show())


if __name__ == "__main__":
    main()
