# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/notify.py`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import State
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import UnfinishedRun, UpstreamTaskError
from prefect.server.events.schemas.automations import EventTrigger, Posture
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Failed, Running
from prefect.task_runners import TaskRunner

from flowgauge import VirtualClock
from flowgauge.waiting import patience, wait_until
from patterns.flows.notify import (
    FROM_SERVER,
    fetch_page,
    main,
    name_task,
    print_catalogue,
    tell,
    tell_from_server,
)
from tests.conftest import Start, environment

NAME = "flows/notify"
BLOCK = "test-alerts"


class Inbox(ThreadingHTTPServer):
    """A webhook on loopback that keeps what arrives, and may answer badly."""

    daemon_threads = True

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 204
        self.drips = False
        self.hung_up = threading.Event()
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        """Return the address."""
        return f"http://127.0.0.1:{self.server_port}/alerts"

    @property
    def message(self) -> dict[str, Any]:
        """Return the only message, and forget it."""
        (message,) = self.messages
        self.messages.clear()
        return message


class _Answer(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(200 if self.server.drips else self.server.status)
        self.end_headers()
        if self.server.drips:
            with suppress(OSError):
                # Long enough for every limit of a single read, and no longer than a patient test.
                for _ in range(int(patience() / 5 / 0.1)):
                    self.wfile.write(b".")
                    threading.Event().wait(0.1)
                return
            self.server.hung_up.set()

    def log_message(self, *words: object) -> None:
        """Log nothing."""


@pytest.fixture
def listening() -> Iterator[Inbox]:
    """Yield a webhook that listens."""
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def inbox(prefect_server: str, listening: Inbox) -> Inbox:
    """Return the webhook to which the block of the tests points."""
    save_block(listening.url)
    return listening


def save_block(url: str) -> None:
    """Save the block of the tests."""
    block: Any = Webhook(url=url)  # type: ignore[arg-type]
    block.save(BLOCK, overwrite=True)


def hooks(seconds: float = 300) -> Any:
    """Return the hooks of a flow that tells."""
    return [tell(BLOCK, patience(seconds))]


def ended(body: Any, **options: Any) -> Any:
    """Return the final state of a flow with the hook; if the flow is async, await it."""
    books: Any = flow(name="books", on_failure=hooks(), **options)(body)
    return books(return_state=True)


class OutOfPaper(Exception):
    """An error whose arguments can only be named."""

    def __init__(self, *, sheets: int) -> None:
        super().__init__(f"{sheets} sheets are missing")


@pytest.mark.guarantee(NAME, "error")
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1))
@example(text='a "quoted" <b>\n{{ brace }} \u20ac')
def test_the_message_has_the_run_and_the_error(inbox: Inbox, text: str) -> None:
    """The message has the flow, the run, its state, and the type and text of its error."""
    inbox.messages.clear()

    def books() -> None:
        raise LookupError(text)

    state = ended(books)
    with get_client(sync_client=True) as client:
        assert state.state_details.flow_run_id
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert inbox.message == {
        "flow": "books",
        "run": run.name,
        "run_id": str(run.id),
        "state": "Failed",
        "errors": [f"LookupError: {text}"],
    }


@pytest.mark.guarantee(NAME, "error")
def test_each_error_of_a_group_is_told(inbox: Inbox) -> None:
    """Each error of a nested ExceptionGroup is told, followed by the one it was raised from."""

    def books() -> None:
        inner = OutOfPaper(sheets=2)
        inner.__cause__ = OSError("tray")
        deeper = ExceptionGroup("some", [inner, KeyError("ink")])
        raise ExceptionGroup("all", [ValueError("first"), deeper]) from TypeError("not told")

    ended(books)
    assert inbox.message["errors"] == [
        "ValueError: first",
        "OutOfPaper: 2 sheets are missing",
        "OSError: tray",
        "KeyError: 'ink'",
    ]


@pytest.mark.guarantee(NAME, "error")
def test_a_flow_that_takes_too_long_is_told(inbox: Inbox) -> None:
    """A flow that exceeds its time limit is told, with the name of its state."""

    async def books() -> None:
        await asyncio.sleep(patience())

    state: Any = asyncio.run(ended(books, timeout_seconds=0.01))
    assert state.is_failed()
    message = inbox.message
    assert message["state"] == "TimedOut"
    assert message["errors"][0].startswith("FlowRunTimeoutError: ")


