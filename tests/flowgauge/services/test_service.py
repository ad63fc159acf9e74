# SPDX-License-Identifier: Apache-2.0
"""Flow runs of deployments are executed in a test, each at its virtual time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from prefect import flow, suspend_flow_run, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.flow_runs import resume_flow_run
from prefect.states import AwaitingRetry, Completed, Scheduled
from prefect.task_runners import TaskRunner
from prefect.types._datetime import now

from flowgauge.clock.process import ClockProcess
from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.mistake import Mistake
from flowgauge.services import service
from flowgauge.services.scheduled import OfDeployment
from flowgauge.services.service import Service
from flowgauge.waiting import wait_until

Serve = Callable[..., Service]


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the virtual clock, let a service look for work only when it is told to."""
    monkeypatch.setattr(service, "LOOK_ANYWAY", 600)


@task
def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


@flow
def report(number: int = 1) -> tuple[int, datetime]:
    """Return twice a number, and when."""
    return double.submit(number).result(), now("UTC")


def test_a_schedule_runs_while_time_is_advanced(
    serve: Serve, virtual_clock: VirtualClock, task_runner: TaskRunner[Any]
) -> None:
    """In three days a daily schedule has three runs, at their times, with their parameters."""
    flow = report.with_options(task_runner=task_runner)
    served = serve(flow, "nightly", cron="0 6 * * *", parameters={"number": 21})
    begun = virtual_clock.now()
    virtual_clock.advance(timedelta(days=3))
    runs = served.runs()
    results = [run.state.result() for run in runs if run.state]
    assert [number for number, _ in results] == [42, 42, 42]
    first = begun.replace(hour=6, minute=0, second=0, microsecond=0)
    first += timedelta(days=begun >= first)
    for number, (_, when) in enumerate(results):
        assert timedelta(0) <= when - first - timedelta(days=number) < timedelta(hours=1)


def test_runs_lets_time_pass_until_enough_have_ended(
    serve: Serve, virtual_clock: VirtualClock
) -> None:
    """Five runs of a weekly schedule take five weeks of virtual time."""
    served = serve(report, interval=timedelta(weeks=1))
    assert len(served.runs(5)) == 5
    weeks = timedelta(seconds=virtual_clock.elapsed) / timedelta(weeks=1)
    assert weeks == pytest.approx(5, abs=0.01)


def test_time_does_not_pass_for_the_sake_of_a_schedule(
    serve: Serve, virtual_clock: VirtualClock
) -> None:
    """A deployment with a schedule lets no time pass while nobody waits."""
    served = serve(report, interval=timedelta(hours=1))
    report()
    assert served.runs() == []
    assert virtual_clock.skipped == 0


@task(retries=1, retry_delay_seconds=3600)
def fetch(failures: list[int]) -> int:
    """Fail as often as there are failures left."""
    if failures:
        raise ConnectionError(failures.pop())
    return 1


@flow
def nightly() -> Any:
    """Run a deployment an hour from now, and wait for it."""
    run: Any = run_deployment("child/child", scheduled_time=now("UTC") + timedelta(hours=1))
    return run.state


@flow
async def nightly_async() -> Any:
    """Run a deployment an hour from now, and wait for it."""
    begun: Any = run_deployment("child/child", scheduled_time=now("UTC") + timedelta(hours=1))
    run = await begun
    return run.state


@pytest.mark.parametrize("parent", [nightly, nightly_async], ids=["sync", "async"])
def test_a_flow_that_runs_a_deployment(
    serve: Serve, virtual_clock: VirtualClock, parent: Any
) -> None:
    """The child runs at its time, and its own retries wait for no real time."""
    failures = [1]

    @flow
    def child() -> int:
        return fetch(failures)

    served = serve(child)
    state = parent(return_state=True)
    if parent is nightly_async:
        state = asyncio.run(state)
    assert state.is_completed()
    assert failures == []
    (run,) = served.runs()
    assert run.state is not None
    assert run.state.result() == 1
    assert run.state.state_details.flow_run_id == run.id
    assert 7200 <= virtual_clock.elapsed < 3 * 3600


def started(name: str, **options: Any) -> FlowRun:
    """Ask for a run of a deployment, and do not wait for it."""
    run = run_deployment(name, timeout=0, **options)
    assert isinstance(run, FlowRun)
    return run


def state_of(run: FlowRun) -> State[Any]:
    """Return the state of a flow run, which has one."""
    assert run.state is not None
    return run.state


def test_without_the_virtual_clock_it_is_real_time(serve: Serve) -> None:
    """A run that is due is executed at once."""
    served = serve(report)
    run = run_deployment(served.name, parameters={"number": 4}, poll_interval=0.1)
    assert isinstance(run, FlowRun)
    assert state_of(run).is_completed()
    (ended,) = served.runs()
    assert state_of(ended).result()[0] == 8


def test_what_a_run_raised_is_in_its_state(serve: Serve) -> None:
    """A flow that fails is Failed with its exception; one that can't be called is Crashed."""

    @flow
    def fail(reason: str) -> None:
        raise LookupError(reason)

    served = serve(fail, "here", parameters={"reason": "no rows"}, enforce_parameter_schema=False)
    runs = {started(served.name).id: "Failed"}
    runs[started(served.name, parameters={"cause": "?"}).id] = "Crashed"
    ended = served.runs()
    assert {run.id: state_of(run).name for run in ended} == runs
    by_name = {state_of(run).name: state_of(run) for run in ended}
    with pytest.raises(LookupError, match="no rows"):
        by_name["Failed"].result()
    assert "SignatureMismatchError" in str(by_name["Crashed"].message)


