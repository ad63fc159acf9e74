# SPDX-License-Identifier: Apache-2.0
"""Tasks that take concurrency limits in opposite orders end, and are told; no others are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.task_runners import TaskRunner

from flowgauge.clock.leases import held_here
from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.deadlocks import slots, watch
from flowgauge.deadlocks.limits import SlotWait
from flowgauge.plugin.deadlock_watch import DEADLOCKS
from flowgauge.waiting import wait_until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than usual."""
    monkeypatch.setattr(watch, "PAUSE", 0.1)


@pytest.fixture
def limits(prefect_server: str) -> Iterator[None]:
    """Make two limits, of one slot each."""
    with get_client(sync_client=True) as client:
        for name in ("api", "db"):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        yield


both_hold = threading.Barrier(2)


@task
def copy(first: str, second: str, timeout: float | None = None) -> str:
    """Take a limit and, once the other task has one as well, a second one."""
    with concurrency(first):
        both_hold.wait(60)
        try:
            with concurrency(second, timeout_seconds=timeout):
                return first
        except TimeoutError:
            return f"{second} timed out"


@flow
def copies(*timeouts: float | None) -> list[str]:
    """Copy in both directions at once."""
    orders = [("api", "db"), ("db", "api")]
    futures = [copy.submit(*order, t) for order, t in zip(orders, timeouts, strict=True)]
    return [future.result() for future in futures]


@pytest.mark.runners("threads")
@pytest.mark.usefixtures("limits")
def test_limits_in_opposite_orders(
    task_runner: TaskRunner[Any], request: pytest.FixtureRequest
) -> None:
    """Both tasks get what they wait for, and the test fails with one line."""
    assert copies.with_options(task_runner=task_runner)(None, None) == ["api", "db"]
    lines: list[str] = request.node.stash[DEADLOCKS]
    (line,) = lines
    lines.clear()
    for held, wanted in (("api", "db"), ("db", "api")):
        assert f"task 'copy' holds '{held}' and waits for '{wanted}' (" in line
    assert "test_slots.py:" in line
    wait_until(lambda: not held_here, "nothing to be held")


@pytest.mark.usefixtures("limits")
def test_limits_in_opposite_orders_in_virtual_time(
    virtual_clock: VirtualClock, request: pytest.FixtureRequest
) -> None:
    """With the virtual clock it is the same."""
    assert copies(None, None) == ["api", "db"]
    assert len(request.node.stash[DEADLOCKS]) == 1
    request.node.stash[DEADLOCKS].clear()
    virtual_clock.unskipped.clear()


@pytest.mark.usefixtures("limits")
def test_a_time_limit_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of them gives up by itself, nothing is told, however often the watch looks."""
    seen: list[list[SlotWait]] = []

    def look() -> list[SlotWait]:
        seen.append(slots_stuck())
        return seen[-1]

    slots_stuck: Callable[[], list[SlotWait]] = slots.stuck_waits
    monkeypatch.setattr(slots, "stuck_waits", look)
    assert copies(3, None) == ["db timed out", "db"]
    assert len(seen) > 2
