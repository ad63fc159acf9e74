# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/transactions/all_or_nothing.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from prefect.transactions import get_transaction, transaction

from flowgauge.waiting import patience
from patterns.transactions.all_or_nothing import (
    NotKept,
    all_or_nothing,
    all_or_nothing_async,
    main,
    publish,
    replace_file,
)
from tests.patterns.transactions.killed import kill_at_points

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "transactions/all_or_nothing"
FILES = ("prices.txt", "stock.txt")


class Shelf:
    """A row of things that tasks put there and take away again, and a log of both."""

    def __init__(self) -> None:
        """Start empty."""
        self.things: list[object] = []
        self.log: list[str] = []
        self.refused: list[object] = []
        self.tries = 0
        put = task(self._put)
        put.on_rollback(self.take_away)
        put.on_commit(self.commit)
        self.put = put
        self.put_retried: Any = put.with_options(retries=1)

    def _put(self, thing: object, fails: int = 0) -> None:
        get_transaction().set("thing", thing)  # type: ignore[union-attr]
        self.tries += 1
        if self.tries <= fails:
            raise ValueError(f"no room for {thing}")
        self.things.append(thing)

    def take_away(self, txn: Any) -> None:
        """Undo `put`."""
        thing = txn.get("thing")
        self.log.append(f"-{thing}")
        if thing in self.refused:
            raise OSError("stuck")
        self.things.remove(thing)

    def commit(self, txn: Any) -> None:
        """Note that a thing is kept."""
        if txn.get("thing") == "cursed":
            raise OSError("cursed")
        self.log.append(f"={txn.get('thing')}")


def folders(folder: Path, **texts: str) -> Path:
    """Make a shop with lamps, and a drop with the same, but for what is given."""
    for name in ("shop", "drop"):
        (folder / name).mkdir(parents=True)
        for file in FILES:
            text = texts.get(file.removesuffix(".txt"), "lamp") if name == "drop" else "lamp"
            (folder / name / file).write_text(text)
    return folder / "shop"


def contents(shop: Path) -> dict[str, str]:
    """Return what is in the shop, by file."""
    return {file.name: file.read_text() for file in shop.iterdir()}


@pytest.mark.guarantee(NAME, "undone")
@settings(max_examples=2)
@given(count=st.integers(0, 5), nested=st.booleans(), by_task=st.booleans())
@example(count=3, nested=True, by_task=True)
def test_a_failure_undoes_all_tasks_in_reverse_order(
    count: int, nested: bool, by_task: bool
) -> None:
    """Whether a task or the body itself fails, the tasks before it are undone, the last first."""
    shelf = Shelf()

    @task
    def box() -> None:
        for number in range(count):
            shelf.put(number)

    @flow
    def fill() -> None:
        with all_or_nothing():
            box() if nested else box.fn()
            if by_task:
                shelf.put("too much", fails=99)
            raise ValueError("no room for more")

    with pytest.raises(ValueError, match="no room"):
        fill()
    assert shelf.things == []
    assert shelf.log == [f"-{number}" for number in reversed(range(count))]


@pytest.mark.guarantee(NAME, "undone")
@pytest.mark.parametrize("persisted", [False, True])
def test_the_shop_has_all_new_files_or_none(tmp_path: Path, persisted: bool) -> None:
    """If the new files don't fit each other, the shop has the old ones, and otherwise the new."""
    shop = folders(tmp_path, stock="lamp chair")
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: persisted}):
        with pytest.raises(ValueError, match="no price for"):
            publish(tmp_path / "drop", shop)
        assert contents(shop) == {"prices.txt": "lamp", "stock.txt": "lamp", "UNFINISHED": ""}
        (tmp_path / "drop" / "prices.txt").write_text("chair lamp")
        for _ in range(2):
            publish(tmp_path / "drop", shop)
            new = {"prices.txt": "chair lamp", "stock.txt": "lamp chair"}
            assert contents(shop) == new


