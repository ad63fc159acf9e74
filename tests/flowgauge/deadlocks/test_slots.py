# SPDX-License-Identifier: Apache-2.0
"""Tasks that take concurrency limits in opposite orders end, and are told; no others are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency import asyncio as in_loop
from prefect.concurrency import sync
from prefect.task_runners import TaskRunner

from flowgauge.clock.slot_log import Code, Holding, SlotLog, SlotWait, note_held, noted_wait
from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.deadlocks import watch
from flowgauge.deadlocks.slots import Slots
from flowgauge.plugin.deadlock_watch import DEADLOCKS
from flowgauge.plugin.session import run_home
from flowgauge.waiting import wait_until

ORDERS = [("api", "db"), ("db", "api")]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than usual."""
    monkeypatch.setattr(watch, "PAUSE", 0.1)


@pytest.fixture
def slots(prefect_server: str, request: pytest.FixtureRequest) -> Iterator[SlotLog]:
    """Make two limits, of one slot each; in the end nobody holds a slot or waits for one."""
    with get_client(sync_client=True) as client:
        for name in ("api", "db"):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    log = SlotLog(run_home(request.config))
    yield log

    def is_over() -> bool:
        log.read_on()
        return not log.held and not log.waits

    wait_until(is_over, "nothing to be held")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Return what each look at the slots found."""
    seen: list[list[Any]] = []
    stock = Slots.stuck

    def stuck(self: Slots) -> Any:
        found = stock(self)
        seen.append(found[0])
        return found

    monkeypatch.setattr(Slots, "stuck", stuck)
    return seen


def until_seen(looks: list[list[Any]]) -> Iterator[float]:
    """Yield longer and longer times, in seconds, until the watch looks often enough meanwhile."""
    seconds = 1.0
    while len(looks) < 6:
        looks.clear()
        yield seconds
        seconds *= 2


def folder(root: Path) -> Path:
    """Return a new folder."""
    return Path(tempfile.mkdtemp(dir=root))


def both_hold(folder: Path, first: str) -> bool:
    """Return whether the other task, perhaps in another process, holds its first limit as well."""
    (folder / first).touch()
    return len(os.listdir(folder)) == len(ORDERS)


@task
def copy(first: str, second: str, folder: Path, timeout: float | None = None) -> str:
    """Take a limit and, once the other task has one as well, a second one."""
    with sync.concurrency(first):
        while not both_hold(folder, first):
            time.sleep(0.02)
        try:
            with sync.concurrency(second, timeout_seconds=timeout):
                return first
        except TimeoutError:
            return f"{second} timed out"


@task
async def copy_async(first: str, second: str, folder: Path, timeout: float | None = None) -> str:
    """Do the same without a thread."""
    async with in_loop.concurrency(first):
        while not both_hold(folder, first):
            await asyncio.sleep(0.02)
        try:
            async with in_loop.concurrency(second, timeout_seconds=timeout):
                return first
        except TimeoutError:
            return f"{second} timed out"


@flow
def copies(copier: Any, folder: Path, *timeouts: float) -> list[str]:
    """Copy in both directions at once; each task has a time limit if there are any."""
    limits = timeouts or (None, None)
    futures = [copier.submit(*order, folder, t) for order, t in zip(ORDERS, limits, strict=True)]
    return [future.result() for future in futures]


@flow
async def copies_in_loop(folder: Path) -> list[str]:
    """Copy in both directions at once, in one event loop, while a request is not answered."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with httpx.AsyncClient(timeout=300) as client:
            request = asyncio.ensure_future(
                client.get(f"http://127.0.0.1:{silent.getsockname()[1]}")
            )
            # It is open as long as it has a name.
            connection, _ = await asyncio.to_thread(silent.accept)
            try:
                return list(await asyncio.gather(*(copy_async(*each, folder) for each in ORDERS)))
            finally:
                assert not request.done()
                request.cancel()
                connection.close()


def check(request: pytest.FixtureRequest, name: str) -> None:
    """Check that one line tells both tasks; the test does not fail because of it."""
    lines: list[str] = request.node.stash[DEADLOCKS]
    (line,) = lines
    lines.clear()
    for held, wanted in ORDERS:
        assert f"task '{name}' holds '{held}' and waits for '{wanted}' (" in line
    assert "test_slots.py:" in line or f"of {name}" in line


