# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/limits.py`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience, wait_until
from patterns.deployments.self_hosted_server import prefect_server as run_prefect_server
from patterns.task_runners.limits import ensure_limit, report_tables, slot, slot_async

NAME = "task_runners/limits"


@pytest.fixture
def name(prefect_server: str) -> str:
    """Return the name of a limit that does not exist yet."""
    return f"limit-{uuid4().hex}"


def taken(name: str) -> int:
    """Return how many slots of a limit are taken."""
    with get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name(name).active_slots)


def size(name: str) -> tuple[int, float]:
    """Return the slots of a limit, and how many of them are freed per second."""
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
        return limit.limit, limit.slot_decay_per_second


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Leave a file in a folder while the body runs, and note how many there were with it."""
    own = folder / f"{uuid4().hex}.here"
    own.touch()
    try:
        beside = len(list(folder.glob("*.here")))
        (folder / f"{own.stem}.saw-{beside}").touch()
        # Time for others to come in, if they are not kept out.
        time.sleep(0.05)
        yield
    finally:
        own.unlink()


def most(folder: Path) -> tuple[int, int]:
    """Return how many bodies ran, and the largest number that ran at once."""
    saw = [int(file.suffix.removeprefix(".saw-")) for file in folder.glob("*.saw-*")]
    return len(saw), max(saw)


@task
def query(number: int, name: str, folder: Path) -> int:
    """Hold a slot and note who else does."""
    with slot(name), noted(folder):
        return number


@task
def enter(number: int, folder: Path) -> int:
    """Note who else runs."""
    with noted(folder):
        return number


@pytest.mark.guarantee(NAME, "limited")
@pytest.mark.usefixtures("virtual_clock")
def test_no_more_bodies_run_than_there_are_slots(
    task_runner: TaskRunner[Any], name: str, tmp_path: Path
) -> None:
    """Two flow runs at once with two workers each: one body runs at a time."""
    ensure_limit(name, 1)

    @flow
    def queries(first: int) -> list[int]:
        return query.map(range(first, first + 2), name, tmp_path).result()

    def run(first: int) -> list[int]:
        return queries.with_options(task_runner=task_runner.duplicate())(first)

    with ThreadPoolExecutor() as threads:
        found = list(threads.map(run, [0, 10]))
    assert found == [[0, 1], [10, 11]]
    assert most(tmp_path) == (4, 1)
    assert taken(name) == 0


@pytest.mark.guarantee(NAME, "limited")
@pytest.mark.runners("threads")
def test_all_slots_are_used(task_runner: TaskRunner[Any], name: str, tmp_path: Path) -> None:
    """With two slots two bodies run at once: each waits here until the other has begun."""
    ensure_limit(name, 2)

    @task
    def meet(number: int) -> None:
        with slot(name):
            (tmp_path / str(number)).touch()
            wait_until((tmp_path / str(1 - number)).exists)

    @flow(task_runner=task_runner)
    def meetings() -> None:
        meet.map(range(2)).result()

    meetings()


@pytest.mark.guarantee(NAME, "tagged")
@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.runners("sequential", "threads", "dask-processes")
def test_no_more_tasks_of_a_tag_run_than_there_are_slots(
    task_runner: TaskRunner[Any], name: str, tmp_path: Path
) -> None:
    """Four tasks with a tag that has one slot run one after the other."""
    ensure_limit(f"tag:{name}", 1)

    @flow(task_runner=task_runner)
    def entries() -> list[int]:
        return enter.with_options(tags=[name]).map(range(4), tmp_path).result()

    assert entries() == [0, 1, 2, 3]
    assert most(tmp_path) == (4, 1)
    assert taken(f"tag:{name}") == 0


@pytest.mark.guarantee(NAME, "missing")
def test_a_limit_that_does_not_exist_is_refused(name: str, tmp_path: Path) -> None:
    """`slot` and `slot_async` raise an error for a limit that nobody has created."""
    refused = f"limits \\['{name}'\\] must be created before"
    with pytest.raises(Exception, match=refused), slot(name):
        (tmp_path / "ran").touch()

    async def enter_async() -> None:
        async with slot_async(name):
            (tmp_path / "ran").touch()

    with pytest.raises(Exception, match=refused):
        asyncio.run(enter_async())
    assert not (tmp_path / "ran").exists()


@pytest.mark.fact(NAME, "unlimited")
def test_a_limit_that_does_not_exist_limits_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two hold a slot of a limit that nobody has created, and a tag without a limit runs."""
    with concurrency(name), concurrency(name):
        assert "do not exist - skipping acquisition" in caplog.text
    assert enter.with_options(tags=[name])(1, tmp_path) == 1