@pytest.mark.guarantee(NAME, "task")
def test_the_task_is_told(inbox: Inbox, task_runner: TaskRunner[Any]) -> None:
    """The message has the name and id of the failed task run, on every task runner."""

    def books() -> None:
        future: Any = fetch_page.submit(3)
        failed.append(future)
        future.result()

    failed: list[Any] = []
    ended(books, task_runner=task_runner)
    (future,) = failed
    (error,) = inbox.message["errors"]
    assert error.startswith("ConnectionError: no page 3, in task run fetch_page-")
    assert error.endswith(f" ({future.task_run_id})")


@pytest.mark.guarantee(NAME, "task")
@pytest.mark.parametrize("persist_result", [False, True])
def test_the_tasks_of_an_error_are_told_from_the_inside(inbox: Inbox, persist_result: bool) -> None:
    """An error that passes through two tasks has both, the inner first; a wrapped one keeps its."""

    @task(on_failure=[name_task], persist_result=persist_result)
    def shelf() -> None:
        raise OutOfPaper(sheets=1)

    @task(on_failure=[name_task], persist_result=persist_result)
    def cabinet() -> None:
        shelf()

    def books() -> None:
        try:
            cabinet()
        except OutOfPaper as error:
            raise RuntimeError("no books") from error

    ended(books)
    outer, inner = inbox.message["errors"]
    assert outer == "RuntimeError: no books"
    words = inner.split(", in task run ")
    assert words[0] == "OutOfPaper: 1 sheets are missing"
    assert [word.partition("-")[0] for word in words[1:]] == ["shelf", "cabinet"]