def test_a_suspended_run_goes_on_when_it_is_resumed(
    serve: Serve, virtual_clock: VirtualClock
) -> None:
    """A run that suspends itself has not ended, and begins again after `resume_flow_run`."""
    begun: list[int] = []

    @flow(persist_result=True)
    def approve() -> str:
        begun.append(len(begun))
        suspend_flow_run(key="approval", timeout=7200)
        return "approved"

    served = serve(approve)
    run = started(served.name)
    assert served.runs() == []
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).state_name == "Suspended"
    resume_flow_run(run.id)
    (ended,) = served.runs(1)
    assert state_of(ended).result() == "approved"
    assert begun == [0, 1]


def test_no_more_runs_at_once_than_the_limit(serve: Serve) -> None:
    """With a limit of two, the third run starts when one of the first two has ended."""
    running: list[str] = []
    at_once: list[int] = []
    go_on = threading.Event()

    @flow
    def wait() -> None:
        running.append("")
        at_once.append(len(running))
        assert go_on.wait(60)
        running.pop()

    served = serve(wait, limit=2)
    for _ in range(3):
        started(served.name)
    wait_until(lambda: len(at_once) == 2, "two runs")
    go_on.set()
    assert len(served.runs(3)) == 3
    assert max(at_once) == 2


def test_a_run_that_will_not_come_is_not_waited_for(
    serve: Serve, virtual_clock: VirtualClock
) -> None:
    """To ask for more runs than are scheduled is told, in one line."""
    served = serve(report)
    started(served.name)
    line = r"runs\(2\): 1 of 2 flow runs of 'report/report' have ended, and no other one is sch"
    with pytest.raises(Mistake, match=line):
        served.runs(2)


def test_days_are_not_waited_for_in_real_time(serve: Serve) -> None:
    """Without the virtual clock, a run in a week is told instead of waited for."""
    served = serve(report, interval=timedelta(weeks=1))
    with pytest.raises(Mistake, match=r"starts at .* UTC; ask for the fixture virtual_clock"):
        served.runs(1)


def test_a_flow_gives_up_before_its_child_begins(serve: Serve, virtual_clock: VirtualClock) -> None:
    """If a child is scheduled for later than the time limit, the wait ends in virtual time."""
    served = serve(report)
    later = now("UTC") + timedelta(hours=2)
    run = run_deployment(served.name, scheduled_time=later, timeout=3600, poll_interval=60)
    assert isinstance(run, FlowRun)
    assert state_of(run).is_scheduled()
    assert 3600 <= virtual_clock.elapsed < 7200
    assert virtual_clock.unskipped == {}


def test_a_run_that_is_scheduled_again_runs_again(
    serve: Serve, virtual_clock: VirtualClock
) -> None:
    """A run that has ended and is set to Scheduled, as a retry in the UI does, is executed."""
    times: list[datetime] = []

    @flow
    def tell() -> None:
        times.append(now("UTC"))

    served = serve(tell)
    run = started(served.name)
    served.runs(1)
    with get_client(sync_client=True) as client:
        later = now("UTC") + timedelta(hours=3)
        client.set_flow_run_state(run.id, Scheduled(scheduled_time=later), force=True)
    virtual_clock.advance(timedelta(hours=4))
    served.runs()
    assert len(times) == 2
    assert times[1] - times[0] == pytest.approx(timedelta(hours=3), abs=timedelta(minutes=30))


def started_service(
    execute: service.Execute, clock: ClockProcess | None, limit: int | None = None
) -> Service:
    """Deploy a flow, start a service for it that does something else, and ask for a run."""
    deployment: Any = report.to_deployment("slow")
    slow = Service("report/slow", OfDeployment(deployment.apply()), execute, clock, limit)
    started(slow.name)
    return slow


@pytest.mark.usefixtures("prefect_server")
def test_a_run_is_executed_once_at_a_time() -> None:
    """While a run waits for a retry of its flow, a scheduled state, it is not started again."""
    executed: list[int] = []

    def execute(run: FlowRun, running: service.Running) -> State[Any]:
        with running(False), get_client(sync_client=True) as client:
            executed.append(len(executed))
            retry: State[Any] = AwaitingRetry(scheduled_time=now("UTC") - timedelta(seconds=1))
            client.set_flow_run_state(run.id, retry, force=True)
            looks = slow._looks
            wait_until(lambda: slow._looks > looks + 2, "looks for work")
            client.set_flow_run_state(run.id, Completed(), force=True)
            return Completed()

    slow = started_service(execute, None)
    slow.runs(1)
    slow.stop()
    assert executed == [0]


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_waits_for_a_place_will_come() -> None:
    """That nothing else is scheduled is told only if it is so after the last run has ended."""

    def execute(run: FlowRun, running: service.Running) -> State[Any]:
        with running(False), get_client(sync_client=True) as client:
            looks = slow._looks
            wait_until(lambda: slow._looks > looks + 2, "looks for work, in vain")
            client.set_flow_run_state(run.id, Completed(), force=True)
            return Completed()

    slow = started_service(execute, None, limit=1)
    started(slow.name)
    assert len(slow.runs(2)) == 2
    slow.stop()


def test_no_time_is_skipped_while_a_run_is_being_executed(
    virtual_clock: VirtualClock, request: pytest.FixtureRequest
) -> None:
    """What happens before and after the flow's own code, such as imports, is waited for, too."""
    skipped: list[float] = []

    def execute(run: FlowRun, running: service.Running) -> State[Any]:
        with running(False):
            before = virtual_clock.skipped
            begun.set()
            time.sleep(0.3)
            skipped.append(virtual_clock.skipped - before)
            return Completed()

    begun = threading.Event()
    clock = request.getfixturevalue("_clock_process")
    slow = started_service(execute, clock)
    assert begun.wait(60)
    virtual_clock.advance(timedelta(days=1))
    assert slow.stop() == []
    assert skipped == [0]
