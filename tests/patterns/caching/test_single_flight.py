# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/single_flight.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.locking.filesystem import FileSystemLockManager
from prefect.locking.protocol import LockManager
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from prefect.transactions import transaction

from flowgauge.runners.process_pool import preloaded_context
from flowgauge.waiting import patience, wait_until
from patterns.caching import single_flight as pattern
from patterns.caching.single_flight import (
    EndingLocks,
    FileLocks,
    PostgresLocks,
    draw_map,
    single_flight,
)
from patterns.deployments.self_hosted_server import postgres

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "caching/single_flight"
Ask = Callable[..., list[int | None]]
"""A function that lets processes ask for regions, and returns how they ended."""


@dataclass
class Shared:
    """A folder that all who ask share, where they note what they do."""

    folder: Path

    def note(self, what: str) -> None:
        """Note that something happened."""
        (self.folder / f"{what}-{uuid4().hex}").touch()

    def noted(self, what: str) -> int:
        """Return how often something happened."""
        return len(list(self.folder.glob(f"{what}-*")))

    def wait(self, what: str, times: int = 1) -> None:
        """Wait until something has happened."""
        wait_until(lambda: self.noted(what) >= times, f"{what} {times} times")


class NotingFileLocks(FileLocks):
    """File locks that note each try that was refused."""

    def __init__(self, shared: Shared, locks: Path) -> None:
        super().__init__(locks)
        self.shared = shared

    def lock(self, key: str) -> Callable[[], None] | None:
        """Lock a key, or note that it was locked."""
        unlock = super().lock(key)
        if unlock is None:
            self.shared.note("refused")
        return unlock


class ImpatientFileLocks(FileLocks):
    """File locks for which a wait that would be for ever is an error."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Lock a key, or fail."""
        if not super().acquire_lock(key, holder, acquire_timeout or patience(60), hold_timeout):
            raise TimeoutError(f"{key} stays locked")
        return True


class NotingPostgresLocks(PostgresLocks):
    """PostgreSQL locks that note each try that was refused."""

    def __init__(self, shared: Shared, url: str) -> None:
        super().__init__(url)
        self.shared = shared

    def lock(self, key: str) -> Callable[[], None] | None:
        """Lock a key, or note that it was locked."""
        unlock = super().lock(key)
        if unlock is None:
            self.shared.note("refused")
        return unlock