@pytest.mark.guarantee(NAME, "upstream")
@pytest.mark.fact(NAME, "pending")
def test_the_failure_behind_a_task_that_did_not_run_is_told(
    inbox: Inbox, task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """The flow's own error names no cause (#14775); what is told is the failed task's error."""
    state: Any = print_catalogue.with_options(on_failure=hooks(), task_runner=task_runner)(
        5, return_state=True
    )
    expected = UpstreamTaskError if runner_name == "processes" else UnfinishedRun
    assert type(state.result(raise_on_failure=False)) is expected
    (error,) = inbox.message["errors"]
    assert "ConnectionError: no page 3, in task run fetch_page-" in error


@pytest.mark.guarantee(NAME, "upstream")
def test_no_failed_task_is_known(inbox: Inbox, virtual_clock: VirtualClock) -> None:
    """If the server knows of no failed task run, the flow's own error is told."""
    virtual_clock.skip_sleep()

    def books() -> None:
        raise UnfinishedRun("out of the blue")

    ended(books)
    assert inbox.message["errors"] == ["UnfinishedRun: out of the blue"]


@pytest.mark.guarantee(NAME, "once")
def test_retries_are_not_told(inbox: Inbox, virtual_clock: VirtualClock) -> None:
    """A flow with retries is told once, after its last, and not at all if a retry succeeds."""
    attempts: list[int] = []

    def books() -> None:
        attempts.append(1)
        told.append(len(inbox.messages))
        fetch_page.with_options(retries=1, retry_delay_seconds=60)(3)

    def mended() -> None:
        if len(attempts) < 4:
            attempts.append(1)
            raise ConnectionError("no page yet")

    told: list[int] = []
    ended(books, retries=2, retry_delay_seconds=60)
    assert told == [0, 0, 0]
    assert len(attempts) == 3
    assert inbox.message["flow"] == "books"
    assert ended(mended, retries=1, retry_delay_seconds=60).is_completed()
    assert inbox.messages == []


@pytest.mark.guarantee(NAME, "once")
def test_handled_failures_are_not_told(inbox: Inbox) -> None:
    """Neither a failed task nor a failed subflow is told if the flow goes on."""

    @flow(on_failure=hooks())
    def chapter() -> None:
        fetch_page(3)

    def books() -> str:
        for part in (chapter, lambda: fetch_page(3)):
            with pytest.raises(ConnectionError):
                part()
        return "fewer pages"

    assert ended(books).is_completed()
    assert inbox.messages == []


@pytest.mark.guarantee(NAME, "once")
def test_a_failed_subflow_is_told_by_its_parent(inbox: Inbox) -> None:
    """A failure that passes two subflows with the hook is told by the outermost flow alone."""

    @flow(on_failure=hooks())
    def chapter() -> None:
        fetch_page(3)

    @flow(on_failure=hooks())
    def volume() -> None:
        chapter()

    def books() -> None:
        volume()

    ended(books)
    message = inbox.message
    assert message["flow"] == "books"
    assert message["errors"][0].startswith("ConnectionError: no page 3, in task run fetch_page-")


def refuse(inbox: Inbox) -> None:
    """Let the webhook refuse messages."""
    inbox.status = 500


def close(inbox: Inbox) -> None:
    """Point the block to a port where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    save_block(f"http://127.0.0.1:{port}")


def remove(inbox: Inbox) -> None:
    """Remove the block."""
    Webhook.delete(BLOCK)


@pytest.mark.guarantee(NAME, "outcome")
@pytest.mark.fact(NAME, "logged")
@pytest.mark.parametrize("spoil", [refuse, close, remove])
def test_a_webhook_that_fails_hides_nothing(
    inbox: Inbox, spoil: Callable[[Inbox], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The flow ends Failed with its own error, and the hook's error is in the log."""
    spoil(inbox)

    def books() -> None:
        fetch_page(3)

    with caplog.at_level(logging.ERROR, "prefect.flow_runs"):
        state = ended(books)
    assert state.name == "Failed"
    assert isinstance(state.result(raise_on_failure=False), ConnectionError)
    assert "error was encountered while running hook 'tell_failure'" in caplog.text


@pytest.mark.guarantee(NAME, "outcome")
def test_a_webhook_that_never_ends_its_answer_is_left(inbox: Inbox) -> None:
    """A webhook that sends a byte now and then is given the time that was set, and no more."""
    inbox.drips = True

    @flow(on_failure=[tell(BLOCK, seconds=0.5)])
    def books() -> None:
        fetch_page(3)

    state: Any = books(return_state=True)
    assert isinstance(state.result(raise_on_failure=False), ConnectionError)
    assert inbox.messages
    # The webhook notices that the hook hung up; otherwise its answer would have come to its end.
    assert inbox.hung_up.wait(patience())


@pytest.mark.guarantee(NAME, "async")
def test_async_flows_and_tasks_tell(inbox: Inbox) -> None:
    """An async flow whose async subflow and tasks fail tells once, with the task and the error."""

    @task(on_failure=[name_task])
    async def fetch(page: int) -> None:
        raise ConnectionError(f"no page {page}")

    @flow(on_failure=hooks())
    async def chapter() -> None:
        await fetch(7)

    async def books() -> None:
        with pytest.raises(ConnectionError):
            await fetch(1)
        await chapter()

    asyncio.run(ended(books))
    message = inbox.message
    assert message["flow"] == "books"
    (error,) = message["errors"]
    assert error.startswith("ConnectionError: no page 7, in task run fetch-")


SEEN: list[str] = []


def see(*_: object) -> None:
    """Keep in this process's memory that a task failed."""
    SEEN.append("failed")


@pytest.mark.fact(NAME, "processes")
@pytest.mark.runners("threads", "processes")
def test_a_hook_of_a_task_runs_where_the_task_does(
    prefect_server: str, task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """What a task's hook keeps in memory is there for the flow on threads, not on processes."""
    SEEN.clear()

    @flow(task_runner=task_runner)
    def books() -> None:
        fetch_page.with_options(on_failure=[see]).submit(3).wait()

    books()
    assert len(SEEN) == (runner_name == "threads")


@pytest.mark.fact(NAME, "private")
def test_private_addresses_may_be_refused(inbox: Inbox) -> None:
    """A block calls a private address, and one that must not raises an error and sends nothing."""
    url: Any = inbox.url
    asyncio.run(Webhook(url=url).call({"page": 1}))
    assert inbox.message == {"page": 1}
    with pytest.raises(ValueError, match="private address"):
        asyncio.run(Webhook(url=url, allow_private_urls=False).call({"page": 2}))
    assert inbox.messages == []


def deploy(name: str) -> UUID:
    """Deploy the pattern's flow, and return the deployment's id."""
    return UUID(str(RunnerDeployment.from_flow(print_catalogue, name).apply()))


def event(deployment: UUID, name: str, type_: str, run: UUID | None = None) -> ReceivedEvent:
    """Return the event of a run that enters a state."""
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "received": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {
                "prefect.resource.id": f"prefect.flow-run.{run or uuid4()}",
                "prefect.state-type": type_,
            },
            "related": [
                {
                    "prefect.resource.id": f"prefect.deployment.{deployment}",
                    "prefect.resource.role": "deployment",
                }
            ],
        }
    )


