# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/trigger_once.py`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import ConcurrencyLimitConfig, FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Suspended,
)

from flowgauge.waiting import patience, wait_until
from patterns.deployments import trigger_once as pattern
from patterns.deployments.trigger_once import (
    Triggered,
    digest,
    import_day,
    main,
    trigger_for,
    trigger_unless_running,
)
from tests.conftest import environment

NAME = "deployments/trigger_once"
MONDAY = {"day": "Monday"}
CALLERS = 4
Trigger = Callable[[str], Triggered]


def deploy(flow: Any = import_day, **options: Any) -> tuple[str, UUID]:
    """Deploy a flow, and return the deployment's full name and id."""
    name = str(uuid4())
    id_: Any = RunnerDeployment.from_flow(flow, name, **options).apply()
    return f"{flow.name}/{name}", UUID(str(id_))


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Yield a client of the server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> str:
    """Return the name of a deployment of the pattern's flow."""
    return deploy()[0]


def runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """Return the runs of a deployment."""
    id_ = client.read_deployment_by_name(deployment).id
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[id_]))
    return client.read_flow_runs(deployment_filter=wanted)


def report(client: SyncPrefectClient, run: FlowRun, *states: State[Any]) -> None:
    """Report states for a run, as an engine or a person does."""
    for state in states:
        client.set_flow_run_state(run.id, state, force=True)


def for_request(deployment: str) -> Triggered:
    """Trigger the deployment for a request."""
    return trigger_for("42", deployment, MONDAY)


def unless_running(deployment: str) -> Triggered:
    """Trigger the deployment unless it runs."""
    return trigger_unless_running(deployment, MONDAY)


@pytest.mark.guarantee(NAME, "request")
@pytest.mark.guarantee(NAME, "new")
def test_a_request_has_one_run(client: SyncPrefectClient, deployment: str) -> None:
    """A request has the same run before and after it ran and failed; the first call created it.

    Another request has its own run, and so has the same request for another deployment.
    """
    run, new = trigger_for("42", deployment, MONDAY)
    assert new
    assert (run.parameters, run.state and run.state.type) == (MONDAY, StateType.SCHEDULED)
    states: list[State[Any]] = [Pending(), Running(), Failed()]
    for state in states:
        report(client, run, state)
        again, new = trigger_for("42", deployment, MONDAY)
        assert (again.id, new) == (run.id, False)
    others = [trigger_for(other, deployment, MONDAY) for other in ("43", "", "4" * 5000, '"\0é')]
    others.append(trigger_for("42", deploy()[0], MONDAY))
    assert all(new for _, new in others)
    assert len({run.id, *(run.id for run, _ in others)}) == 6
    assert len(runs_of(client, deployment)) == 5


@pytest.mark.guarantee(NAME, "other")
@pytest.mark.parametrize("other", [{"day": "Friday"}, {**MONDAY, "shop": "main"}])
def test_a_request_keeps_its_parameters(
    client: SyncPrefectClient, deployment: str, other: dict[str, str]
) -> None:
    """With other parameters the same request is an error that names it and its run."""
    run, _ = trigger_for("4\n2", deployment, MONDAY)
    with pytest.raises(
        ValueError, match=rf"^request '4\\n2' had other parameters before: {run.id}$"
    ):
        trigger_for("4\n2", deployment, other)
    assert [each.id for each in runs_of(client, deployment)] == [run.id]


def at_once(trigger: Trigger, deployment: str, monkeypatch: pytest.MonkeyPatch) -> list[Triggered]:
    """Trigger in several threads, none of which creates a run before all have looked."""
    looked = threading.Barrier(CALLERS)
    create_run = pattern.create_run

    def create_together(*arguments: Any, **options: Any) -> Triggered:
        looked.wait(patience())
        return create_run(*arguments, **options)

    with monkeypatch.context() as patch, ThreadPoolExecutor(CALLERS) as threads:
        patch.setattr(pattern, "create_run", create_together)
        return list(threads.map(trigger, [deployment] * CALLERS))


