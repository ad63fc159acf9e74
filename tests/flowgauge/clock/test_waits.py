# SPDX-License-Identifier: Apache-2.0
"""Waits for someone else under the virtual clock: skipped if nobody acts, and told otherwise."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from prefect import flow, pause_flow_run, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.deployments import arun_deployment, run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import FlowPauseTimeout, FlowRunWaitTimeout
from prefect.flow_runs import apause_flow_run, wait_for_flow_run
from prefect.input import RunInput, receive_input
from prefect.locking.filesystem import FileSystemLockManager
from prefect.locking.memory import MemoryLockManager
from prefect.locking.protocol import LockManager
from prefect.runtime import flow_run
from prefect.states import Cancelled, Running
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.transactions import IsolationLevel

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.waiting import wait_until
from tests.flowgauge.clock.told import OF_THE_TEST, assert_told, is_told

HOUR = 3600.0


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report waits that are not skipped sooner than usual."""
    monkeypatch.setattr("flowgauge.clock.coordinator.REPORT_AFTER", 0.3)


begun: queue.Queue[str | None] = queue.Queue()
"""The identifiers of flow runs that are about to wait for someone."""


def approve() -> None:
    """Resume the next flow run, as a person does, as soon as it is paused."""
    run = UUID(begun.get() or "")
    with get_client(sync_client=True) as client:
        wait_until(lambda: is_paused(client.read_flow_run(run)), "a paused flow run")
        client.resume_flow_run(run)


def is_paused(run: FlowRun) -> bool:
    """Return whether a flow run is paused."""
    return run.state is not None and run.state.is_paused()


@flow
def publish() -> str:
    """Wait for an approval, at most two hours."""
    begun.put(flow_run.get_id())
    pause_flow_run(timeout=7200)
    return "published"


@flow
async def publish_async() -> str:
    """Wait for an approval, at most two hours."""
    begun.put(flow_run.get_id())
    await apause_flow_run(timeout=7200)
    return "published"