def triggers(deployment: UUID) -> list[EventTrigger]:
    """Return the server's own triggers of the automations of a deployment."""
    with get_client(sync_client=True) as client:
        every = client.request("POST", "/automations/filter", json={}).json()
    found = [each for each in every if str(deployment) in each["name"]]
    return [EventTrigger.model_validate(each["trigger"]) for each in found]


@pytest.mark.guarantee(NAME, "server")
def test_the_type_of_the_state_counts(inbox: Inbox) -> None:
    """The server's trigger covers the types that are named, under any name of the state."""
    deployment = deploy("types")
    tell_from_server(deployment, BLOCK)
    (trigger,) = triggers(deployment)
    assert trigger.covers(event(deployment, "Crashed", "CRASHED"))
    assert trigger.covers(event(deployment, "Lost", "CRASHED"))
    assert not trigger.covers(event(uuid4(), "Crashed", "CRASHED"))
    for type_ in ("FAILED", "COMPLETED", "RUNNING", "CANCELLED"):
        assert not trigger.covers(event(deployment, type_.title(), type_))
    assert not trigger.covers(event(deployment, "heartbeat", ""))


@pytest.mark.guarantee(NAME, "server")
def test_what_the_server_posts_is_json(inbox: Inbox) -> None:
    """The server's own templates turn an event into JSON, even if its message has quotes."""
    crashed = event(uuid4(), "Crashed", "CRASHED")
    crashed.resource.root |= {
        "prefect.resource.name": "red-fox",
        "prefect.state-name": "Crashed",
        "prefect.state-message": 'took "long",\nthen died',
    }
    context = {"event": crashed, "flow": SimpleNamespace(name="books")}
    posted = json.loads(asyncio.run(render_user_template(FROM_SERVER, context)))
    assert posted == {
        "flow": "books",
        "run": "red-fox",
        "run_id": crashed.resource.id.removeprefix("prefect.flow-run."),
        "state": "Crashed",
        "errors": ['took "long",\nthen died'],
    }