@pytest.mark.guarantee(NAME, "request")
@pytest.mark.guarantee(NAME, "at-once")
@pytest.mark.guarantee(NAME, "new")
@pytest.mark.parametrize("trigger", [for_request, unless_running])
def test_callers_at_once_are_given_one_run(
    client: SyncPrefectClient,
    deployment: str,
    trigger: Trigger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads that look at the same time are given one run, and one of them is told it is new.

    So it is when a run with these parameters has ended before.
    """
    triggered = at_once(trigger, deployment, monkeypatch)
    (run,) = runs_of(client, deployment)
    assert {each.run.id for each in triggered} == {run.id}
    assert sum(each.new for each in triggered) == 1
    if trigger is unless_running:
        report(client, run, Failed())
        triggered = at_once(trigger, deployment, monkeypatch)
        (second,) = {each.run.id for each in triggered}
        assert {each.id for each in runs_of(client, deployment)} == {run.id, second}
        assert sum(each.new for each in triggered) == 1


@pytest.mark.guarantee(NAME, "running")
def test_a_run_that_has_not_ended_is_returned(client: SyncPrefectClient, deployment: str) -> None:
    """As long as a run has not ended it is returned; after each way of ending there is a new one.

    A run with other parameters, or of another deployment, does not count.
    """
    run, new = unless_running(deployment)
    assert new
    strangers = [
        trigger_unless_running(deployment, {"day": "Friday"}),
        unless_running(deploy()[0]),
        trigger_for("42", deployment, MONDAY),
    ]
    assert all(each.new for each in strangers)
    states: list[State[Any]] = [Pending(), Running(name="Busy"), Paused(timeout_seconds=9)]
    # A run that is not running is cancelled without `Cancelling`.
    for state in (*states, Suspended(timeout_seconds=9), AwaitingRetry(), Running(), Cancelling()):
        report(client, run, state)
        again, new = unless_running(deployment)
        assert (again.id, new) == (run.id, False), state
    seen = {run.id, *(each.run.id for each in strangers)}
    ends: list[State[Any]] = [Completed(), Failed(), Crashed(), Cancelled()]
    for end in (*ends, Completed(name="Empty")):
        report(client, run, end)
        run, new = unless_running(deployment)
        assert new, end
        assert run.id not in seen
        seen.add(run.id)
        again, new = unless_running(deployment)
        assert (again.id, new) == (run.id, False)
    for _ in range(2):
        client.delete_flow_run(run.id)
        run, new = unless_running(deployment)
        assert new
        assert run.id not in seen
        seen.add(run.id)


@pytest.mark.guarantee(NAME, "running")
def test_an_old_run_that_runs_again_is_returned(client: SyncPrefectClient, deployment: str) -> None:
    """If somebody starts an old run anew, it is returned, although a newer one has ended."""
    old, _ = unless_running(deployment)
    report(client, old, Failed())
    newer, _ = unless_running(deployment)
    report(client, newer, Completed())
    report(client, old, Running())
    again, new = unless_running(deployment)
    assert (again.id, new) == (old.id, False)


@pytest.mark.guarantee(NAME, "running")
@pytest.mark.parametrize("ended", [0, 1])
def test_a_run_that_came_and_went_meanwhile_does_not_count(
    client: SyncPrefectClient, deployment: str, ended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another caller's run was created and has ended since a caller looked, it creates one."""
    for _ in range(ended):
        report(client, unless_running(deployment).run, Completed())
    create_run, meanwhile = pattern.create_run, list[FlowRun]()

    def create_late(*arguments: Any, **options: Any) -> Triggered:
        monkeypatch.setattr(pattern, "create_run", create_run)
        for _ in range(2):
            meanwhile.append(unless_running(deployment).run)
            report(client, meanwhile[-1], Completed())
        return create_run(*arguments, **options)

    monkeypatch.setattr(pattern, "create_run", create_late)
    run, new = unless_running(deployment)
    assert new
    assert run.id not in {each.id for each in meanwhile}
    assert len(runs_of(client, deployment)) == ended + 3


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=2), each, max_size=3)
    ),
    max_leaves=6,
)