@pytest.mark.guarantee(NAME, "returned")
@pytest.mark.runners("sequential", "threads", "dask-processes")
def test_a_slot_is_free_again_after_a_failure(task_runner: TaskRunner[Any], name: str) -> None:
    """Tasks that fail in the body, and tasks with a limited tag that fail, leave no slot taken."""
    ensure_limit(name, 1)
    ensure_limit(f"tag:{name}", 1)

    @task
    def fails() -> None:
        with slot(name):
            raise ConnectionError("the database hung up")

    @flow(task_runner=task_runner)
    def failures() -> list[Any]:
        futures = [fails.with_options(tags=[name]).submit() for _ in range(2)]
        return [str(future.result(raise_on_failure=False)) for future in futures]

    assert failures() == ["the database hung up"] * 2
    assert (taken(name), taken(f"tag:{name}")) == (0, 0)


@pytest.mark.guarantee(NAME, "returned")
def test_a_slot_is_free_again_after_a_task_timed_out(name: str) -> None:
    """A task that is ended by its `timeout_seconds` in the body leaves no slot taken."""
    entered = threading.Event()

    @task
    def hangs(name: str) -> None:
        with slot(name):
            entered.set()
            time.sleep(patience())

    # On a slow machine the first of these may be over before the task has its slot.
    for seconds in (0.3, 3, 30, patience()):
        own = f"{name} {seconds}"
        ensure_limit(own, 1)
        with pytest.raises(TimeoutError):
            hangs.with_options(timeout_seconds=seconds)(own)
        if entered.is_set():
            break
    assert taken(own) == 0


@pytest.mark.guarantee(NAME, "timeout")
def test_waiting_for_a_slot_can_be_limited(name: str) -> None:
    """If the only slot is taken, `timeout_seconds` ends the wait with a TimeoutError.

    The slot stays taken by the one who holds it, and nobody holds one afterwards.
    """
    ensure_limit(name, 1)

    async def ask_async() -> None:
        async with slot_async(name, timeout_seconds=0.2):
            pytest.fail("two hold one slot")

    with slot(name):
        with pytest.raises(TimeoutError), slot(name, timeout_seconds=0.2):
            pytest.fail("two hold one slot")
        with pytest.raises(TimeoutError):
            asyncio.run(ask_async())
        assert taken(name) == 1
    assert taken(name) == 0


@pytest.mark.fact(NAME, "nested")
def test_code_that_asks_for_its_own_slot_waits_for_itself(name: str) -> None:
    """Code that holds the only slot gets no other one, until a timeout ends its wait."""
    ensure_limit(name, 1)
    with (
        concurrency(name),
        pytest.raises(TimeoutError),
        concurrency(name, timeout_seconds=0.2),
    ):
        pytest.fail("there is only one slot")


@pytest.mark.guarantee(NAME, "rate")
def test_calls_beyond_the_rate_wait_for_a_slot_to_decay(name: str) -> None:
    """Three calls pass at once, and no fourth while no slot decays; then one more does.

    Nothing is given back at the end of a call.
    """
    ensure_limit(name, 3, per_second=1e-6)
    for _ in range(3):
        rate_limit(name, strict=True, timeout_seconds=patience())
    with pytest.raises(TimeoutError):
        rate_limit(name, strict=True, timeout_seconds=0.2)
    assert taken(name) == 3
    ensure_limit(name, 3, per_second=1000)
    wait_until(lambda: taken(name) < 3)
    rate_limit(name, strict=True, timeout_seconds=patience())