@pytest.mark.guarantee(NAME, "server")
def test_a_state_that_is_reported_again_is_ignored(inbox: Inbox) -> None:
    """The server's trigger acts on the first event of a run at once, then on none for an hour."""
    deployment = deploy("twice")
    tell_from_server(deployment, BLOCK)
    (trigger,) = triggers(deployment)
    assert (trigger.posture, trigger.threshold) == (Posture.Reactive, 1)
    assert trigger.within == timedelta(hours=1)
    one, other = uuid4(), uuid4()
    keys = [
        trigger.bucketing_key(event(deployment, "Crashed", "CRASHED", run))
        for run in (one, one, other)
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.guarantee(NAME, "again")
def test_set_up_again_there_is_one_automation(inbox: Inbox) -> None:
    """The second call updates the automation of the first, and another deployment's is left."""
    deployment, other = deploy("again"), deploy("other")
    tell_from_server(other, BLOCK)
    first = tell_from_server(deployment, BLOCK)
    second = tell_from_server(deployment, BLOCK, types=("CRASHED", "FAILED"))
    assert first.id == second.id
    (trigger,) = triggers(deployment)
    assert trigger.covers(event(deployment, "TimedOut", "FAILED"))
    (trigger,) = triggers(other)
    assert not trigger.covers(event(other, "TimedOut", "FAILED"))


def test_a_block_that_does_not_exist_is_refused(inbox: Inbox) -> None:
    """Without its block, an automation is not made: that is a one-line error."""
    with pytest.raises(ValueError, match=r'^no Webhook block "misspelt": save it first$'):
        tell_from_server(uuid4(), "misspelt")


def test_the_demonstration_tells(prefect_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`main` prints the message of its failed flow, and removes its block."""
    main()
    assert "no page 3, in task run fetch_page-" in capsys.readouterr().out
    with pytest.raises(ValueError, match="demo-alerts"):
        Webhook.load("demo-alerts")


DYING = """
import os, signal
from pathlib import Path
from types import SimpleNamespace
from prefect import flow
from prefect.runtime import flow_run

def note(*_):
    Path(os.environ["NOTES"], "told").touch()

@flow(on_crashed=[note])
def books():
    Path(os.environ["NOTES"], "run").write_text(str(flow_run.id))
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    books()
"""


@pytest.mark.nightly
@pytest.mark.fact(NAME, "killed")
def test_a_killed_process_tells_nobody(prefect_server: str, tmp_path: Path) -> None:
    """A flow that is killed runs no `on_crashed` hook, and its run stays Running."""
    (tmp_path / "dying.py").write_text(DYING)
    process = subprocess.run(
        [sys.executable, "dying.py"],
        cwd=tmp_path,
        env=environment(prefect_server, tmp_path / "home", NOTES=str(tmp_path)),
        timeout=patience(),
    )
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "told").exists()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID((tmp_path / "run").read_text()))
    assert run.state
    assert run.state.name == "Running"


def report(deployment: UUID, *states: State[Any]) -> UUID:
    """Create a run of a deployment, report states for it as an engine does, and return its id."""

    async def run_through() -> UUID:
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(deployment, parameters={"pages": 1})
            for state in states:
                await client.set_flow_run_state(run.id, state, force=True)
        return run.id

    return asyncio.run(run_through())


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "server")
@pytest.mark.fact(NAME, "named")
def test_the_server_tells_of_crashes(
    live_server: str,
    listening: Inbox,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server tells once of a run whose process was killed, and of one that timed out.

    It tells nothing of runs of other deployments, and not again if a crash is reported again.
    """
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.chdir(tmp_path)  # each process copies the folder in which a flow was deployed
    with temporary_settings({PREFECT_API_URL: live_server}):
        save_block(listening.url)
        dying = RunnerDeployment.from_entrypoint(f"{tmp_path}/dying.py:books", name="dying")
        deployment = UUID(str(dying.apply()))
        automation = tell_from_server(deployment, BLOCK, types=("CRASHED", "FAILED"))
        try:
            report(deploy("stranger"), Running(), Crashed(message="not ours"))
            with get_client(sync_client=True) as client:
                killed = asyncio.run(created(deployment))
                start("-m", "prefect", "flow-run", "execute", str(killed), NOTES=str(tmp_path))
                wait_until(lambda: listening.messages, "the message of the run that was killed")
                client.set_flow_run_state(killed, Crashed(message="again"), force=True)
            # Events are processed in order: once this is told, the earlier ones would have been.
            late = report(deployment, Running(), Failed(name="TimedOut", message='took "long"'))
            wait_until(lambda: len(listening.messages) > 1, "the message of the other run")
            # Events can be read some time after they had an effect.
            wait_until(lambda: TIMED_OUT in event_names(late), "the event of the other run")
            names = event_names(late)
        finally:
            automation.delete()
    crash, timeout = listening.messages
    assert (crash["flow"], crash["run_id"], crash["state"]) == ("books", str(killed), "Crashed")
    assert "-9" in crash["errors"][0]
    assert timeout == {
        "flow": "books",
        "run": timeout["run"],
        "run_id": str(late),
        "state": "TimedOut",
        "errors": ['took "long"'],
    }
    assert "prefect.flow-run.Failed" not in names


async def created(deployment: UUID) -> UUID:
    """Create a run of a deployment, and return its id."""
    async with get_client() as client:
        return (await client.create_flow_run_from_deployment(deployment)).id


TIMED_OUT = "prefect.flow-run.TimedOut"


def event_names(run: UUID) -> list[str]:
    """Return the names of the events of a flow run."""
    wanted = {"resource": {"id": [f"prefect.flow-run.{run}"]}}
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json={"filter": wanted}).json()
    return [each["event"] for each in found["events"]]