def turned(value: Any) -> Any:
    """Return equal JSON, in which the names of all objects stand in the opposite order."""
    if isinstance(value, dict):
        return {name: turned(each) for name, each in reversed(value.items())}
    return [turned(each) for each in value] if isinstance(value, list) else value


@pytest.mark.guarantee(NAME, "same")
@given(one=JSON, other=JSON)
@example(one={"a": [{"b": 1, "c": None}], "d": "é"}, other={"a": [{"b": True, "c": None}]})
@example(one=1, other=1.0)
@example(one=0, other=False)
def test_equal_json_is_the_same(one: Any, other: Any) -> None:
    """Two values have one digest if they are equal as JSON, and only then."""
    text, other_text = (json.dumps(each, sort_keys=True) for each in (one, other))
    assert digest(one) == digest(turned(one)) == digest(json.loads(text))
    assert (digest(one) == digest(other)) == (text == other_text)


@pytest.mark.guarantee(NAME, "same")
def test_defaults_are_filled_in(client: SyncPrefectClient) -> None:
    """A default of the flow or of the deployment is the same, whether it is given or left out.

    The deployment's own parameter replaces the default of the flow.
    """
    name, _ = deploy(parameters={"day": "Monday"})
    run, _ = trigger_unless_running(name)
    for parameters in ({}, MONDAY, {"shop": "main"}, {"shop": "main", **MONDAY}):
        assert trigger_unless_running(name, parameters).run.id == run.id
    for parameters in ({"shop": "north"}, {"day": "Friday"}):
        assert trigger_unless_running(name, parameters).new
    north, _ = deploy(parameters={"shop": "north"})
    run, _ = trigger_unless_running(north, MONDAY)
    assert not trigger_unless_running(north, {**MONDAY, "shop": "north"}).new
    assert trigger_unless_running(north, {**MONDAY, "shop": "main"}).new


@contextmanager
def losing_an_answer(api: str) -> Iterator[str]:
    """Yield the address of a proxy that answers 503 to the first request that created a run."""
    lost = threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or None
            headers = {"Content-Type": "application/json"}
            request = Request(api + self.path.removeprefix("/api"), body, headers)
            request.method = self.command
            with urlopen(request, timeout=patience()) as response:
                answer = response.read()
            first = self.path.endswith("/create_flow_run") and not lost.is_set()
            if first:
                lost.set()
            self.send_response(503 if first else 200)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
    assert lost.is_set()


@pytest.mark.guarantee(NAME, "new")
@pytest.mark.parametrize("trigger", [for_request, unless_running])
def test_a_run_is_new_although_the_answer_was_lost(
    prefect_server: str, client: SyncPrefectClient, deployment: str, trigger: Trigger
) -> None:
    """If the client repeats its request, there is one run, and the caller is told it is new."""
    with (
        losing_an_answer(prefect_server) as address,
        temporary_settings({PREFECT_API_URL: address}),
    ):
        run, new = trigger(deployment)
    assert new
    assert [each.id for each in runs_of(client, deployment)] == [run.id]


@pytest.mark.guarantee(NAME, "errors")
def test_a_mistake_is_one_line(client: SyncPrefectClient, deployment: str) -> None:
    """An unknown deployment and parameters that do not fit are one-line errors, without a run."""
    for name in ("import-day/misspelt", "misspelt/nightly", "nightly", ""):
        with pytest.raises(ValueError, match=f'^no deployment "{name}": deploy it first$'):
            trigger_for("42", name)
        with pytest.raises(ValueError, match=f'^no deployment "{name}": deploy it first$'):
            trigger_unless_running(name)
    own = deployment.rpartition("/")[2]
    wrong: list[dict[str, Any]] = [{}, {"day": 1}, {"day": ["a\nb"]}, {**MONDAY, "shop": None}]
    for parameters in wrong:
        with pytest.raises(ValueError, match=rf"\A{own}: .+\Z"):
            trigger_for("42", deployment, parameters)
        with pytest.raises(ValueError, match=rf"\A{own}: .+\Z"):
            trigger_unless_running(deployment, parameters)
    with pytest.raises(ValueError, match=r"\A.*not JSON.*\Z"):
        trigger_for("42", deployment, {"day": float("nan")})
    assert runs_of(client, deployment) == []