@dataclass
class Machine:
    """A process with a Prefect home of its own, which asks for a map."""

    api: str
    home: Path
    shared: Shared
    locks: LockManager | None

    def ask(self, region: str, compute: Callable[[Shared, str], str]) -> None:
        """Ask for the map of a region, in a flow run in this process, and note the answer."""
        here = {
            PREFECT_API_URL: self.api,
            PREFECT_HOME: self.home,
            PREFECT_LOCAL_STORAGE_PATH: self.home / "storage",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with temporary_settings(here):
            draw = drawing(self.shared, self.locks, compute)

            @flow
            def asks() -> str:
                return draw(region)

            try:
                self.shared.note(f"got {asks()}")
            except LookupError as error:
                self.shared.note(f"failed {error.args[0]}")


def drawing(
    shared: Shared, locks: LockManager | None, compute: Callable[[Shared, str], str]
) -> Callable[[str], str]:
    """Return a task that draws a map, with or without locks."""
    results = shared.folder / "results"
    options: dict[str, Any]
    if locks is None:
        options = {"cache_policy": INPUTS, "persist_result": True, "result_storage": results}
    else:
        options = single_flight(INPUTS, locks, results)

    @task(**options)
    def draw(region: str) -> str:
        shared.note("computed")
        return compute(shared, region)

    return draw


def in_files(shared: Shared) -> dict[str, Any]:
    """Return options of a task that is computed once, by locks in a folder."""
    locks = ImpatientFileLocks(shared.folder / "locks")
    return single_flight(INPUTS + TASK_SOURCE, locks, shared.folder / "results")


def when_refused(shared: Shared, region: str) -> str:
    """Draw a map when another one has been refused the lock, or draws it, too."""
    wait_until(lambda: shared.noted("refused") + shared.noted("computed") > 1, "another asks")
    return f"map of {region}"


def beside_another(shared: Shared, region: str) -> str:
    """Draw a map while another one is drawn."""
    shared.wait("computed", times=2)
    return f"map of {region}"


def failing_first(shared: Shared, region: str) -> str:
    """Fail the first time, when another one has been refused the lock."""
    if shared.noted("computed") == 1:
        shared.wait("refused")
        raise LookupError(region)
    return f"map of {region}"


def killed_first(shared: Shared, region: str) -> str:
    """End this process as the kernel would, when another one has been refused the lock."""
    if shared.noted("computed") == 1:
        shared.wait("refused")
        os.kill(os.getpid(), signal.SIGKILL)
    return f"map of {region}"


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    """Return the folder that all share."""
    (tmp_path / "shared").mkdir()
    return Shared(tmp_path / "shared")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Yield the URL of a PostgreSQL database."""
    with tempfile.TemporaryDirectory() as data, postgres(Path(data) / "data") as url:
        yield url.replace("+asyncpg", "")


@pytest.fixture(params=["files", pytest.param("postgres", marks=pytest.mark.e2e)])
def locks(request: pytest.FixtureRequest, shared: Shared) -> EndingLocks:
    """Return locks that note each try that was refused, of each kind."""
    if request.param == "files":
        return NotingFileLocks(shared, shared.folder / "locks")
    return NotingPostgresLocks(shared, request.getfixturevalue("database"))


@pytest.fixture
def ask(prefect_server: str, tmp_path: Path, shared: Shared) -> Iterator[Ask]:
    """Yield a function that starts two processes that ask, and waits until they have ended."""
    started: list[BaseProcess] = []

    def run(
        locks: LockManager | None, compute: Callable[[Shared, str], str], *regions: str
    ) -> list[int | None]:
        for number, region in enumerate(regions):
            machine = Machine(prefect_server, tmp_path / f"home-{number}", shared, locks)
            process: BaseProcess = preloaded_context().Process(
                target=machine.ask, args=(region, compute)
            )
            process.start()
            started.append(process)
        for process in started:
            process.join(patience())
        return [process.exitcode for process in started]

    yield run
    for process in started:
        process.kill()
        process.join()


@pytest.mark.guarantee(NAME, "once")
def test_two_processes_compute_once(ask: Ask, shared: Shared, locks: EndingLocks) -> None:
    """Two processes that ask at once get one computation; one of them waits for it."""
    assert ask(locks, when_refused, "Alps", "Alps") == [0, 0]
    assert shared.noted("computed") == 1
    assert shared.noted("got map of Alps") == 2


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "server")
def test_two_machines_compute_once(ask: Ask, shared: Shared, database: str) -> None:
    """With `PostgresLocks`, two who share a database and results compute once."""
    assert ask(NotingPostgresLocks(shared, database), when_refused, "Alps", "Alps") == [0, 0]
    assert shared.noted("computed") == 1
    assert shared.noted("got map of Alps") == 2


@pytest.mark.guarantee(
    NAME,
    "once",
    runners=("threads", "processes", "dask-threads", "dask-processes"),
    reason="sequential calls are never made at once",
)
@pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")
def test_tasks_of_a_run_compute_once(task_runner: TaskRunner[Any], shared: Shared) -> None:
    """Equal calls at once of tasks of a flow run are computed once, and all get the result."""
    draw: Any = drawing(shared, NotingFileLocks(shared, shared.folder / "locks"), when_refused)

    @flow(task_runner=task_runner)
    def asks() -> list[str]:
        return [future.result() for future in [draw.submit("Alps") for _ in range(4)]]

    assert asks() == ["map of Alps"] * 4
    assert shared.noted("computed") == 1


@pytest.mark.guarantee(NAME, "once")
def test_the_flow_of_the_pattern_draws_once(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pattern's own flow gets one map for equal regions."""
    options = single_flight(INPUTS, FileLocks(shared.folder), shared.folder / "results")
    monkeypatch.setattr(pattern, "draw_map", draw_map.with_options(**options))
    alps, again, jura = pattern.publish(["Alps", "Alps", "Jura"])
    assert alps == again
    assert jura.startswith("map of Jura")


@pytest.mark.guarantee(NAME, "keys")
def test_every_key_has_a_lock_of_its_own(locks: EndingLocks) -> None:
    """Any keys can be locked at the same time, each once."""
    keys = [f"map {number}" for number in range(16)]
    held = [locks.lock(key) for key in keys]
    try:
        assert None not in held
        assert [locks.lock(key) for key in keys] == [None] * len(keys)
    finally:
        for unlock in filter(None, held):
            unlock()


@pytest.mark.guarantee(NAME, "keys")
def test_other_arguments_do_not_wait(ask: Ask, shared: Shared, locks: EndingLocks) -> None:
    """Two maps of different regions are drawn at the same time."""
    assert ask(locks, beside_another, "Alps", "Jura") == [0, 0]
    assert shared.noted("got map of Alps") == shared.noted("got map of Jura") == 1


@pytest.mark.guarantee(NAME, "failed")
def test_the_next_one_computes_after_a_failure(
    ask: Ask, shared: Shared, locks: EndingLocks
) -> None:
    """If the computation fails, its flow run gets the error, and the one that waits computes."""
    assert ask(locks, failing_first, "Alps", "Alps") == [0, 0]
    assert shared.noted("computed") == 2
    assert shared.noted("failed Alps") == 1
    assert shared.noted("got map of Alps") == 1


@pytest.mark.guarantee(NAME, "failed")
def test_after_a_failure_the_same_process_computes(shared: Shared) -> None:
    """The lock of a computation that failed does not stay with its process, which lives on."""

    @task(**in_files(shared))
    def draw(region: str) -> str:
        shared.note("computed")
        if shared.noted("computed") == 1:
            raise LookupError(region)
        return f"map of {region}"

    asks = flow(lambda: draw("Alps"))
    with pytest.raises(LookupError):
        asks()
    assert asks() == asks() == "map of Alps"
    assert shared.noted("computed") == 2


@pytest.mark.guarantee(NAME, "killed")
def test_the_next_one_computes_if_the_holder_is_killed(
    ask: Ask, shared: Shared, locks: EndingLocks
) -> None:
    """If the process that computes is killed, the one that waits computes."""
    assert set(ask(locks, killed_first, "Alps", "Alps")) == {-signal.SIGKILL, 0}
    assert shared.noted("computed") == 2
    assert shared.noted("got map of Alps") == 1


@pytest.mark.guarantee(NAME, "nested")
@pytest.mark.parametrize("inner_is_locked", [True, False])
def test_a_computation_calls_tasks(shared: Shared, inner_is_locked: bool) -> None:
    """A locked task may call others, twice, too; then all results are stored."""
    options = in_files(shared)

    @task(**(options if inner_is_locked else {}))
    def survey(region: str) -> str:
        shared.note("surveyed")
        return region

    @task(**options)
    def draw(region: str) -> str:
        shared.note("computed")
        return "map of " + " and ".join([survey(region), survey(region), survey("Jura")])

    @flow
    def asks() -> list[str]:
        return [draw("Alps"), survey("Alps")]

    assert asks() == asks() == ["map of Alps and Alps and Jura", "Alps"]
    assert shared.noted("computed") == 1
    assert shared.noted("surveyed") == (3 if inner_is_locked else 5)


@pytest.mark.guarantee(NAME, "nested")
def test_a_computation_submits_tasks(shared: Shared) -> None:
    """A locked task may submit the same call to threads, where each gets the result."""
    options = in_files(shared)

    @task(**options)
    def survey(region: str) -> str:
        return region

    @task(**options)
    def draw(region: str) -> list[str]:
        return [future.result() for future in [survey.submit(region) for _ in range(3)]]

    @flow
    def asks() -> list[str]:
        return draw("Alps")

    assert asks() == asks() == ["Alps"] * 3


@pytest.mark.guarantee(NAME, "nested")
def test_a_transaction_executes_equal_calls(shared: Shared) -> None:
    """In a transaction of a flow, equal calls are all executed, and none waits."""

    @task(**in_files(shared))
    def survey(region: str) -> str:
        shared.note("surveyed")
        return region

    @flow
    def asks() -> list[str]:
        with transaction():
            submitted = [survey.submit("Alps") for _ in range(2)]
            return [survey("Alps"), *[future.result() for future in submitted]]

    assert asks() == ["Alps"] * 3
    assert shared.noted("surveyed") == 3
    assert asks() == ["Alps"] * 3
    assert shared.noted("surveyed") == 3


@pytest.mark.guarantee(NAME, "nested")
def test_a_task_with_the_key_of_its_computation_is_refused(shared: Shared) -> None:
    """A task that has the same key as the locked task it is called in is an error."""
    locks = ImpatientFileLocks(shared.folder / "locks")
    options = single_flight(INPUTS, locks, shared.folder / "results")

    @task(**options)
    def survey(region: str) -> str:
        return region

    @task(**options)
    def draw(region: str) -> str:
        return survey(region)

    with pytest.raises(RuntimeError, match="same key as the task it is called in"):
        draw("Alps")


@pytest.mark.guarantee(NAME, "async")
def test_async_tasks_compute_once(shared: Shared) -> None:
    """Async tasks at once compute once; the computation goes on while the others wait."""
    locks = NotingFileLocks(shared, shared.folder / "locks")

    @task(**single_flight(INPUTS, locks, shared.folder / "results"))
    async def draw(region: str) -> str:
        shared.note("computed")
        for _ in range(round(patience() * 100)):
            if shared.noted("refused") + shared.noted("computed") > 1:
                break
            await asyncio.sleep(0.01)
        return f"map of {region}"

    @flow
    async def asks() -> list[str]:
        return list(await asyncio.gather(*[draw("Alps") for _ in range(3)]))

    assert asyncio.run(asks()) == ["map of Alps"] * 3
    assert shared.noted("computed") == 1
    assert shared.noted("refused") > 0


@pytest.mark.guarantee(NAME, "async")
def test_an_async_task_that_is_cancelled_takes_no_lock(shared: Shared) -> None:
    """A cancelled wait for a lock does not take it later; `wait_for_lock` says if it is free."""
    locks = NotingFileLocks(shared, shared.folder / "locks")
    other = FileLocks(shared.folder / "locks")

    async def waits() -> None:
        waiting = asyncio.ensure_future(other.aacquire_lock("key", "waiting"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not await other.await_for_lock("key", 0)
        locks.release_lock("key", "first")
        assert await other.await_for_lock("key", 0)

    assert locks.acquire_lock("key", "first")
    assert other.is_locked("key")
    assert not other.acquire_lock("key", "second", 0)
    assert not other.wait_for_lock("key", 0)
    asyncio.run(waits())
    assert not other.is_locked("key")
    assert other.acquire_lock("key", "second", 0)
    other.release_lock("key", "second")


@pytest.mark.fact(NAME, "together")
def test_without_locks_both_compute(ask: Ask, shared: Shared) -> None:
    """Without locks, two processes that ask at once both compute."""
    assert ask(None, beside_another, "Alps", "Alps") == [0, 0]
    assert shared.noted("computed") == 2


def lock_and_be_killed(locks: Path) -> None:
    """Lock a key as Prefect does, and end this process as the kernel would."""
    FileSystemLockManager(locks).acquire_lock("key", "killed")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.fact(NAME, "outlived")
def test_a_stock_lock_outlives_its_process(tmp_path: Path) -> None:
    """A lock file of Prefect stays if its process is killed, and has no end of validity."""
    killed = preloaded_context().Process(target=lock_and_be_killed, args=(tmp_path,))
    killed.start()
    killed.join(patience())
    assert killed.exitcode == -signal.SIGKILL
    locks = FileSystemLockManager(tmp_path)
    assert not locks.acquire_lock("key", "next", acquire_timeout=0.1)
    assert b'"expiration":null' in (tmp_path / "key.lock").read_bytes()


@pytest.mark.fact(NAME, "empty")
def test_a_stock_lock_is_empty_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file of Prefect is created empty, and one that is empty is a ValueError."""
    touched = []
    touch = Path.touch

    def look(file: Path, *args: Any, **options: Any) -> None:
        touch(file, *args, **options)
        touched.append(file.read_bytes())
        with pytest.raises(ValueError, match="EOF"):
            FileSystemLockManager(tmp_path).acquire_lock("key", "other")

    monkeypatch.setattr(Path, "touch", look)
    assert FileSystemLockManager(tmp_path).acquire_lock("key", "first")
    assert touched == [b""]


class Impatient(FileSystemLockManager):
    """Prefect's lock files; who would wait for a lock gets an error in its place."""

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Raise in place of waiting."""
        raise TimeoutError("it waits")


@pytest.mark.fact(NAME, "itself")
def test_a_stock_computation_waits_for_itself(tmp_path: Path) -> None:
    """A second equal call in a locked computation waits, for the computation to end (#18600)."""
    locks = Impatient(tmp_path / "locks")

    @task
    def survey(region: str) -> str:
        return region

    @task(**single_flight(INPUTS, locks, tmp_path / "results"))
    def draw(*regions: str) -> list[str]:
        return [survey(region) for region in regions]

    @flow
    def asks(*regions: str) -> list[str]:
        return draw(*regions)

    assert asks("Alps", "Jura") == ["Alps", "Jura"]
    with pytest.raises(TimeoutError, match="it waits"):
        asks("Alps", "Alps")