@pytest.mark.runners("threads", "processes", "lean-processes", "dask-threads", "dask-processes")
@pytest.mark.usefixtures("slots")
@pytest.mark.parametrize("copier", [copy, copy_async], ids=["sync", "async"])
def test_limits_in_opposite_orders(
    task_runner: TaskRunner[Any],
    virtual_clock: VirtualClock,
    copier: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Both tasks get what they wait for, wherever they run, and the test fails with one line."""
    run = copies.with_options(task_runner=task_runner)
    assert run(copier, tmp_path) == ["api", "db"]
    check(request, copier.fn.__name__)
    virtual_clock.unskipped.clear()


@pytest.mark.usefixtures("slots")
def test_limits_in_opposite_orders_in_real_time(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Without the virtual clock it is the same."""
    assert copies(copy, tmp_path) == ["api", "db"]
    check(request, "copy")


@pytest.mark.usefixtures("slots")
def test_limits_in_opposite_orders_in_one_loop(
    virtual_clock: VirtualClock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two tasks of one event loop are told as well."""
    assert asyncio.run(copies_in_loop(tmp_path)) == ["api", "db"]
    check(request, "copy_async")
    virtual_clock.unskipped.clear()


@pytest.mark.runners("threads")
@pytest.mark.usefixtures("slots")
@pytest.mark.parametrize("copier", [copy, copy_async], ids=["sync", "async"])
def test_a_time_limit_is_waited_for(
    task_runner: TaskRunner[Any], copier: Any, tmp_path: Path, looks: list[list[Any]]
) -> None:
    """If both give up by themselves, nothing is told, however often the watch looks."""
    run = copies.with_options(task_runner=task_runner)
    for seconds in until_seen(looks):
        assert "db timed out" in run(copier, folder(tmp_path), seconds, seconds + 1)
    assert not any(looks)


@pytest.mark.runners("processes")
@pytest.mark.usefixtures("slots")
@pytest.mark.parametrize("copier", [copy, copy_async], ids=["sync", "async"])
def test_the_time_limit_of_a_task_is_waited_for(
    task_runner: TaskRunner[Any], copier: Any, tmp_path: Path, looks: list[list[Any]]
) -> None:
    """The same holds for the time limits of tasks, where Prefect can interrupt them."""
    run = copies.with_options(task_runner=task_runner)
    for seconds in until_seen(looks):
        limited = copier.with_options(timeout_seconds=seconds)
        assert run(limited, folder(tmp_path), return_state=True).is_failed()
    assert not any(looks)


@flow
async def copies_for(seconds: float, folder: Path, how: str) -> str:
    """Copy in both directions, and give up after some time."""
    both = [asyncio.ensure_future(copy_async(*order, folder)) for order in ORDERS]
    if how == "wait":
        await asyncio.wait(both, timeout=seconds)
    elif how == "timeout":
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*both)
        except TimeoutError:
            return "gave up"
    for each in both:
        each.cancel()
    results = await asyncio.gather(*both, return_exceptions=True)
    return "gave up" if all(isinstance(each, BaseException) for each in results) else "copied"


@pytest.mark.usefixtures("slots")
@pytest.mark.parametrize("how", ["wait", "timeout"])
def test_code_that_gives_up_is_waited_for(how: str, tmp_path: Path, looks: list[list[Any]]) -> None:
    """If code around the tasks cancels them after some time, nothing is told."""
    for seconds in until_seen(looks):
        assert asyncio.run(copies_for(seconds, folder(tmp_path), how)) == "gave up"
    assert not any(looks)


@pytest.mark.usefixtures("slots")
def test_a_test_that_gives_up_is_waited_for(tmp_path: Path, looks: list[list[Any]]) -> None:
    """The same holds if a coroutine of the test does."""

    async def give_up(seconds: float) -> bool:
        run = asyncio.ensure_future(copies_in_loop(folder(tmp_path)))
        await asyncio.sleep(seconds)
        return run.cancel()

    for seconds in until_seen(looks):
        assert asyncio.run(give_up(seconds))
    assert not any(looks)


@pytest.mark.usefixtures("slots")
def test_the_waits_of_processes_that_have_ended_are_over(tmp_path: Path) -> None:
    """A process that was killed while it waited does not wait any more."""
    here, ended = Code.here(), replace(Code.here(), created=0.0)
    note_held(tmp_path, "of the dead", Holding(ended, ("api",), 1, 0.0))
    note_held(tmp_path, "of the living", Holding(here, ("db",), 1, 0.0))
    with contextlib.ExitStack() as waits:
        for code, limit in ((here, "api"), (ended, "db")):
            waits.enter_context(noted_wait(tmp_path, SlotWait(code, "copy", (limit,), 1, "x.py:1")))
        assert Slots(tmp_path).stuck() == ([], {})