def test_it_can_be_called_from_async_code(client: SyncPrefectClient, deployment: str) -> None:
    """In threads of an event loop, both are given a run."""

    async def trigger_both() -> list[Triggered]:
        called = [asyncio.to_thread(each, deployment) for each in (for_request, unless_running)]
        return await asyncio.gather(*called)

    assert all(each.new for each in asyncio.run(trigger_both()))


def other_flow() -> Any:
    """Return a flow that no other test has deployed, because a key belongs to the flow."""
    return flow(name=f"other-{uuid4()}")(lambda: None)


def run_with(key: str, deployment: str, **options: Any) -> FlowRun:
    """Return the run that `run_deployment` creates or finds."""
    asked: dict[str, Any] = {"parameters": MONDAY, "timeout": 0, "as_subflow": False} | options
    run: FlowRun = run_deployment(deployment, idempotency_key=key, **asked)  # type: ignore[assignment]
    return run


@pytest.mark.fact(NAME, "flow-wide")
@pytest.mark.fact(NAME, "kept")
@pytest.mark.fact(NAME, "ignored")
def test_what_a_key_does_by_itself(client: SyncPrefectClient, deployment: str) -> None:
    """A key returns its run for another deployment, other parameters, and after a failure.

    Once the run is deleted it creates a new one; an empty key is refused the second time.
    """
    run = run_with(key := str(uuid4()), deployment)
    assert run_with(key, deploy()[0]).id == run.id
    again = run_with(key, deployment, parameters={"day": "Friday"})
    assert (again.id, again.parameters) == (run.id, MONDAY)
    report(client, run, Failed())
    assert run_with(key, deployment).id == run.id
    client.delete_flow_run(run.id)
    assert run_with(key, deployment).id != run.id
    run_with("", name := deploy(other_flow())[0], parameters={})
    with pytest.raises(PrefectHTTPStatusError, match="409 Conflict"):
        run_with("", name, parameters={})


def post(api: str, deployment: UUID, body: dict[str, Any]) -> tuple[int, str]:
    """Post a request for a run without Prefect; return the status and the run's id."""
    request = Request(
        f"{api}/deployments/{deployment}/create_flow_run",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=patience()) as response:
        return response.status, json.load(response)["id"]


@pytest.mark.fact(NAME, "http")
def test_http_and_python_share_keys(prefect_server: str) -> None:
    """A key that came by HTTP returns the same run in Python; the status tells a new run."""
    name, id_ = deploy()
    body = {"parameters": MONDAY, "idempotency_key": (key := str(uuid4()))}
    status, run = post(prefect_server, id_, body)
    assert status == 201
    assert post(prefect_server, id_, body) == (200, run)
    assert str(run_with(key, name).id) == run


