# SPDX-License-Identifier: Apache-2.0
"""A test whose tasks wait for each other for ever ends, and says why; no other one is accused."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
from prefect import flow, task, unmapped
from prefect.futures import as_completed, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.deadlocks import dask, watch
from flowgauge.deadlocks.dask import pool_of
from flowgauge.deadlocks.waiting import Awaited, Pool, Waiting, deadlocked
from flowgauge.deadlocks.waiting import told as told_of
from flowgauge.plugin.deadlock_watch import DEADLOCKS
from flowgauge.waiting import wait_until

LIMIT = 1.0
"""Seconds; several times as long as it takes to find a deadlock here."""

SHARED = ("threads", "dask-threads", "dask-processes")
"""Task runners whose tasks and those that they submit share the places of one pool."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than usual."""
    monkeypatch.setattr(watch, "PAUSE", 0.1)


def told(request: pytest.FixtureRequest) -> str:
    """Return the line about this test, which then does not fail because of it."""
    lines: list[str] = request.node.stash[DEADLOCKS]
    (line,) = lines
    lines.clear()
    return line


@task
def leaf(number: int) -> int:
    """Return a number."""
    return number


@task
def branch(number: int) -> int:
    """Wait for a task that needs a place, too."""
    return int(leaf.submit(number).result())


@task(name="branch")
def branch_of_two(number: int, meeting: Path) -> int:
    """Do the same once two of them have a place."""
    (meeting / str(number)).touch()
    wait_until(lambda: len(list(meeting.iterdir())) >= 2, "another branch")
    return int(leaf.submit(number).result())


@flow
def tree(meeting: Path) -> list[int]:
    """Run more branches than there are places, of which there are two."""
    return branch_of_two.map(range(3), unmapped(meeting)).result()