@pytest.mark.guarantee(NAME, "undone")
def test_a_retry_of_the_flow_publishes(tmp_path: Path) -> None:
    """If the transaction failed once, a retry of the whole flow keeps all."""
    shop = folders(tmp_path, stock="lamp chair", prices="lamp chair")
    attempts: list[int] = []

    @flow(retries=1)
    def publish_retried() -> None:
        with all_or_nothing():
            for file in FILES:
                replace_file(tmp_path / "drop" / file, shop)
            attempts.append(1)
            if len(attempts) == 1:
                raise ConnectionError

    publish_retried()
    assert [(shop / file).read_text() for file in FILES] == ["lamp chair"] * 2


@pytest.mark.guarantee(NAME, "undone")
def test_an_equal_call_in_the_same_run_replaces_and_is_undone(tmp_path: Path) -> None:
    """With results persisted by default, a file is replaced and put back a second time, too."""
    shop = folders(tmp_path, stock="chair")
    stock = tmp_path / "drop" / "stock.txt"
    seen: list[str] = []

    @flow
    def publish_twice() -> None:
        with all_or_nothing():
            replace_file(stock, shop)
        stock.write_text("bed")
        (shop / "stock.txt.before").unlink()
        with all_or_nothing():
            replace_file(stock, shop)
            seen.append((shop / "stock.txt").read_text())
            raise KeyError

    with (
        temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}),
        pytest.raises(KeyError),
    ):
        publish_twice()
    assert [*seen, (shop / "stock.txt").read_text()] == ["bed", "chair"]


@pytest.mark.guarantee(NAME, "undone")
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_within_a_block_is_kept_or_undone_with_it(fails: bool) -> None:
    """If the outer block fails after the inner one ended, both are undone; else both are kept."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with all_or_nothing():
            shelf.put("lamp")
            with all_or_nothing():
                shelf.put("chair")
            if fails:
                raise KeyError

    assert fill(return_state=True).is_failed() == fails
    assert shelf.log == (["-chair", "-lamp"] if fails else ["=lamp", "=chair"])
    assert shelf.things == ([] if fails else ["lamp", "chair"])


@pytest.mark.guarantee(NAME, "caught")
@pytest.mark.parametrize("how", ["retried", "caught", "ignored"])
def test_a_failure_that_is_not_seen_undoes_all(how: str) -> None:
    """If an attempt failed, but its error does not leave the body, all is undone all the same."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with all_or_nothing():
            shelf.put("before")
            shelf.tries = 0
            if how == "retried":
                shelf.put_retried("between", fails=1)
            elif how == "ignored":
                shelf.put("between", fails=1, return_state=True)  # type: ignore[call-overload]
            else:
                with pytest.raises(ValueError, match="no room"):
                    shelf.put("between", fails=1)
            shelf.put("after")

    with pytest.raises(NotKept, match="an attempt of a task failed"):
        fill()
    assert shelf.things == []
    assert not any(line.startswith("=") for line in shelf.log)


@pytest.mark.guarantee(NAME, "hook-failed")
@settings(max_examples=1)
@given(stuck=st.sets(st.integers(0, 3), min_size=1))
@example(stuck={1, 2})
def test_a_hook_that_fails_is_called_again_and_does_not_stop_the_others(stuck: set[int]) -> None:
    """Of four hooks some fail: they are called twice, the others once, and the flow names them."""
    shelf = Shelf()
    shelf.refused = list(stuck)

    @flow
    def fill() -> None:
        with all_or_nothing():
            for number in range(4):
                shelf.put(number)
            raise KeyError("lamp")

    with pytest.raises(NotKept, match="not undone: take_away") as raised:
        fill()
    assert isinstance(raised.value.__cause__, KeyError)
    assert shelf.things == sorted(stuck)
    calls = [shelf.log.count(f"-{number}") for number in range(4)]
    assert calls == [2 if number in stuck else 1 for number in range(4)]


