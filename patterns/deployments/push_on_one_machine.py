# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151", "sqlalchemy<2.1", "pydantic>=2.10,<3"]
# ///
"""Push each run from a self-hosted server to a serverless service, all of it on one machine.

Problem:
    A worker polls all day for runs that come twice a week. In Prefect Cloud a push pool hands
    each run to a serverless service; a self-hosted server has no push pools. But it calls
    webhooks when events happen, and a run that is scheduled is an event. The service here is a
    small stand-in on loopback, and a job is a process; nothing of it is a mock.

Guarantees:
    pushed: a run is started by one request that the server makes; no worker and no runner has
        ever polled for the deployment.
    schedules: a run that the deployment's schedule made is handed over when it is late.
    once: a run that is handed over twice, also at the same moment, is started once.
    at-its-time: a run for later has no process before its time; if it is cancelled meanwhile
        it never gets one.
    limit: no more jobs run at once than the limit; the rest start as jobs end.
    environment: a job has the server's address, the settings given and the variables of its
        deployment and its run, and no `PREFECT_` variable of whoever started the service.
    refused: a request without the token starts nothing, nor does one that names no run.
    failure-shown: the run of a job that dies is Crashed and says with which words.
    busy: a server that is too busy to answer (503) is asked again, for six seconds.
    replaced: handing a deployment over again replaces the address and makes no second request.
    ends: after the block no job is left, also if the block raised, and no run stays Running.

Not for:
    Jobs on other machines: put a real service's address and token in `hand_over`. Ending a job
    whose run is cancelled while it runs. A service that was away when it was called: it is
    called again when the server finds the run late, and after that no more.

Costs:
    A process for each run, and nothing between runs. A run that is asked for is handed over in
    less than a second. One that a schedule makes is no event until the server calls it late,
    `PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS` (15) after its time; and if it was made
    less than five minutes before that, the server holds the event back for a quarter of an hour.

Sources:
    - https://docs.prefect.io/v3/concepts/automations (the action that calls a webhook)
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/serverless
    - Prefect #12728: the action `call-webhook`
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events import AutomationCore, CallWebhook, EventTrigger
from prefect.types import SecretDict
from pydantic import SecretStr

ENGINE = (sys.executable, "-m", "prefect.engine")
"""What a process worker starts too; the run's id is in `PREFECT__FLOW_RUN_ID`."""
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
        created = await client.create_automation(automation)
        for each in before:
            await client.delete_automation(each.id)
    return created


