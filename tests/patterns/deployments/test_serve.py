# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/serve.py`."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError, SignatureMismatchError
from prefect.flow_engine import run_flow
from prefect.runner import Runner
from prefect.states import Pending

from flowgauge.waiting import patience, wait_until
from patterns.deployments import serve as pattern
from patterns.deployments import trigger_by_http as http
from patterns.deployments.serve import forecast, serve_forecasts, trigger

NAME = "deployments/serve"
SERVED = "forecast/served"


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Yield a client of the server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DeploymentResponse]:
    """Yield the deployment that serving the flow creates; nothing polls for its runs yet."""

    async def end_at_once(self: Runner, **_: Any) -> None:
        """End before the first poll for runs."""

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "start", end_at_once)
        serve_forecasts()
    deployment = client.read_deployment_by_name(SERVED)
    yield deployment
    client.delete_deployment(deployment.id)


def triggered(**parameters: Any) -> Any:
    """Trigger a run, and return it before it starts."""
    return run_deployment(SERVED, parameters=parameters, timeout=0)


@pytest.mark.guarantee(NAME, "schema")
def test_the_deployment_has_the_schema_of_the_parameters(deployment: DeploymentResponse) -> None:
    """Types, choices, bounds, defaults and descriptions are in the deployment's schema."""
    schema: Any = deployment.parameter_openapi_schema
    station, days, unit = (schema["properties"][name] for name in ("station", "days", "unit"))
    assert station["type"] == "string"
    assert station["minLength"] == 3
    assert station["description"] == "Where it is measured."
    assert (days["type"], days["minimum"], days["maximum"], days["default"]) == (
        "integer",
        1,
        14,
        3,
    )
    assert (unit["enum"], unit["description"]) == (["C", "F"], "The unit of the temperatures.")
    assert schema["required"] == ["station"]


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"days": "soon"}, "'days'. Failure reason: 'soon' is not of type 'integer'"),
        ({"days": 15}, "'days'. Failure reason: 15 is greater than the maximum of 14"),
        ({"days": 0}, "'days'. Failure reason: 0 is less than the minimum of 1"),
        ({"station": "Ry"}, "'station'. Failure reason: 'Ry' is too short"),
        ({"unit": "K"}, r"'unit'. Failure reason: 'K' is not one of \['C', 'F'\]"),
        ({"station": None}, "'station'. Failure reason: None is not of type 'string'"),
    ],
    ids=["type", "above", "below", "short", "choice", "none"],
)
@pytest.mark.usefixtures("deployment")
def test_parameters_that_do_not_fit_make_no_run(
    client: SyncPrefectClient, parameters: dict[str, Any], reason: str
) -> None:
    """The error names the parameter, and no run has been made."""
    before = client.count_flow_runs()
    with pytest.raises(PrefectHTTPStatusError, match=reason):
        triggered(**parameters)
    assert client.count_flow_runs() == before


@pytest.mark.fact(NAME, "misspelt")
@pytest.mark.usefixtures("deployment")
def test_a_misspelt_parameter_makes_a_run_that_cannot_start() -> None:
    """The API accepts a parameter that the flow lacks, but the engine can't call the flow."""
    run = triggered(day=2)
    assert run.parameters == {"station": "Oslo", "day": 2}
    with pytest.raises(SignatureMismatchError):
        run_flow(forecast, flow_run=run)


@pytest.mark.guarantee(NAME, "schedules")
def test_each_schedule_has_its_own_parameters(deployment: DeploymentResponse) -> None:
    """The weekly schedule has `days=7`, the daily one only the deployment's own parameters."""
    schedules: Any = {each.slug: each for each in deployment.schedules}
    assert {slug: each.schedule.cron for slug, each in schedules.items()} == {
        "daily": "0 6 * * *",
        "weekly": "0 7 * * 1",
    }
    assert {slug: each.parameters for slug, each in schedules.items()} == {
        "daily": {},
        "weekly": {"days": 7},
    }
    assert {each.schedule.timezone for each in schedules.values()} == {"Europe/Oslo"}


@pytest.mark.guarantee(NAME, "limit")
@pytest.mark.usefixtures("deployment")
def test_a_run_above_the_limit_waits() -> None:
    """Of two runs that start, the first may proceed, and the second waits for a slot."""

    async def begin(run: UUID) -> tuple[StateType, str | None]:
        async with get_client() as client:
            pending: State[Any] = Pending()
            answer = await client.set_flow_run_state(run, pending)
            assert answer.state is not None
            return answer.state.type, answer.state.name

    first, second = (asyncio.run(begin(triggered().id)) for _ in range(2))
    assert first == (StateType.PENDING, "Pending")
    assert second == (StateType.SCHEDULED, "AwaitingConcurrencySlot")