@pytest.mark.runners(*SHARED, "lean-dask")
def test_a_deadlock_ends_and_is_told(
    task_runner: TaskRunner[Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Tasks that wait for tasks without a place get an error, and one line tells the deadlock."""
    with pytest.raises(CancelledError):
        tree.with_options(task_runner=task_runner)(tmp_path)
    line = told(request)
    assert ": all 2 places are taken" in line
    assert "'branch' waits for 'leaf' (" in line


@pytest.mark.runners("dask-processes")
def test_a_cluster_is_free_again_after_a_deadlock(task_runner: TaskRunner[Any]) -> None:
    """A task that still waits for one that Dask has queued behind it does not keep its place."""
    address: str = task_runner.address  # type: ignore[attr-defined]

    def wait_behind() -> None:
        here = distributed.get_worker().address
        distributed.get_client().submit(time.time, workers=[here], pure=False).result()

    with distributed.Client(address, set_as_default=False) as client:
        waiting = client.submit(wait_behind, pure=False)

        def executing() -> bool:
            return any(look.executing for look in client.run(dask.look_at).values())

        wait_until(executing, "the task to wait")
        dask.clear(address)
        assert not executing()
        assert waiting.cancelled()


def test_async_tasks_deadlock_too(prefect_server: str, request: pytest.FixtureRequest) -> None:
    """The same holds for async tasks and flows, and for a pool with one place."""

    @task
    async def inner() -> None:
        """Do nothing."""

    @task
    async def outer() -> None:
        wait([inner.submit()])

    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)

    @flow(task_runner=runner)
    async def nested() -> None:
        future: Any = outer.submit()
        future.result()

    with pytest.raises(CancelledError):
        asyncio.run(nested())
    assert "its only place is taken" in (line := told(request))
    assert f"'outer' waits for 'inner' ({os.path.relpath(__file__)}:" in line


def test_a_deadlock_over_two_levels_names_all(
    prefect_server: str, request: pytest.FixtureRequest
) -> None:
    """Who waits for a task that waits for a place is told with its name, too."""

    @task
    def trunk() -> int:
        return int(branch.submit(1).result())

    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2)
    with pytest.raises(CancelledError):
        flow(task_runner=runner, name="tree")(lambda: trunk.submit().result())()
    assert "'branch' waits for 'leaf' (" in (line := told(request))
    assert "'trunk' waits for 'branch' (" in line


def test_virtual_time_does_not_hide_a_deadlock(
    virtual_clock: VirtualClock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A deadlock is told under the virtual clock, too."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2)
    with pytest.raises(CancelledError):
        tree.with_options(task_runner=runner)(tmp_path)
    assert "deadlock in ThreadPoolTaskRunner" in told(request)


@pytest.mark.runners("processes")
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_watch_goes_on_beside_a_wait_for_another_process(
    task_runner: TaskRunner[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A called task that waits for one in a process pool does not end the watch."""
    started, seen = tmp_path / "started", tmp_path / "seen"
    looks = count()

    def counting(pools: list[Pool]) -> list[Pool]:
        # The task has started, so the flow waits for it in one of the next looks.
        if started.exists() and next(looks) == 5:
            seen.touch()
        return deadlocked(pools)

    @task
    def last() -> bool:
        started.touch()
        return bool(wait_until(seen.exists))

    @flow(task_runner=task_runner)
    def waits() -> int:
        return leaf(7, wait_for=[last.submit()])

    monkeypatch.setattr(watch, "deadlocked", counting)
    assert waits() == 7


def first_of(number: int, seconds: float) -> object:
    """Wait for the first of submitted tasks with a time limit."""
    return next(as_completed([leaf.submit(number)], timeout=seconds))


@pytest.mark.parametrize(
    "waits",
    [
        lambda number, seconds: leaf.submit(number).result(timeout=seconds),
        lambda number, seconds: wait([leaf.submit(number)], timeout=seconds),
        first_of,
    ],
    ids=["result", "wait", "as_completed"],
)
def test_a_wait_with_a_time_limit_is_left_alone(
    waits: Callable[[int, float], object], prefect_server: str
) -> None:
    """Tasks that wait for a place with a time limit end by themselves."""

    @task
    def waiting(number: int) -> None:
        waits(number, LIMIT)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
    def in_time() -> list[str | None]:
        futures = waiting.map(range(2))
        futures.wait()
        return [future.state.name for future in futures]

    # What waited once has a place when the other one has given up.
    assert "Crashed" not in in_time()


@pytest.mark.runners(*SHARED)
def test_a_place_that_becomes_free_is_waited_for(task_runner: TaskRunner[Any]) -> None:
    """A task waits for one that needs the place of a task that still computes: no deadlock."""

    @task
    def compute() -> None:
        time.sleep(LIMIT)

    @flow(task_runner=task_runner)
    def tree() -> int:
        computed = compute.submit()
        found: int = branch.submit(7).result()
        computed.wait()
        return found

    assert tree() == 7


@pytest.mark.runners("dask-processes")
def test_a_task_that_gave_its_place_back_is_left_alone(task_runner: TaskRunner[Any]) -> None:
    """Tasks that wait after Dask's `secede` take no place, which others therefore get."""

    @task
    def compute() -> None:
        time.sleep(LIMIT)

    @task
    def branch(number: int) -> int:
        distributed.secede()
        computed = compute.submit()
        found: int = leaf.submit(number).result()
        computed.wait()
        return found

    @flow(task_runner=task_runner)
    def tree() -> list[int]:
        return branch.map(range(2)).result()

    assert tree() == [0, 1]


@pytest.mark.parametrize(
    ("address", "adaptive"), [("tcp://192.0.2.1:8786", None), ("tcp://127.0.0.1:8786", object())]
)
def test_a_cluster_that_may_grow_is_left_alone(address: str, adaptive: object) -> None:
    """A cluster on other machines, and one that adapts, may get workers; it is not even asked."""
    scheduler, cluster = SimpleNamespace(address=address), SimpleNamespace(_adaptive=adaptive)
    asked: list[object] = []
    client: Any = SimpleNamespace(scheduler=scheduler, cluster=cluster, _run="look")
    client.sync = lambda *args, **_: asked.append(args)
    assert pool_of(client) is None
    assert asked == []


def test_a_cluster_that_has_lost_a_worker_is_left_alone() -> None:
    """Dask starts another worker in place of one that has died: there will be a place."""
    waiting = Waiting("branch", (Awaited("leaf-1", "leaf"),), "flow.py:7")
    looks = {
        "one": dask.Look(1, {"branch-1": waiting}, frozenset()),
        "two": dask.Look(1, {}, frozenset()),
    }

    def sync(call: str, *args: object, **kwargs: Any) -> Any:
        return looks if call == "look" else {"leaf-1"}

    client: Any = SimpleNamespace(
        scheduler=SimpleNamespace(address=f"tcp://127.0.0.1:{uuid.uuid4()}"),
        cluster=None,
        sync=sync,
        _run="look",
        _run_on_scheduler="queued",
    )
    both = pool_of(client)
    assert both is not None
    assert both.width == 2
    del looks["two"]
    assert pool_of(client) is None


def test_what_one_look_sees_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock is told when a second look sees the same, and is then ended.

    It is told once, however often it is seen until it is over.
    """
    one, other = (
        Pool("a pool", 1, {"b": Waiting("branch", (Awaited("l", "leaf"),), where)}, frozenset("l"))
        for where in ("here", "there")
    )
    ended: list[Pool] = []
    looks = iter([[one], [], [one], [other], [other], [other]])
    over = threading.Event()

    def look() -> tuple[list[Pool], Callable[[], list[str]]]:
        now = next(looks, [])
        if not now and ended:
            over.set()

        def end() -> list[str]:
            ended.extend(now)
            read.extend(found)
            found.clear()
            return list(map(told_of, now))

        return now, end

    found: list[str] = []
    read: list[str] = []
    monkeypatch.setattr(watch, "PAUSE", 0.0)
    watch._watch(found, over, [look])
    assert read + found == [told_of(other)]
    assert ended == [other, other]


def test_a_test_with_a_deadlock_fails(pytester: pytest.Pytester) -> None:
    """A test, and a fixture, with a deadlock fail with one line, and the next test passes."""
    pytester.makeini("[pytest]\nflowgauge = true\n")
    pytester.makepyfile(
        """
        import pytest
        from prefect import flow, task
        from prefect.task_runners import ThreadPoolTaskRunner

        @task
        def leaf():
            return 7

        @task
        def branch():
            return leaf.submit().result()

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
        def tree():
            return branch.submit().result(raise_on_failure=False)

        @pytest.fixture
        def grown(prefect_server):
            return tree()

        def test_tree(prefect_server):
            tree()

        def test_grown(grown):
            pass

        def test_leaf(prefect_server):
            assert tree.with_options(task_runner=ThreadPoolTaskRunner(max_workers=2))() == 7
        """
    )
    result = pytester.runpytest_subprocess("-n0")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*deadlock in ThreadPoolTaskRunner: its only place is taken*(test_a_test*.py:*"]
    )
    assert "Traceback" not in result.stdout.str().partition("Captured")[0]
