# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/push_on_one_machine.py`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.infrastructure.provisioners import get_infrastructure_provisioner_for_work_pool_type
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.waiting import patience, wait_until
from patterns.deployments import push_on_one_machine
from patterns.deployments.push_on_one_machine import hand_over, serverless, take
from patterns.deployments.trigger_by_http import TriggerError, call

NAME = "deployments/push_on_one_machine"
TOKEN = "let-me-in"
NOTHING = {"grams": 0}


def deploy(api: str, **more: Any) -> str:
    """Deploy the pattern's flow without a pool, and return the deployment's id."""
    flow = call(api, "/flows/", {"name": "weigh"})
    file = Path(push_on_one_machine.__file__)
    code = {"path": str(file.parent), "entrypoint": f"{file.name}:weigh"}
    body = {"name": f"pushed-{uuid4()}", "flow_id": flow["id"], **code, **more}
    return str(call(api, "/deployments/", body)["id"])


def ask(api: str, deployment: str, after: float = 0, **more: Any) -> str:
    """Request a run that is due in `after` seconds, and return its id."""
    due = datetime.now(UTC) + timedelta(seconds=after)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
    body = {"state": state, "parameters": {"grams": 1500}, **more}
    return str(call(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def put(api: str, run: str, type: str, name: str, **details: str) -> None:
    """Force a run into a state, whatever its current state."""
    state = {"type": type, "name": name, "state_details": details}
    call(api, f"/flow_runs/{run}/set_state", {"state": state, "force": True})


def propose(api: str, run: str, type: str, name: str | None = None) -> None:
    """Propose a state as an engine or an automation does; the server may set a different one."""
    call(api, f"/flow_runs/{run}/set_state", {"state": {"type": type, "name": name}})


def ended(api: str, run: str) -> dict[str, Any]:
    """Wait for the end of a run, and return its state."""

    def final() -> dict[str, Any] | None:
        state: dict[str, Any] = call(api, f"/flow_runs/{run}")["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    def told() -> str:
        states = call(api, f"/flow_run_states/?flow_run_id={run}")
        return f"the end of run {run}: " + ", ".join(
            f"{s['name']} {s['timestamp']}" for s in states
        )

    return dict(wait_until(final, told))


async def take_back(automation: UUID) -> None:
    """Delete an automation."""
    async with get_client() as client:
        await client.delete_automation(automation)


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests on loopback while the block runs, and yield the address."""
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def recorder() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a service that only records the runs handed to it, and this record."""
    runs: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
            runs.append(json.loads(body)["run"])
            self.send_response(200)
            self.end_headers()

    with listening(Recorder) as url:
        yield url, runs


@contextmanager
def handed_over(api: str, deployment: str, url: str) -> Iterator[None]:
    """Hand a deployment over while the block runs, which starts once the server acts on it."""
    automation = asyncio.run(hand_over(UUID(deployment), url, TOKEN))
    try:
        # A server loads automations after it has answered, one after the other: once one that was
        # created later acts, this one does too.
        with recorder() as (there, handed):
            later = deploy(api)
            other = asyncio.run(hand_over(UUID(later), there, TOKEN))
            wait_until(lambda: handed or not ask(api, later), "a hand-over", pause=0.5)
            asyncio.run(take_back(other))
        yield
    finally:
        asyncio.run(take_back(automation))


@pytest.mark.guarantee(NAME, "pushed")
def test_a_run_is_executed_and_nobody_polls(prefect_server: str, tmp_path: Path) -> None:
    """A run completes though no worker and no runner has ever polled for its deployment."""
    deployment = deploy(prefect_server)
    home = {"PREFECT_HOME": str(tmp_path)}
    with (
        serverless(prefect_server, TOKEN, settings=home) as url,
        handed_over(prefect_server, deployment, url),
    ):
        state = ended(prefect_server, ask(prefect_server, deployment))
    assert (state["type"], state["message"]) == ("COMPLETED", None)
    held = call(prefect_server, f"/deployments/{deployment}")
    assert (held["last_polled"], held["work_queue_id"]) == (None, None)
    # A runner polls like this, and the server records it.
    polled = {"deployment_ids": [deployment]}
    call(prefect_server, "/deployments/get_scheduled_flow_runs", polled)
    wait_until(lambda: call(prefect_server, f"/deployments/{deployment}")["last_polled"])


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "pushed")
@pytest.mark.guarantee(NAME, "failure-shown")
@pytest.mark.fact(NAME, "unmarked")
def test_a_run_whose_process_is_killed_is_crashed(live_server: str, tmp_path: Path) -> None:
    """A run is pushed by a live server, and is Crashed after it has killed its own process.

    A run that also kills the command that executes it is still Running when nothing of its job is
    left.
    """
    (tmp_path / "killed.py").write_text(
        "import os, signal\nfrom prefect import flow\n\n@flow\ndef weigh(grams: int) -> None:\n"
        # Without a command in between, as in a mutant, the parent would be this process.
        f"    if grams == 0 and os.getppid() != {os.getpid()}:\n"
        "        os.kill(os.getppid(), signal.SIGKILL)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    deployment = deploy(live_server, path=str(tmp_path), entrypoint="killed.py:weigh")
    home = {"PREFECT_HOME": str(tmp_path / "home")}
    with (
        temporary_settings({PREFECT_API_URL: live_server}),
        serverless(live_server, TOKEN, settings=home) as url,
        handed_over(live_server, deployment, url),
    ):
        run, whole = ask(live_server, deployment), ask(live_server, deployment, parameters=NOTHING)
        assert ended(live_server, run)["type"] == "CRASHED"
        begun = f"/flow_runs/{whole}"
        wait_until(
            lambda: call(live_server, begun)["state"]["name"] not in ("Scheduled", "Pending")
        )
    assert call(live_server, begun)["state"]["name"] == "Running"


@pytest.mark.guarantee(NAME, "schedules")
def test_runs_of_a_schedule_are_pushed_when_late(
    prefect_server: str, virtual_clock: VirtualClock
) -> None:
    """A run from a schedule, which no event announced, is handed over once it is late."""
    daily = {"schedule": {"interval": 86400, "anchor_date": "2020-01-01T00:00:00Z"}}
    deployment = deploy(prefect_server, schedules=[daily])
    call_nothing(prefect_server, f"/deployments/{deployment}/schedule", {"min_runs": 1})
    wanted = {"deployments": {"id": {"any_": [deployment]}}}
    run = call(prefect_server, "/flow_runs/filter", wanted)[0]["id"]
    with recorder() as (url, handed), handed_over(prefect_server, deployment, url):
        virtual_clock.advance(600)
        # A service of the server does this with a run that has not started in time.
        due = datetime.now(UTC).isoformat()
        put(prefect_server, run, "SCHEDULED", "Late", scheduled_time=due)
        wait_until(lambda: handed)
    assert handed == [run]


def call_nothing(api: str, path: str, body: dict[str, Any]) -> None:
    """Send a request to the server whose answer has no body."""
    request = Request(api + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urlopen(request, timeout=patience()).close()


@pytest.mark.guarantee(NAME, "token")
@pytest.mark.guarantee(NAME, "alone")
@pytest.mark.guarantee(NAME, "replaced")
def test_handing_over_again_replaces_the_address(prefect_server: str) -> None:
    """A deployment that is handed over twice is pushed to the second address only, once per run.

    Each request carries the token, which the server reveals only when asked for secrets. A run of
    another deployment, triggered earlier, is not handed over.
    """
    deployment, other = deploy(prefect_server), deploy(prefect_server)
    with recorder() as (old, to_old), recorder() as (new, to_new):
        first = asyncio.run(hand_over(UUID(deployment), old, TOKEN))
        with handed_over(prefect_server, deployment, new):
            ask(prefect_server, other)
            runs = [ask(prefect_server, deployment) for _ in range(2)]
            wait_until(lambda: len(to_new) >= 2)
            assert (sorted(to_new), to_old) == (sorted(runs), [])
    with pytest.raises(TriggerError, match="404"):
        call(prefect_server, f"/automations/{first}")
    for secrets in (False, True):
        blocks = call(prefect_server, "/block_documents/filter", {"include_secrets": secrets})
        (block,) = [each for each in blocks if each["name"] == f"push-{deployment}"]
        assert "Authorization" in str(block)
        assert (TOKEN in str(block)) == secrets


@pytest.mark.guarantee(NAME, "replaced")
def test_a_hand_over_that_was_disabled_stays_disabled(prefect_server: str) -> None:
    """A disabled hand-over is still disabled when repeated; another deployment's is enabled."""
    deployment, other = UUID(deploy(prefect_server)), UUID(deploy(prefect_server))

    async def enabled() -> list[bool]:
        async with get_client() as client:
            first = await hand_over(deployment, "http://127.0.0.1:1", TOKEN)
            await client.pause_automation(first)
            ids = [
                await hand_over(each, "http://127.0.0.1:1", TOKEN) for each in (deployment, other)
            ]
            found = [await client.read_automation(each) for each in ids]
            for each in ids:
                await client.delete_automation(each)
        return [each.enabled for each in found if each]

    assert asyncio.run(enabled()) == [False, True]


@pytest.mark.guarantee(NAME, "pushed")
def test_a_server_may_require_authentication() -> None:
    """The request for a run carries the authentication string from the settings."""
    given: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers["Authorization"])
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with (
        listening(Server) as url,
        temporary_settings({PREFECT_API_AUTH_STRING: "admin:let-me-in"}),
        pytest.raises(ObjectNotFound),
    ):
        take(f"{url}/api", uuid4())
    assert set(given) == {f"Basic {base64.b64encode(b'admin:let-me-in').decode()}"}


@pytest.mark.guarantee(NAME, "pushed")
def test_why_a_run_is_not_started_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """If a run can't be taken, the stand-in's log says which one and why."""
    run = str(uuid4())
    with serverless("http://127.0.0.1:1/api", TOKEN) as url:
        request = Request(url, json.dumps({"run": run}).encode())
        request.add_header("Authorization", f"Bearer {TOKEN}")
        urlopen(request, timeout=patience()).close()
    assert f"run {run} was not started" in caplog.text
    assert "ConnectError" in caplog.text


@pytest.mark.guarantee(NAME, "once")
def test_a_run_is_taken_once(prefect_server: str) -> None:
    """Of four parallel attempts to take a run one succeeds, and none once it runs or has ended."""
    run = ask(prefect_server, deploy(prefect_server))
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: take(prefect_server, UUID(run)), range(4)))
    assert sorted(taken) == [False, False, False, True]
    for type, name in (("RUNNING", "Running"), ("COMPLETED", "Completed")):
        put(prefect_server, run, type, name)
        assert not take(prefect_server, UUID(run))


@pytest.mark.guarantee(NAME, "once")
def test_a_run_that_its_process_retries_is_not_taken(prefect_server: str) -> None:
    """A flow's own retry is left to its process; a run rescheduled after a crash is taken."""
    policy = {"retries": 4, "retry_delay": 0}
    run = ask(prefect_server, deploy(prefect_server), empirical_policy=policy)
    assert take(prefect_server, UUID(run))
    for type in ("RUNNING", "FAILED"):
        propose(prefect_server, run, type)
    # The server turns the failure into this state, and reports it as for any run that waits.
    assert call(prefect_server, f"/flow_runs/{run}")["state"]["name"] == "AwaitingRetry"
    assert not take(prefect_server, UUID(run))
    for type, name in (("CRASHED", "Crashed"), ("SCHEDULED", "AwaitingRetry")):
        propose(prefect_server, run, type, name)
    assert take(prefect_server, UUID(run))


@pytest.mark.guarantee(NAME, "at-its-time")
def test_a_run_for_later_is_taken_at_its_time(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run due later is taken at its time, and not at all if it is cancelled before then."""
    deployment = deploy(prefect_server)
    run = ask(prefect_server, deployment, after=1)
    due = datetime.fromisoformat(call(prefect_server, f"/flow_runs/{run}")["expected_start_time"])
    assert take(prefect_server, UUID(run))
    assert datetime.now(UTC) >= due
    later = ask(prefect_server, deployment, after=3600)

    def cancel(seconds: float) -> None:
        put(prefect_server, later, "CANCELLED", "Cancelled")

    monkeypatch.setattr(push_on_one_machine, "time", SimpleNamespace(time=time.time, sleep=cancel))
    assert not take(prefect_server, UUID(later))


@pytest.mark.nightly
@pytest.mark.fact(NAME, "cloud-only")
@pytest.mark.parametrize("type", ["cloud-run-v2:push", "prefect:managed"])
def test_a_self_hosted_server_starts_no_run_of_a_cloud_pool(live_server: str, type: str) -> None:
    """The server accepts the pool, but a run in it becomes Late."""
    pool = f"of-{type.replace(':', '-')}"
    call(live_server, "/work_pools/", {"name": pool, "type": type, "base_job_template": {}})
    run = ask(live_server, deploy(live_server, work_pool_name=pool), after=-60)
    wait_until(lambda: call(live_server, f"/flow_runs/{run}")["state"]["name"] == "Late")


@pytest.mark.fact(NAME, "provisioned")
def test_prefects_command_provisions_push_pools() -> None:
    """`prefect work-pool create --provision-infra` has code for each of the types."""
    for cloud in ("cloud-run-v2", "ecs", "azure-container-instance", "modal"):
        assert get_infrastructure_provisioner_for_work_pool_type(f"{cloud}:push")
    with pytest.raises(ValueError, match="cloud-run-v3"):
        get_infrastructure_provisioner_for_work_pool_type("cloud-run-v3:push")