@pytest.mark.fact(NAME, "subflow")
def test_a_second_subflow_is_never_run(client: SyncPrefectClient, deployment: str) -> None:
    """The second task run for an existing run stays Pending after the run has completed."""

    @flow
    def week(as_subflow: bool) -> UUID:
        key = str(uuid4())
        first, second = (run_with(key, deployment, as_subflow=as_subflow) for _ in range(2))
        assert first.id == second.id
        report(client, first, Completed())
        return UUID(str(first.parent_task_run_id)) if as_subflow else first.id

    for as_subflow, expected in ((True, ["Completed", "Pending"]), (False, [])):
        state: Any = week(as_subflow, return_state=True)
        runs = client.request(
            "POST",
            "/task_runs/filter",
            json={"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}},
        ).json()
        assert sorted(each["state"]["name"] for each in runs) == expected


@pytest.mark.fact(NAME, "limit")
@pytest.mark.parametrize(
    ("strategy", "second"),
    [("CANCEL_NEW", "Cancelled"), ("ENQUEUE", "AwaitingConcurrencySlot")],
)
def test_a_limit_knows_no_parameters(client: SyncPrefectClient, strategy: str, second: str) -> None:
    """Of two scheduled runs with other parameters, the second is stopped when it gets Pending."""
    limit = ConcurrencyLimitConfig.model_validate({"limit": 1, "collision_strategy": strategy})
    _, id_ = deploy(concurrency_limit=limit)
    runs = [
        client.create_flow_run_from_deployment(id_, parameters={"day": day})
        for day in ("Monday", "Friday")
    ]
    assert {run.state.name for run in runs if run.state} == {"Scheduled"}
    for run in runs:
        client.set_flow_run_state(run.id, Pending())
    states = [client.read_flow_run(run.id).state for run in runs]
    assert [state and state.name for state in states] == ["Pending", second]


def test_the_demonstration_triggers(
    prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`main` prints which of its calls created a run."""
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["True", "False", "True", "False", "True"]


WAITING = """
import os, time
from pathlib import Path
from prefect import flow
from prefect.runtime import flow_run

@flow
def wait(day: str = "Monday"):
    Path(os.environ["NOTES"], str(flow_run.id)).touch()
    while not Path(os.environ["NOTES"], "go").exists():
        time.sleep(0.05)

if __name__ == "__main__":
    wait.serve("once", print_starting_message=False)
"""
"""A flow that notes its run and waits for a file; as a script it serves itself."""
CALLING = """
import sys
from patterns.deployments.trigger_once import trigger_for, trigger_unless_running
print("ready", flush=True)
sys.stdin.readline()
for run, new in (
    trigger_unless_running("wait/once", {"day": "Monday"}),
    trigger_for("42", "wait/once", {"day": "Monday"}),
):
    print(run.id, new)
"""


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "request")
@pytest.mark.guarantee(NAME, "running")
@pytest.mark.guarantee(NAME, "at-once")
@pytest.mark.guarantee(NAME, "new")
def test_processes_at_once_start_one_run(
    live_server: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    """Two processes start one run of a served flow; when it has completed, the next is started.

    They also start one run for a request.
    """
    (tmp_path / "waiting.py").write_text(WAITING)
    start("waiting.py", NOTES=str(tmp_path), PREFECT_RUNNER_POLL_FREQUENCY="1")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLING],
        env=environment(live_server, tmp_path / "home", PYTHONPATH=":".join(sys.path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout
    assert caller.stdin
    with temporary_settings({PREFECT_API_URL: live_server}), get_client(sync_client=True) as client:
        assert caller.stdout.readline() == "ready\n"
        wait_until(lambda: is_served(client), "the flow to be served")
        caller.stdin.write("\n")
        caller.stdin.flush()
        found, new = trigger_unless_running("wait/once", MONDAY)
        requested, first = trigger_for("42", "wait/once", MONDAY)
        told, _ = caller.communicate(timeout=patience())
        assert told.split() == [str(found.id), str(not new), str(requested.id), str(not first)]
        wait_until(lambda: (tmp_path / str(found.id)).exists(), "the run to be running")
        again, new = trigger_unless_running("wait/once")
        assert (again.id, new) == (found.id, False)
        (tmp_path / "go").touch()
        wait_until(lambda: has_completed(client, found.id), "the run to complete")
        following, new = trigger_unless_running("wait/once")
        assert new
        ids = {found.id, requested.id, following.id}
        assert {each.id for each in runs_of(client, "wait/once")} == ids


def is_served(client: SyncPrefectClient) -> bool:
    """Return whether the flow has a deployment."""
    return any(each.name == "once" for each in client.read_deployments())


def has_completed(client: SyncPrefectClient, run: UUID) -> bool:
    """Return whether a run has completed."""
    state = client.read_flow_run(run).state
    return state is not None and state.type == StateType.COMPLETED