@pytest.mark.guarantee(NAME, "hook-failed")
def test_a_hook_that_fails_once_undoes_in_its_second_call() -> None:
    """If the second call of a hook succeeds, the flow fails with its own error only."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with all_or_nothing():
            shelf.put("lamp")
            shelf.refused = ["lamp"]
            shelf.put("repair")
            raise KeyError

    def repair(txn: Any) -> None:
        if shelf.log.count("-lamp"):
            shelf.refused = []

    shelf.put.on_rollback(repair)
    with pytest.raises(KeyError):
        fill()
    assert (shelf.things, shelf.log) == ([], ["-repair", "-lamp", "-lamp"])


@pytest.mark.guarantee(NAME, "commit-failed")
def test_a_commit_hook_that_fails_is_reported() -> None:
    """If an `on_commit` hook fails, its task is undone, the others are kept, and the flow fails."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with all_or_nothing():
            for thing in ("lamp", "cursed", "chair"):
                shelf.put(thing)

    with pytest.raises(NotKept, match="undone, while the others are kept: take_away"):
        fill()
    assert shelf.things == ["lamp", "chair"]


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("how", ["fine", "raised", "caught", "stuck"])
@pytest.mark.filterwarnings("ignore:coroutine 'AsyncTransaction.rollback'")
def test_async_tasks_are_undone_too(kind: str, how: str) -> None:
    """In an async flow, async and sync tasks are kept together or undone, the last one first."""
    shelf = Shelf()

    @task
    async def put(thing: str, fails: int = 0) -> None:
        shelf._put(thing, fails)

    async def take_away(txn: Any) -> None:
        shelf.take_away(txn)

    put.on_rollback(take_away)  # type: ignore[arg-type]

    async def place(thing: str, fails: int = 0) -> None:
        if kind == "async":
            await put(thing, fails)
        else:
            shelf.put(thing, fails)

    @flow
    async def fill() -> None:
        async with all_or_nothing_async():
            await place("lamp")
            if how == "caught":
                shelf.tries = 0
                with pytest.raises(ValueError, match="no room"):
                    await place("bed", fails=1)
            await place("chair")
            if how == "stuck":
                shelf.refused = ["chair"]
            if how in ("raised", "stuck"):
                raise KeyError

    if how == "fine":
        asyncio.run(fill())
        assert shelf.things == ["lamp", "chair"]
        return
    error = KeyError if how == "raised" else NotKept
    with pytest.raises(error):
        asyncio.run(fill())
    assert shelf.things == (["chair"] if how == "stuck" else [])
    assert shelf.log.count("-chair") == (2 if how == "stuck" else 1)
    if how == "raised":
        assert shelf.log == ["-chair", "-lamp"]


def publish_new(folder: Path) -> None:
    """Publish what a test has prepared."""
    publish(folder / "drop", folder / "shop")


def publish_new_again(folder: Path) -> list[dict[str, str]]:
    """Publish files that are refused, and return the shop; then others, and return it again."""
    (folder / "drop" / "stock.txt").write_text("lamp bed")
    publish(folder / "drop", folder / "shop", return_state=True)
    refused = contents(folder / "shop")
    (folder / "drop" / "prices.txt").write_text("lamp bed")
    publish(folder / "drop", folder / "shop")
    return [refused, contents(folder / "shop")]


@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.e2e), pytest.param(1, marks=pytest.mark.nightly)]
)
@pytest.mark.guarantee(NAME, "killed")
def test_the_next_run_undoes_what_a_killed_one_left(tmp_path: Path, step: int) -> None:
    """Killed before any of its writes: the shop has all old or all new files after the next run.

    The next run is refused, so it undoes what it did, and the one after it publishes all.
    """
    folders(tmp_path / "start", stock="lamp chair", prices="lamp chair")
    old, new = dict.fromkeys(FILES, "lamp"), dict.fromkeys(FILES, "lamp chair")
    outcomes = kill_at_points(
        "test_all_or_nothing:publish_new", tmp_path / "start", (None, None, -step)
    )
    kept = []
    for refused, published in outcomes.values():
        shop = {file: refused[file] for file in FILES}
        assert shop in (old, new)
        kept.append(shop == new)
        assert {file: published[file] for file in FILES} == dict.fromkeys(FILES, "lamp bed")
        assert not [name for name in published if name.endswith((".before", "UNFINISHED"))]
    # Backwards: killed after the marker's removal, the run has published all.
    assert kept == sorted(kept, reverse=True)
    assert (kept[0], kept[-1]) == (True, False)
    if step == 1:
        points = [point.split(" ", 1)[1] for point in outcomes]
        assert kept.index(False) == points.index("os.remove UNFINISHED")
        assert sum("rename" in point for point in points) == len(FILES)