@pytest.mark.guarantee(NAME, "ensured")
@settings(max_examples=5)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.5])), min_size=1),
    held=st.integers(0, 9),
)
def test_a_limit_is_created_or_changed(
    prefect_server: str, sizes: list[tuple[int, float]], held: int
) -> None:
    """However often it is called, a limit has the last size and rate, and its slots stay taken."""
    name = f"limit-{uuid4().hex}"
    ensure_limit(name, 9)
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(
            name, GlobalConcurrencyLimitUpdate(active_slots=held)
        )
    for limit, rate in sizes:
        ensure_limit(name, limit, per_second=rate)
        assert size(name) == (limit, rate)
    if not any(rate for _, rate in sizes):
        assert taken(name) == held


@pytest.mark.guarantee(NAME, "ensured")
def test_many_may_ensure_a_limit_at_once(name: str) -> None:
    """Four at once create one limit; one without a slot is refused."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(ensure_limit, [name] * 4, [2] * 4))
    assert size(name) == (2, 0.0)
    with pytest.raises(ValueError, match=f"limit=0: '{name}' needs a slot or more"):
        ensure_limit(name, 0)


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.usefixtures("prefect_server")
def test_an_async_slot_lets_the_loop_run(name: str, tmp_path: Path) -> None:
    """Async bodies run one at a time, and others run while they wait for their slot."""
    ensure_limit(name, 1)
    order: list[str] = []

    async def first(entered: asyncio.Event, free: asyncio.Event) -> None:
        async with slot_async(name):
            entered.set()
            # Set while the second one waits for its slot.
            await asyncio.wait_for(free.wait(), patience())
            order.append("first")

    async def second(entered: asyncio.Event, free: asyncio.Event) -> None:
        await asyncio.wait_for(entered.wait(), patience())
        asyncio.get_running_loop().call_later(0.1, free.set)
        async with slot_async(name):
            order.append("second")

    async def both() -> None:
        entered, free = asyncio.Event(), asyncio.Event()
        await asyncio.gather(first(entered, free), second(entered, free))

    asyncio.run(both())
    assert order == ["first", "second"]
    assert taken(name) == 0


@pytest.mark.guarantee(NAME, "limited")
@pytest.mark.guarantee(NAME, "tagged")
@pytest.mark.runners("threads")
@pytest.mark.usefixtures("virtual_clock")
def test_the_flow_reports_its_tables(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow creates its limits, and leaves no slot of the first two taken."""
    report = report_tables.with_options(task_runner=task_runner)
    assert report(["guests", "rooms"]) == ["sent guests: 6 rows", "sent rooms: 5 rows"]
    assert [size(each) for each in ("database", "tag:printer", "mail")] == [(2, 0), (1, 0), (10, 5)]
    assert (taken("database"), taken("tag:printer")) == (0, 0)


@pytest.mark.fact(NAME, "wait-for")
@pytest.mark.runners("threads", "dask-processes")
@pytest.mark.usefixtures("virtual_clock")
def test_a_task_that_waits_for_others_takes_no_slot(
    task_runner: TaskRunner[Any], name: str, tmp_path: Path
) -> None:
    """Three tasks of one tag with one slot, each waiting for the one before it, run to the end.

    The last one is there first: all are submitted before the first has its slot.
    """
    ensure_limit(f"tag:{name}", 1)
    tagged: Any = enter.with_options(tags=[name])

    @flow(task_runner=task_runner)
    def chain() -> list[int]:
        with concurrency(f"tag:{name}"):
            one = tagged.submit(1, tmp_path)
            two = tagged.submit(2, tmp_path, wait_for=[one])
            three = tagged.submit(3, tmp_path, wait_for=[two])
        return [each.result() for each in (one, two, three)]

    assert chain() == [1, 2, 3]
    assert most(tmp_path) == (3, 1)


@pytest.mark.fact(NAME, "retry")
def test_who_keeps_a_slot_while_waiting_for_a_retry(name: str) -> None:
    """Between two attempts the slot of a tag is taken, and one taken in the body is free."""
    ensure_limit(name, 1)
    ensure_limit(f"tag:{name}", 1)
    seen = []
    again = threading.Event()

    def watch() -> None:
        while not again.is_set():
            seen.append((taken(name), taken(f"tag:{name}")))

    watcher = threading.Thread(target=watch)

    def start_to_watch(*_: Any) -> bool:
        watcher.start()
        wait_until(lambda: seen)
        return True

    @task(tags=[name], retries=1, retry_delay_seconds=0.5, retry_condition_fn=start_to_watch)
    def fails_once() -> None:
        if watcher.is_alive():
            again.set()
            watcher.join()
            return
        with slot(name):
            raise ConnectionError

    fails_once()
    assert set(seen) == {(0, 1)}
    assert taken(f"tag:{name}") == 0