def in_loop(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs an async one in an event loop."""
    return lambda *args, **options: asyncio.run(run(*args, **options))


@pytest.mark.parametrize("run", [publish, in_loop(publish_async)], ids=["sync", "async"])
def test_an_approval_is_seen_at_once(run: Callable[[], str], virtual_clock: VirtualClock) -> None:
    """A paused flow goes on when someone has approved it, and its time limit is not skipped to."""
    approver = threading.Thread(target=approve)
    approver.start()
    assert run() == "published"
    approver.join()
    assert virtual_clock.skipped < 60


@pytest.mark.parametrize("run", [publish, in_loop(publish_async)], ids=["sync", "async"])
def test_a_pause_that_nobody_ends_is_skipped(
    run: Callable[[], str], virtual_clock: VirtualClock
) -> None:
    """If nobody approves, the flow fails when its two hours are over, which take no time."""
    with pytest.raises(FlowPauseTimeout):
        run()
    begun.get()
    assert virtual_clock.skipped - 1 <= 2 * HOUR <= virtual_clock.elapsed
    assert not virtual_clock.unskipped


def test_someone_who_takes_time_is_waited_for(virtual_clock: VirtualClock) -> None:
    """While code of the test works or sleeps, no flow gives up waiting; the wait is told."""

    def decide() -> None:
        # It is told only if a check falls into this time, so wait until one does.
        while not is_told(virtual_clock, OF_THE_TEST):
            time.sleep(0.05)
        approve()

    approver = threading.Thread(target=decide)
    approver.start()
    assert publish() == "published"
    approver.join()
    assert_told(virtual_clock, f"'publish' {OF_THE_TEST}")


def test_a_coroutine_that_sleeps_is_waited_for(virtual_clock: VirtualClock) -> None:
    """A coroutine of the test that sleeps next to a flow still approves it."""

    async def approve_later() -> None:
        while not is_told(virtual_clock, OF_THE_TEST):
            await asyncio.sleep(0.05)
        async with get_client() as client:
            await client.resume_flow_run(UUID(begun.get() or ""))

    async def both() -> list[str | None]:
        return list(await asyncio.gather(publish_async(), approve_later()))

    assert asyncio.run(both()) == ["published", None]
    assert_told(virtual_clock, OF_THE_TEST)


@flow
def child() -> int:
    """Return a number."""
    return 7


def name_of_state(run: FlowRun) -> str:
    """Return the name of the state of a flow run."""
    assert run.state is not None
    return str(run.state.name)


@flow
def start_child(name: str, **options: Any) -> str:
    """Run a deployment and return the last state that was seen."""
    return name_of_state(cast(FlowRun, run_deployment(name, **options)))


@flow
async def start_child_async(name: str, **options: Any) -> str:
    """Run a deployment and return the last state that was seen."""
    return name_of_state(await arun_deployment(name, **options))


@pytest.fixture
def deployed(prefect_server: str) -> Iterator[str]:
    """Return the name of a deployment that nobody runs."""
    deployment = cast(RunnerDeployment, child.to_deployment("nobody-runs-it"))
    made = deployment.apply()
    assert isinstance(made, UUID)
    yield "child/nobody-runs-it"
    with get_client(sync_client=True) as client:
        client.delete_deployment(made)


@pytest.mark.parametrize(
    "start",
    [start_child, in_loop(start_child_async)],
    ids=["sync", "async"],
)
def test_a_deployment_that_nobody_runs_is_not_waited_for(
    start: Callable[..., str], deployed: str, virtual_clock: VirtualClock
) -> None:
    """The time limit of a deployment that nobody runs takes no time."""
    assert start(deployed, timeout=HOUR) == "Scheduled"
    assert virtual_clock.skipped - 1 <= HOUR <= virtual_clock.elapsed
    assert not virtual_clock.unskipped


def test_a_deployment_that_has_a_worker_is_waited_for(
    deployed: str, virtual_clock: VirtualClock, prefect_server: str
) -> None:
    """If someone has asked for runs of a deployment, the wait for it is real, and told."""
    with get_client(sync_client=True) as client, httpx.Client(base_url=f"{prefect_server}/") as web:
        made = client.read_deployment_by_name(deployed)
        asked = {"deployment_ids": [str(made.id)]}
        web.post("deployments/get_scheduled_flow_runs", json=asked).raise_for_status()
        wait_until(lambda: client.read_deployment(made.id).status == "READY", "a ready deployment")
    assert start_child(deployed, timeout=1) == "Scheduled"
    assert virtual_clock.skipped < 1
    assert_told(
        virtual_clock, "'start-child' waited in real time for a worker that has not started"
    )


def test_a_run_that_another_process_executes_is_waited_for(
    virtual_clock: VirtualClock, prefect_server: str
) -> None:
    """A flow run that runs outside of pytest's processes is waited for in real time, and told."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(child)
        client.set_flow_run_state(run.id, Running(), force=True)
    with pytest.raises(FlowRunWaitTimeout):
        asyncio.run(wait_for_flow_run(run.id, timeout=1))
    assert virtual_clock.skipped == 0
    assert_told(virtual_clock, f"in real time for flow run {run.name!r} in another process")


def test_a_flow_run_that_nobody_runs_is_not_waited_for(
    deployed: str, virtual_clock: VirtualClock
) -> None:
    """`wait_for_flow_run` gives up at its time limit, of three hours, which take no time."""
    run = cast(FlowRun, run_deployment(deployed, timeout=0))
    with pytest.raises(FlowRunWaitTimeout):
        asyncio.run(wait_for_flow_run(run.id))
    assert virtual_clock.skipped - 1 <= 3 * HOUR <= virtual_clock.elapsed


class Answer(RunInput):
    """What a person answers."""

    approved: bool


@flow
def ask() -> list[bool]:
    """Wait for answers until an hour passes without one."""
    begun.put(flow_run.get_id())
    return [answer.approved for answer in receive_input(Answer, timeout=HOUR)]


@flow
async def ask_async() -> list[bool]:
    """Wait for answers until an hour passes without one."""
    begun.put(flow_run.get_id())
    return [answer.approved async for answer in receive_input(Answer, timeout=HOUR)]


@pytest.mark.parametrize("run", [ask, in_loop(ask_async)], ids=["sync", "async"])
def test_input_is_waited_for_without_time(
    run: Callable[[], list[bool]], virtual_clock: VirtualClock
) -> None:
    """What is sent to a flow run arrives at once, and waiting in vain takes no time."""

    def answer() -> None:
        Answer(approved=True).send_to(UUID(begun.get() or ""))

    sender = threading.Thread(target=answer)
    sender.start()
    assert run() == [True]
    sender.join()
    assert virtual_clock.elapsed >= HOUR
    assert virtual_clock.skipped <= 2 * HOUR


def test_a_wait_for_a_slot_ends_at_its_time_limit(virtual_clock: VirtualClock) -> None:
    """A wait for a slot that nobody frees ends when its time is over, which takes no time."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("taken", 1)

    @flow
    def in_vain() -> None:
        with concurrency("taken"), concurrency("taken", timeout_seconds=HOUR):
            pass

    with pytest.raises(TimeoutError):
        in_vain()
    assert virtual_clock.skipped - 1 <= HOUR <= virtual_clock.elapsed
    assert not virtual_clock.unskipped


def test_a_rate_limit_is_told(virtual_clock: VirtualClock) -> None:
    """A rate limit counts in real time, and a test that waits for one is told."""
    limit = GlobalConcurrencyLimitCreate(name="slow", limit=1, slot_decay_per_second=0.5)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(limit)

    @flow
    def call_twice() -> None:
        for _ in range(2):
            rate_limit("slow")

    call_twice()
    assert virtual_clock.skipped == 0
    assert_told(virtual_clock, "s for a rate limit")


@pytest.mark.parametrize("kind", [MemoryLockManager, FileSystemLockManager])
def test_a_task_that_waits_for_a_lock_lets_time_pass(
    kind: type[LockManager], virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """A task that waits for a lock gets it when the holder has ended, which sleeps for an hour."""
    locks: Any = kind(*([] if kind is MemoryLockManager else [tmp_path / "locks"]))
    policy = INPUTS.configure(isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=locks)
    virtual_clock.skip_sleep()
    calls: list[str] = []
    held, submitted = threading.Event(), threading.Event()

    @task(cache_policy=policy, persist_result=True)
    def compute(key: str) -> str:
        calls.append(key)
        held.set()
        submitted.wait()
        time.sleep(HOUR)
        return key

    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2)

    @flow(task_runner=runner)
    def compute_twice() -> list[str]:
        first = compute.submit("a key")
        # Who reads a lock file of Prefect before it is filled gets an error (the fact `empty` of
        # caching/single_flight): the second task starts when the first one has its lock.
        held.wait()
        second = compute.submit("a key")
        submitted.set()
        return [first.result(), second.result()]

    assert compute_twice() == ["a key"] * 2
    assert calls == ["a key"]
    assert HOUR - 1 <= virtual_clock.skipped <= HOUR + 1


def test_what_nobody_does_is_told(deployed: str, virtual_clock: VirtualClock) -> None:
    """A flow that looks again and again for what nothing else brings about is told."""
    started: list[str] = []
    runner = threading.Thread(target=lambda: started.append(start_child(deployed)))
    runner.start()
    with get_client(sync_client=True) as client:
        words = "'start-child' waited in real time for something that no other run does"
        wait_until(lambda: words in virtual_clock.unskipped, "the report")
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled"])),
                deployment_id=FlowRunFilterDeploymentId(
                    any_=[client.read_deployment_by_name(deployed).id]
                ),
            )
        )
        client.set_flow_run_state(run.id, Cancelled(), force=True)
    runner.join()
    assert started == ["Cancelled"]
    assert_told(virtual_clock, words)
