# SPDX-License-Identifier: Apache-2.0
"""A wait for a flow run that nobody executes ends, and is told; no other one is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.flow_runs import wait_for_flow_run
from prefect.types._datetime import now

from flowgauge.clock.outside import code_outside
from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.deadlocks import deployments, watch
from flowgauge.deadlocks.deployments import VainWait, _has_service
from flowgauge.plugin.deadlock_watch import DEADLOCKS
from flowgauge.services.service import Service

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than usual."""
    monkeypatch.setattr(watch, "PAUSE", 0.1)


@flow
def child() -> int:
    """Return a number."""
    return 1


@pytest.fixture
def deployed() -> str:
    """Deploy a flow that nobody serves, and return the deployment's name."""
    deployment: Any = child.to_deployment("nobody")
    deployment.apply()
    return "child/nobody"


@flow
def nightly(name: str, **options: Any) -> str:
    """Wait for a run of a deployment, and return the name of its last state."""
    run: Any = run_deployment(name, poll_interval=0.1, **options)
    return str(run.state.name)


@flow
async def nightly_async(name: str, **options: Any) -> str:
    """Wait for a run of a deployment, and return the name of its last state."""
    waits: Any = run_deployment(name, poll_interval=0.1, **options)
    return str((await waits).state.name)


@flow
async def waits_later(name: str) -> str:
    """Wait for a run that has been asked for, for at most three hours."""
    asks: Any = run_deployment(name, timeout=0)
    run: Any = await wait_for_flow_run((await asks).id)
    return str(run.state_name)


def told(request: pytest.FixtureRequest) -> str:
    """Return the line about this test, which then does not fail because of it."""
    lines: list[str] = request.node.stash[DEADLOCKS]
    (line,) = lines
    lines.clear()
    return line


@pytest.mark.parametrize("parent", [nightly, nightly_async, waits_later], ids=lambda f: f.name)
def test_a_run_that_nobody_executes_is_told(
    deployed: str, request: pytest.FixtureRequest, parent: Any
) -> None:
    """The flow run is cancelled, so that the flow goes on, and a line names it and the place."""
    ended = parent(deployed)
    assert (asyncio.run(ended) if asyncio.iscoroutine(ended) else ended) == "Cancelled"
    line = told(request)
    assert "of deployment 'child/nobody' is waited for (" in line
    assert f"{__file__.rpartition('/')[2]}:" in line
    assert "but nobody executes it: start one of the fixtures serve and worker" in line


def test_it_is_told_in_virtual_time_as_well(
    deployed: str, request: pytest.FixtureRequest, virtual_clock: VirtualClock
) -> None:
    """With the virtual clock, where the wait takes no time but never ends, it is the same."""
    assert nightly(deployed) == "Cancelled"
    assert "but nobody executes it" in told(request)
    virtual_clock.unskipped.clear()


def test_a_wait_with_a_time_limit_ends_by_itself(deployed: str, looks: Looks) -> None:
    """It is not told, although nobody executes the run."""
    assert nightly(deployed, timeout=1) == "Scheduled"
    assert looks.count == 0


@dataclass
class Looks:
    """How often the watch has looked at a wait, and what happens when that is often enough."""

    count: int = 0
    then: Callable[[], object] = bool
    is_over: bool = False

    def __call__(self, threads: Container[int]) -> str:
        """Look at what else the test does."""
        self.count += 1
        if self.count == 4:
            self.then()
        return code_outside(threads)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    """Count how often the watch looks at a wait."""
    looks = Looks()
    monkeypatch.setattr(deployments, "code_outside", looks)
    yield looks
    looks.is_over = True


def in_a_thread(serves: Callable[[], object], looks: Looks) -> None:
    """Act in a thread of the test, once the watch has looked."""
    while looks.count < 4 and not looks.is_over:
        time.sleep(0.05)
    serves()


def in_a_timer(serves: Callable[[], object], looks: Looks) -> None:
    """Act in one of several timers of the test, once the watch has looked."""
    if looks.is_over:
        return
    if looks.count < 4:
        threading.Timer(0.3, in_a_timer, (serves, looks)).start()
    else:
        serves()


@pytest.mark.parametrize("act", [in_a_thread, in_a_timer])
def test_who_may_still_serve_it_is_waited_for(
    deployed: str,
    serve: Callable[..., Service],
    looks: Looks,
    act: Callable[[Callable[[], object], Looks], None],
) -> None:
    """While code of the test may still act, nothing is told; it serves the deployment then."""
    actor = threading.Thread(target=act, args=(lambda: serve(child, "nobody"), looks))
    actor.start()
    assert nightly(deployed) == "Completed"
    actor.join()


def test_a_coroutine_beside_the_flow_is_waited_for(
    deployed: str, serve: Callable[..., Service], looks: Looks
) -> None:
    """The same for a coroutine in the event loop that executes the flow."""

    async def act() -> None:
        while looks.count < 4:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(serve, child, "nobody")

    async def both() -> str:
        state, _ = await asyncio.gather(nightly_async(deployed), act())
        return str(state)

    assert asyncio.run(both()) == "Completed"


def test_a_process_that_the_test_has_started_may_be_a_worker(
    deployed: str, request: pytest.FixtureRequest, looks: Looks
) -> None:
    """While it runs, nothing is told."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        looks.then = process.stdin.close
        assert nightly(deployed) == "Cancelled"
        assert looks.count > 4
    assert "but nobody executes it" in told(request)


def test_a_run_of_a_served_deployment_is_waited_for(
    serve: Callable[..., Service],
) -> None:
    """A run that starts later than now is waited for, if its deployment is served."""
    served = serve(child)
    later = now("UTC") + timedelta(seconds=1)
    assert nightly(served.name, scheduled_time=later) == "Completed"


def test_a_service_that_has_not_looked_yet_counts(
    deployed: str, serve: Callable[..., Service], worker: Callable[..., Service]
) -> None:
    """A run is not told if a service of the test has its deployment or its work pool."""
    pooled: Any = child.to_deployment("pooled", work_pool_name="pool")
    working = worker("pool")
    pooled.apply()
    names = (deployed, "child/pooled")
    runs = [cast(FlowRun, run_deployment(name, timeout=0)) for name in names]
    waits = [VainWait(str(run.id), "here") for run in runs]
    assert [_has_service(wait) for wait in waits] == [False, True]
    serve(child, "nobody")
    assert [_has_service(wait) for wait in waits] == [True, True]
    working.runs()
