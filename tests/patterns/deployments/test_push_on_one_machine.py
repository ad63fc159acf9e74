# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/push_on_one_machine.py`."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.waiting import patience, wait_until
from patterns.deployments import push_on_one_machine
from patterns.deployments.push_on_one_machine import call, hand_over, serverless

NAME = "deployments/push_on_one_machine"
TOKEN = "let-me-in"
NOTE = 'echo "$PREFECT__FLOW_RUN_ID" >> "$0"'
"""A job that leaves the id of its run in a file."""


def deploy(api: str, **more: Any) -> str:
    """Deploy the pattern's flow to no pool, and return the deployment's id."""
    flow = call(api, "/flows/", {"name": "weigh"})
    file = Path(push_on_one_machine.__file__)
    code = {"path": str(file.parent), "entrypoint": f"{file.name}:weigh"}
    body = {"name": f"pushed-{uuid4()}", "flow_id": flow["id"], **code, **more}
    return str(call(api, "/deployments/", body)["id"])


def ask(api: str, deployment: str, after: float = 0, **more: Any) -> str:
    """Ask for a run in some seconds, and return its id."""
    due = datetime.now(UTC) + timedelta(seconds=after)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
    body = {"state": state, "parameters": {"grams": 1500}, **more}
    return str(call(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def put(api: str, run: str, type: str, name: str, **details: str) -> None:
    """Put a run into a state, whatever its state is."""
    state = {"type": type, "name": name, "state_details": details}
    call(api, f"/flow_runs/{run}/set_state", {"state": state, "force": True})


def post(url: str, body: str, token: str = TOKEN) -> int:
    """Send a service something, and return the status of its answer."""
    request = Request(url, body.encode(), {"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=patience()) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def push(url: str, run: str) -> int:
    """Hand a service a run."""
    return post(url, json.dumps({"run": run}))


def ended(api: str, run: str) -> dict[str, Any]:
    """Wait for the end of a run, and return its state."""

    def final() -> dict[str, Any] | None:
        state: dict[str, Any] = call(api, f"/flow_runs/{run}")["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return dict(wait_until(final))


def lines(file: Path) -> list[str]:
    """Return the lines of a file that may not be there yet."""
    return file.read_text().splitlines() if file.exists() else []


@contextmanager
def handed_over(deployment: str, url: str) -> Iterator[None]:
    """Hand a deployment over for a block."""
    automation = asyncio.run(hand_over(UUID(deployment), url, TOKEN))
    try:
        yield
    finally:
        asyncio.run(take_back(automation))


async def take_back(automation: UUID) -> None:
    """Delete an automation."""
    async with get_client() as client:
        await client.delete_automation(automation)


@pytest.mark.guarantee(NAME, "pushed")
@pytest.mark.parametrize(
    "server", ["prefect_server", pytest.param("live_server", marks=pytest.mark.e2e)]
)
def test_a_run_is_started_and_nobody_polls(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run completes though no worker and no runner has ever polled for its deployment."""
    api = request.getfixturevalue(server)
    deployment = deploy(api)
    home = {"PREFECT_HOME": str(tmp_path)}
    with (
        temporary_settings({PREFECT_API_URL: api}),
        serverless(api, TOKEN, settings=home) as url,
        handed_over(deployment, url),
    ):
        state = ended(api, ask(api, deployment))
    assert (state["type"], state["message"]) == ("COMPLETED", None)
    held = call(api, f"/deployments/{deployment}")
    assert (held["last_polled"], held["work_queue_id"]) == (None, None)
    # What a runner does: the server writes it down.
    polled = {"deployment_ids": [deployment]}
    call(api, "/deployments/get_scheduled_flow_runs", polled)
    wait_until(lambda: call(api, f"/deployments/{deployment}")["last_polled"])


@pytest.mark.guarantee(NAME, "schedules")
def test_runs_of_a_schedule_are_pushed_when_late(
    prefect_server: str, tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """A run that a schedule made, of which no event told, is handed over when it is late."""
    daily = {"schedule": {"interval": 86400, "anchor_date": "2020-01-01T00:00:00Z"}}
    deployment = deploy(prefect_server, schedules=[daily])
    call_nothing(prefect_server, f"/deployments/{deployment}/schedule", {"min_runs": 1})
    wanted = {"deployments": {"id": {"any_": [deployment]}}}
    run = call(prefect_server, "/flow_runs/filter", wanted)[0]["id"]
    command = ("sh", "-c", NOTE, str(tmp_path / "ran"))
    with (
        serverless(prefect_server, TOKEN, command=command) as url,
        handed_over(deployment, url),
    ):
        virtual_clock.advance(600)
        # What a service of the server does with a run that has not begun in time.
        due = datetime.now(UTC).isoformat()
        put(prefect_server, run, "SCHEDULED", "Late", scheduled_time=due)
        assert wait_until(lambda: lines(tmp_path / "ran")) == [run]
        ended(prefect_server, run)


def call_nothing(api: str, path: str, body: dict[str, Any]) -> None:
    """Ask the server for something that it answers with nothing."""
    request = Request(api + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urlopen(request, timeout=patience()).close()


@pytest.mark.guarantee(NAME, "once")
def test_a_run_that_is_handed_over_twice_is_started_once(
    prefect_server: str, tmp_path: Path
) -> None:
    """A run that comes four times at once and again when it has ended has one job."""
    run = ask(prefect_server, deploy(prefect_server))
    command = ("sh", "-c", NOTE, str(tmp_path / "ran"))
    with serverless(prefect_server, TOKEN, limit=4, command=command) as url:
        senders = [threading.Thread(target=push, args=(url, run)) for _ in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        ended(prefect_server, run)
        assert push(url, run) == 202
        other = ask(prefect_server, deploy(prefect_server))
        push(url, other)
        ended(prefect_server, other)
    assert lines(tmp_path / "ran") == [run, other]


def when_due(api: str, run: str) -> datetime:
    """Return when a run is to start."""
    return datetime.fromisoformat(call(api, f"/flow_runs/{run}")["expected_start_time"])


@pytest.mark.guarantee(NAME, "at-its-time")
def test_a_run_for_later_waits_without_a_process(prefect_server: str, tmp_path: Path) -> None:
    """A run for later starts at its time, and one that is cancelled before its time never."""
    deployment = deploy(prefect_server)
    ran = tmp_path / "ran"
    command = ("sh", "-c", NOTE, str(ran))
    # Until the machine was quick enough to cancel the first before its time.
    for seconds in (0.8, 8, 80):
        cancelled = ask(prefect_server, deployment, after=seconds)
        run = ask(prefect_server, deployment, after=1.5 * seconds)
        early, due = (when_due(prefect_server, each) for each in (cancelled, run))
        with serverless(prefect_server, TOKEN, command=command) as url:
            push(url, cancelled)
            push(url, run)
            put(prefect_server, cancelled, "CANCELLED", "Cancelled")
            in_time = datetime.now(UTC) < early
            ended(prefect_server, run)
            assert ran.stat().st_mtime >= due.timestamp()
        if in_time:
            break
    assert lines(ran)[-1] == run
    assert cancelled not in lines(ran)


@pytest.mark.guarantee(NAME, "limit")
def test_no_more_jobs_run_at_once_than_the_limit(prefect_server: str, tmp_path: Path) -> None:
    """Of five runs two have jobs at a time, and all five get one."""
    deployment = deploy(prefect_server)
    runs = [ask(prefect_server, deployment) for _ in range(5)]
    job = 'cd "$0"; echo + >> log; until [ -e go ]; do sleep 0.02; done; sleep 0.05; echo - >> log'
    command = ("sh", "-c", job, str(tmp_path))
    with serverless(prefect_server, TOKEN, limit=2, command=command) as url:
        for run in runs:
            push(url, run)
        wait_until(lambda: len(lines(tmp_path / "log")) >= 2)
        (tmp_path / "go").touch()
        for run in runs:
            ended(prefect_server, run)
    log = lines(tmp_path / "log")
    running = [log[:now].count("+") - log[:now].count("-") for now in range(len(log) + 1)]
    assert (log.count("+"), max(running)) == (5, 2)


@pytest.mark.guarantee(NAME, "environment")
def test_a_job_has_the_variables_of_its_run(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has its deployment's and its run's variables, and no setting of a person."""
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    deployment = deploy(prefect_server, job_variables={"env": {"SCALE": "old", "SHOP": "north"}})
    run = ask(prefect_server, deployment, job_variables={"env": {"SCALE": "new"}})
    command = ("sh", "-c", 'env > "$0.part"; mv "$0.part" "$0"', str(tmp_path / "env"))
    with serverless(prefect_server, TOKEN, command=command, settings={"PREFECT_A": "a"}) as url:
        push(url, run)
        ended(prefect_server, run)
    seen = dict(line.partition("=")[::2] for line in lines(tmp_path / "env"))
    assert {name: text for name, text in seen.items() if "PREFECT_" in name} == {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_A": "a",
        "PREFECT__FLOW_RUN_ID": run,
    }
    assert (seen["SCALE"], seen["SHOP"]) == ("new", "north")


@pytest.mark.guarantee(NAME, "refused")
def test_what_is_refused_starts_nothing(prefect_server: str, tmp_path: Path) -> None:
    """A request with another token is answered 401, one that names no run 400."""
    deployment = deploy(prefect_server)
    refused, run = ask(prefect_server, deployment), ask(prefect_server, deployment)
    command = ("sh", "-c", NOTE, str(tmp_path / "ran"))
    with serverless(prefect_server, TOKEN, command=command) as url:
        assert [post(url, json.dumps({"run": refused}), token) for token in ("", "x")] == [401] * 2
        assert [post(url, body) for body in ("", "{}", "[1]", '{"run": 1}')] == [400] * 4
        assert push(url, run) == 202
        ended(prefect_server, run)
    assert lines(tmp_path / "ran") == [run]
    assert call(prefect_server, f"/flow_runs/{refused}")["state"]["type"] == "SCHEDULED"


@pytest.mark.guarantee(NAME, "failure-shown")
def test_a_job_that_dies_is_seen_at_its_run(prefect_server: str) -> None:
    """The run of a job that dies is Crashed, with its status and its last words."""
    run = ask(prefect_server, deploy(prefect_server))
    with serverless(prefect_server, TOKEN, command=("sh", "-c", "echo no image; exit 3")) as url:
        push(url, run)
        state = ended(prefect_server, run)
    assert state["type"] == "CRASHED"
    assert state["message"] == "the job ended with status 3: no image"


@contextmanager
def recorder(*answers: int) -> Iterator[tuple[str, list[str]]]:
    """Give the address of a service that only writes down which runs it was handed.

    Args:
        answers: The statuses of its first answers; the others are 200.
    """
    runs: list[str] = []
    statuses = iter(answers)

    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            runs.append(json.loads(body)["run"])
            self.send_response(next(statuses, 200))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", runs
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.guarantee(NAME, "busy")
def test_a_busy_server_is_asked_again() -> None:
    """What a server answered 503 is asked once more; another refusal is final."""
    with recorder(503, 200, 404) as (url, asked):
        assert call(url, "/", {"run": "a"}) == {}
        with pytest.raises(HTTPError, match="404"):
            call(url, "/", {"run": "b"})
    assert asked == ["a", "a", "b"]


@pytest.mark.guarantee(NAME, "replaced")
def test_handing_over_again_replaces_the_address(prefect_server: str) -> None:
    """A deployment that is handed over twice is handed to the second address, once per run."""
    deployment = deploy(prefect_server)
    with recorder() as (old, to_old), recorder() as (new, to_new):
        first = asyncio.run(hand_over(UUID(deployment), old, TOKEN))
        with handed_over(deployment, new):
            runs = [ask(prefect_server, deployment) for _ in range(2)]
            wait_until(lambda: len(to_new) >= 2)
            assert (sorted(to_new), to_old) == (sorted(runs), [])
    with pytest.raises(HTTPError, match="404"):
        call(prefect_server, f"/automations/{first}")


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended may not be cleared away yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.guarantee(NAME, "ends")
def test_no_job_outlives_the_service(prefect_server: str, tmp_path: Path) -> None:
    """When the block raises its job ends with what it started, and its run is Crashed."""
    deployment = deploy(prefect_server)
    runs = [ask(prefect_server, deployment) for _ in range(2)]
    later = ask(prefect_server, deployment, after=3600)
    job = f'sleep 600 & echo $! > "$0.child"; {NOTE}; wait'
    command = ("sh", "-c", job, str(tmp_path / "ran"))

    def serve_and_stumble() -> None:
        with serverless(prefect_server, TOKEN, limit=1, command=command) as url:
            for run in (later, *runs):
                push(url, run)
            (begun,) = wait_until(lambda: lines(tmp_path / "ran"))
            put(prefect_server, begun, "RUNNING", "Running")
            raise LookupError("stumbled")

    with pytest.raises(LookupError, match="stumbled"):
        serve_and_stumble()
    (child,) = lines(tmp_path / "ran.child")
    wait_until(lambda: not alive(int(child)))
    (begun,) = lines(tmp_path / "ran")
    states = {run: call(prefect_server, f"/flow_runs/{run}")["state"]["type"] for run in runs}
    assert sorted(states.values()) == ["CRASHED", "SCHEDULED"]
    assert states[begun] == "CRASHED"
    assert call(prefect_server, f"/flow_runs/{later}")["state"]["type"] == "SCHEDULED"