@contextmanager
def serverless(
    api: str,
    token: str,
    limit: int = 2,
    command: Sequence[str] = ENGINE,
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a service on this machine alone that starts a process for each run it is handed.

    Args:
        api: The address of the server's API.
        token: What each request must bring, as `Authorization: Bearer <token>`.
        limit: How many jobs run at once.
        command: What a job is; it runs in an empty folder of its own.
        settings: More of Prefect's settings for jobs, by the names of their variables.

    Yields:
        Where to POST `{"run": "<id>"}`; it is answered at once, before the job runs.
    """
    settings = {"PREFECT_API_URL": api, **(settings or {})}
    jobs = Jobs(api, command, settings, threading.Semaphore(limit))
    server = ThreadingHTTPServer(("127.0.0.1", 0), listener(jobs, token))
    server.daemon_threads = False  # so that closing waits for requests that are being answered
    listening = threading.Thread(target=server.serve_forever, args=(0.05,))
    listening.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        listening.join()
        server.server_close()
        jobs.close()


def listener(jobs: Jobs, token: str) -> type[BaseHTTPRequestHandler]:
    """Return what answers a request: 202 if it is taken, 401 without the token, 400 if garbled."""

    class Listener(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers["Content-Length"] or 0), 1000))
            given = self.headers["Authorization"] or ""
            # In constant time: how long it takes says nothing about how much of it is right.
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return self.answer(401)
            try:
                jobs.take(UUID(json.loads(body)["run"]))
            except (AttributeError, KeyError, TypeError, ValueError):
                return self.answer(400)
            return self.answer(202)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what becomes of a run is in its state."""

    return Listener


@dataclass(frozen=True)
class Jobs:
    """The jobs of a service: a thread, and in its time a process, for each run it was handed."""

    api: str
    command: Sequence[str]
    settings: Mapping[str, str]
    slots: threading.Semaphore
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: set[UUID] = field(default_factory=set)
    threads: dict[UUID, threading.Thread] = field(default_factory=dict)
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def take(self, run: UUID) -> None:
        """Look after a run, which may be looked after already."""
        with self.lock:
            self.asked.add(run)
            if run not in self.threads:
                self.threads[run] = threading.Thread(target=self._look_after, args=(run,))
                self.threads[run].start()

    def close(self) -> None:
        """End all jobs and start no more."""
        self.closing.set()
        for thread in list(self.threads.values()):
            while thread.is_alive():
                for process in list(self.processes):
                    kill(process)
                thread.join(0.1)

    def _look_after(self, run: UUID) -> None:
        # What was asked for while its job ran is looked at when the job has ended: a run can
        # be scheduled again, such as for a retry.
        while self._still_asked(run):
            with suppress(OSError):  # the server is away: the run will be late, and asked for
                self._start(run)

    def _still_asked(self, run: UUID) -> bool:
        with self.lock:
            if run in self.asked:
                self.asked.remove(run)
                return True
            del self.threads[run]
            return False

    def _start(self, run: UUID) -> None:
        due = call(self.api, f"/flow_runs/{run}")["state"]["state_details"]["scheduled_time"]
        if due:
            left = datetime.fromisoformat(due) - datetime.now(UTC)
            self.closing.wait(left.total_seconds())
        with self.slots:
            before = call(self.api, f"/flow_runs/{run}")
            if before["state"]["type"] != "SCHEDULED" or self.closing.is_set():
                return  # it was cancelled, or has run
            end = self._run_job(before)
        after = call(self.api, f"/flow_runs/{run}")["state"]
        if after["id"] == before["state"]["id"] or after["type"] in ("PENDING", "RUNNING"):
            crashed = {"type": "CRASHED", "name": "Crashed", "message": end}
            call(self.api, f"/flow_runs/{run}/set_state", {"state": crashed})

    def _run_job(self, run: Mapping[str, Any]) -> str:
        """Run a job until it ends, and return how it did."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=self._environment(run),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            self.processes.add(process)
            status = process.wait()
            self.processes.discard(process)
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"the job ended with status {status}: {last or 'it said nothing'}"

    def _environment(self, run: Mapping[str, Any]) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if "PREFECT_" not in name}
        deployment = call(self.api, f"/deployments/{run['deployment_id']}")
        return {
            **inherited,
            **self.settings,
            **deployment["job_variables"].get("env", {}),
            **run["job_variables"].get("env", {}),
            "PREFECT__FLOW_RUN_ID": run["id"],
        }


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a job and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def call(api: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask the server for something, and return what it answered."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(api + path, data, {"Content-Type": "application/json"})
    for pause in (0.2, 1, 5, None):
        try:
            with urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except HTTPError as error:
            # SQLite has one writer: a server that uses it answers so to whoever comes second.
            if error.code != 503 or pause is None:
                raise
            time.sleep(pause)


@flow
def weigh(grams: int) -> float:
    """Return the kilograms of a parcel."""
    return grams / 1000


async def show() -> None:
    """Deploy a flow, hand it over, ask for a run and wait for its end."""
    here = Path(__file__)
    source: Any = await weigh.from_source(str(here.parent), f"{here.name}:weigh")  # type: ignore[misc]
    deployment = await source.to_deployment("pushed")
    id = await deployment.apply()
    token = secrets.token_urlsafe()
    async with get_client() as client:
        api = str(client.api_url).rstrip("/")
        with (
            tempfile.TemporaryDirectory() as home,
            serverless(api, token, settings={"PREFECT_HOME": home}) as url,
        ):
            automation = await hand_over(id, url, token)
            run = await client.create_flow_run_from_deployment(id, parameters={"grams": 1500})
            async with asyncio.timeout(50):
                while not (run.state and run.state.is_final()):
                    await asyncio.sleep(0.2)
                    run = await client.read_flow_run(run.id)
            await client.delete_automation(automation)
        polled = (await client.read_deployment(id)).last_polled
    print(f"run {run.name}: {run.state and run.state.name}; last polled: {polled or 'never'}")


def main() -> None:
    """Show one run that is pushed."""
    asyncio.run(show())


if __name__ == "__main__":
    main()