SIGTERM = """
import os, signal, sys
from pathlib import Path
from prefect import flow, task
from patterns.transactions.all_or_nothing import all_or_nothing, replace_file

@task
def be_cancelled() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

@flow
def publish(folder: Path) -> None:
    with all_or_nothing():
        replace_file(folder / "drop" / "stock.txt", folder / "shop")
        (folder / "seen").write_text((folder / "shop" / "stock.txt").read_text())
        be_cancelled()

publish(Path(sys.argv[1]))
"""


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "terminated")
def test_sigterm_undoes_all_before_the_process_ends(tmp_path: Path) -> None:
    """A process that gets SIGTERM in the middle of a transaction puts the old file back first."""
    shop = folders(tmp_path, stock="chair")
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    command = [sys.executable, "-c", SIGTERM, str(tmp_path)]
    ended = subprocess.run(command, env=env, timeout=patience(), check=False)
    assert ended.returncode == -signal.SIGTERM
    assert (tmp_path / "seen").read_text() == "chair"
    assert (shop / "stock.txt").read_text() == "lamp"


@pytest.mark.guarantee(NAME, "undone")
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The example keeps the old stock, and then the new one."""
    main()
    said = [line for line in capsys.readouterr().out.splitlines() if "stock:" in line]
    assert said == ["in stock: lamp", "in stock: lamp chair"]


@pytest.mark.fact(NAME, "retried")
def test_a_retried_task_rolls_back_those_before_it() -> None:
    """A failed attempt rolls back what is before it, is retried, and the flow is Completed."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with transaction():
            shelf.put("before")
            shelf.tries = 0
            shelf.put_retried("between", fails=1)
            shelf.put("after")

    assert fill(return_state=True).is_completed()
    assert (shelf.things, shelf.log) == (["between", "after"], ["-before"])


@pytest.mark.fact(NAME, "own")
def test_the_hook_of_the_task_that_fails_does_not_run() -> None:
    """A task that raises after its effect is not rolled back itself."""
    undone: list[str] = []

    @task
    def put() -> None:
        raise ConnectionError("the answer was lost")

    put.on_rollback(lambda txn: undone.append("put"))

    @flow
    def fill() -> None:
        with transaction():
            put()

    assert fill(return_state=True).is_failed()
    assert undone == []


@pytest.mark.fact(NAME, "handed")
def test_a_hook_receives_the_transaction_of_its_own_task_run() -> None:
    """A hook finds what its task set on `get_transaction()`, but not on one opened in the task."""
    found: list[object] = []

    @task
    def put() -> None:
        get_transaction().set("own", "lamp")  # type: ignore[union-attr]
        with transaction() as inner:
            inner.set("inner", "chair")

    @put.on_rollback
    def take_away(txn: Any) -> None:
        found.extend([txn.get("own", None), txn.get("inner", None)])

    @flow
    def fill() -> None:
        with transaction():
            put()
            raise ValueError

    assert fill(return_state=True).is_failed()
    assert found == ["lamp", None]


@pytest.mark.fact(NAME, "half-committed")
def test_a_failing_commit_hook_rolls_back_one_task_of_a_completed_flow() -> None:
    """If an `on_commit` hook fails, only that task is rolled back, and the flow is Completed."""
    shelf = Shelf()

    @flow
    def fill() -> None:
        with transaction():
            for thing in ("lamp", "cursed", "chair"):
                shelf.put(thing)

    assert fill(return_state=True).is_completed()
    assert (shelf.things, shelf.log) == (["lamp", "chair"], ["=lamp", "-cursed", "=chair"])


@pytest.mark.fact(NAME, "submitted")
def test_a_submitted_task_is_rolled_back_on_threads_only(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path
) -> None:
    """On `sequential` and `threads` a submitted task is rolled back; elsewhere it commits."""
    log = tmp_path / "log"

    @task
    def put() -> None:
        log.write_text("put")

    @put.on_rollback
    def take_away(txn: Any) -> None:
        log.write_text("taken away")

    @put.on_commit
    def keep(txn: Any) -> None:
        log.write_text("kept")

    @flow(task_runner=task_runner)
    def fill() -> None:
        with transaction():
            put.submit().wait()
            raise ValueError

    assert fill(return_state=True).is_failed()
    here = runner_name in ("sequential", "threads")
    assert log.read_text() == ("taken away" if here else "kept")