@pytest.mark.guarantee(NAME, "served")
@pytest.mark.guarantee(NAME, "paused")
def test_a_run_is_executed_and_the_deployment_paused_after_it(
    deployment: DeploymentResponse, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trigger` returns the value of its run; the deployment is paused once serving has ended.

    When it is served again, the deployment is no longer paused.
    """
    assert not deployment.paused
    runs = client.count_flow_runs()
    with ThreadPoolExecutor() as pool, monkeypatch.context() as patch:
        value = pool.submit(
            copy_context().run, partial(trigger, {"days": 1, "unit": "F"}, patience())
        )
        wait_until(lambda: client.count_flow_runs() > runs, "the run that is triggered")
        patch.setattr(Runner, "start", partialmethod(Runner.start, run_once=True))
        serve_forecasts()
        assert value.result() == ["Oslo in 1 days: 21 °F"]
    assert client.read_deployment(deployment.id).paused
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "start", lambda self, **_: asyncio.sleep(0))
        serve_forecasts()
    assert not client.read_deployment(deployment.id).paused


@pytest.mark.fact(NAME, "second")
def test_the_end_of_one_of_two_processes_pauses_the_deployment(
    deployment: DeploymentResponse, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one of two that serve a deployment ends, it is paused though the other still serves."""
    lives, ends = threading.Event(), threading.Event()

    async def live_on(self: Runner, **_: Any) -> None:
        lives.set()
        await asyncio.to_thread(ends.wait)

    with ThreadPoolExecutor() as pool, monkeypatch.context() as patch:
        start = partialmethod(Runner.start, run_once=True)
        patch.setattr(Runner, "start", live_on)
        first = pool.submit(copy_context().run, serve_forecasts)
        try:
            assert lives.wait(patience())
            patch.setattr(Runner, "start", start)
            assert not client.read_deployment(deployment.id).paused
            serve_forecasts()
            assert not first.done()
            assert client.read_deployment(deployment.id).paused
        finally:
            ends.set()


def test_only_daemon_threads_are_left_if_the_flow_cannot_be_served(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of `serve` ends `main`, though the thread that waits for the deployment goes on."""

    def fail() -> None:
        raise LookupError("it is not served")

    monkeypatch.setattr(sys, "argv", ["serve.py"])
    monkeypatch.setattr(pattern, "serve_forecasts", fail)
    ends = threading.Event()
    monkeypatch.setattr(pattern, "show", lambda _: ends.wait())
    before = set(threading.enumerate())
    with pytest.raises(LookupError, match="it is not served"):
        pattern.main()
    try:
        assert [each for each in set(threading.enumerate()) - before if not each.daemon] == []
    finally:
        ends.set()


@pytest.mark.guarantee(NAME, "waited")
@pytest.mark.usefixtures("deployment")
def test_a_run_that_does_not_end_is_not_waited_for_forever() -> None:
    """If nobody serves the flow, a one-line error names the run and its state."""
    with pytest.raises(TimeoutError, match=r"^run \S+ is Scheduled after 0\.1 seconds$"):
        trigger({"days": 2}, patience=0.1)


@pytest.mark.guarantee(NAME, "waited")
def test_triggering_in_an_event_loop_is_refused() -> None:
    """In an event loop, a one-line error says what to await instead."""

    async def in_a_loop() -> None:
        trigger({"days": 2})

    with pytest.raises(RuntimeError, match=r"^an event loop runs: await arun_deployment instead$"):
        asyncio.run(in_a_loop())


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "served")
@pytest.mark.guarantee(NAME, "paused")
@pytest.mark.fact(NAME, "misspelt")
@pytest.mark.fact(NAME, "types")
def test_a_process_serves_until_it_is_ended(
    live_server: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    """A serving process runs what is triggered by HTTP; SIGTERM or Ctrl-C pauses its deployment.

    A run with a parameter that the flow does not have crashes. A run fails if the same file has its
    annotations as strings.
    """
    code = Path(pattern.__file__).read_text()
    (tmp_path / "serve.py").write_text(code)
    as_text = code.replace("import signal", "from __future__ import annotations\n\nimport signal")
    (tmp_path / "as_text.py").write_text(as_text.replace('"served"', '"as-text"'))
    files = ("serve.py", "as_text.py")
    served, served_as_text = [
        start(file, "serve", PREFECT_RUNNER_POLL_FREQUENCY="1") for file in files
    ]
    both = {SERVED, "forecast/as-text"}
    wait_until(lambda: both <= set(http.names(live_server)), "the deployments")
    fits = http.start(live_server, SERVED, {"station": "Bergen"})
    text = http.start(live_server, "forecast/as-text", {})
    end = partial(http.watch, live_server, patience=patience())
    assert end(fits)["type"] == "COMPLETED"
    assert end(http.start(live_server, SERVED, {"day": 2}))["type"] == "CRASHED"
    failed = end(text)
    assert failed["type"] == "FAILED"
    assert "is not fully defined" in failed["message"]
    served.terminate()
    served_as_text.send_signal(signal.SIGINT)
    for process, name in ((served, SERVED), (served_as_text, "forecast/as-text")):
        process.wait(timeout=patience())
        assert http.find(live_server, name)["paused"]