HOLDER = """
import sys, time
from pathlib import Path
from patterns.task_runners.limits import slot

with slot(sys.argv[1]):
    Path(sys.argv[2]).touch()
    time.sleep(3600)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Yield a function that starts a process which takes a slot, and kills it."""
    started: list[subprocess.Popen[bytes]] = []

    def take_and_die(api: str, name: str) -> None:
        entered = tmp_path / f"entered {name}"
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, name, str(entered)],
            env={**os.environ, "PREFECT_API_URL": api},
            cwd=Path(__file__).parents[3],
        )
        started.append(process)
        wait_until(lambda: entered.exists() or process.poll() is not None)
        assert entered.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()

    yield take_and_die
    for process in started:
        process.kill()
        process.wait()


IN_FILES = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
}


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "killed")
def test_the_slot_of_a_killed_process_is_taken_until_its_lease_is_over(
    tmp_path: Path, hold: Callable[[str, str], None]
) -> None:
    """After SIGKILL a slot is taken; its lease is over within a minute, and then it is free.

    The server keeps leases in files here, so that the test can let the minute pass.
    """
    server = run_prefect_server(tmp_path / "home", settings=IN_FILES)
    with server as api, temporary_settings({PREFECT_API_URL: api}):
        ensure_limit("database", 1)
        hold(api, "database")
        assert taken("database") == 1
        folder = tmp_path / "home" / "concurrency_leases"
        (file,) = (each for each in folder.glob("*.json") if each.stem != "expirations")
        lease = json.loads(file.read_text())
        over = datetime.fromisoformat(lease["expiration"])
        assert over <= datetime.now(UTC) + timedelta(seconds=60)
        past = (over - timedelta(days=1)).isoformat()
        file.write_text(json.dumps(lease | {"expiration": past}))
        (folder / "expirations.json").write_text(json.dumps({file.stem: past}))
        wait_until(lambda: taken("database") == 0)


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "killed")
def test_the_slot_of_a_killed_process_is_free_after_its_lease(
    tmp_path: Path, hold: Callable[[str, str], None]
) -> None:
    """After SIGKILL the slot is taken, until the server looks for leases that are over.

    A lease is over 60 seconds after it was renewed for the last time.
    """
    with run_prefect_server(tmp_path / "home") as api, temporary_settings({PREFECT_API_URL: api}):
        ensure_limit("database", 1)
        hold(api, "database")
        assert taken("database") == 1
        # By default a lease lasts for 300 seconds.
        with slot("database", timeout_seconds=240):
            assert taken("database") == 1


@pytest.mark.nightly
@pytest.mark.fact(NAME, "forgotten")
def test_a_server_that_restarts_forgets_who_holds_slots(tmp_path: Path) -> None:
    """After a restart a slot is still taken, and whoever held it can't give it back."""
    before, after = taken_across_a_restart(tmp_path / "home", {})
    assert (before, after) == (1, 1)


@pytest.mark.nightly
def test_a_server_that_keeps_leases_in_files_remembers(tmp_path: Path) -> None:
    """With leases in files, as "Not for" advises, a slot is given back after a restart."""
    before, after = taken_across_a_restart(tmp_path / "home", IN_FILES)
    assert (before, after) == (1, 0)


def taken_across_a_restart(home: Path, settings: dict[str, str]) -> tuple[int, int]:
    """Take a slot, restart the server, and return what is taken before and after its release."""
    server = run_prefect_server(home, settings=settings)
    with server as api, temporary_settings({PREFECT_API_URL: api}):
        ensure_limit("database", 1)
        with get_client(sync_client=True) as client:
            answer = client.increment_concurrency_slots_with_lease(
                names=["database"], slots=1, mode="concurrency", lease_duration=60
            )
    server = run_prefect_server(home, settings=settings)
    with server as api, temporary_settings({PREFECT_API_URL: api}):
        before = taken("database")
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(answer.json()["lease_id"])
        return before, taken("database")
