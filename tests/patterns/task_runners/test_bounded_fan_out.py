# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/bounded_fan_out.py`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from flowgauge.waiting import wait_until
from patterns.task_runners.bounded_fan_out import (
    as_they_complete,
    as_they_complete_async,
    find_page,
    read_book,
)

NAME = "task_runners/bounded_fan_out"


@task
def root(number: int, digits: int = 9) -> float:
    """Return the square root of a number, or fail if it is negative."""
    if number < 0:
        raise ValueError(f"{number} has none")
    return float(round(number**0.5, digits))


class Counted:
    """Items that count how many were taken."""

    def __init__(self, items: Any) -> None:
        self.items, self.taken = iter(items), 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.taken += 1
        return item


def said(number: int, future: PrefectFuture[Any]) -> tuple[int, str, str]:
    """Return an item with the state of its task, and with its result, or the error it raises."""
    return number, str(future.state.name), str(outcome(future))


def outcome(future: PrefectFuture[Any]) -> Any:
    """Return a future's result or error."""
    try:
        return future.result()
    except Exception as error:
        return error


def expected(numbers: list[int], digits: int) -> list[tuple[int, str, str]]:
    """Return what is said of the items, worked out without Prefect."""
    return sorted(
        (number, "Failed", f"{number} has none")
        if number < 0
        else (number, "Completed", str(round(number**0.5, digits)))
        for number in numbers
    )


@pytest.mark.guarantee(NAME, "window")
@pytest.mark.guarantee(NAME, "each")
@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.guarantee(NAME, "ended")
@settings(max_examples=1)
@given(numbers=st.lists(st.integers(-3, 30), max_size=12), at_most=st.integers(1, 6))
@example(numbers=[4, -1, 2, 4, -1, 9, 0, 7], at_most=3)
def test_each_item_is_yielded_once_with_its_future(
    task_runner: TaskRunner[Any], numbers: list[int], at_most: int
) -> None:
    """For any items, equal ones too, each comes once, failed ones too, with its state and result.

    When an item is yielded, no more than `at_most` have been taken that were not yielded before it.
    """

    @flow(task_runner=task_runner)
    def roots() -> tuple[list[tuple[int, str, str]], list[int]]:
        items = Counted(numbers)
        got: list[tuple[int, str, str]] = []
        ahead = []
        for number, future in as_they_complete(root, items, at_most=at_most, digits=2):
            ahead.append(items.taken - len(got))
            got.append(said(number, future))
        return got, ahead

    got, ahead = roots()
    assert sorted(got) == expected(numbers, 2)
    assert all(0 < each <= at_most for each in ahead)


@pytest.mark.guarantee(NAME, "window")
@pytest.mark.runners("threads")
def test_as_many_tasks_run_side_by_side(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """With `at_most=2` two tasks run at a time: each waits here until the other has begun."""

    @task
    def meet(number: int) -> None:
        (tmp_path / str(number)).touch()
        wait_until((tmp_path / str(number ^ 1)).exists)

    @flow(task_runner=task_runner)
    def meetings() -> list[int]:
        return [number for number, _ in as_they_complete(meet, range(4), at_most=2)]

    assert sorted(meetings()) == [0, 1, 2, 3]


@pytest.mark.guarantee(NAME, "window")
@pytest.mark.runners("sequential", "threads")
def test_endless_items_are_taken_as_there_is_room(task_runner: TaskRunner[Any]) -> None:
    """Of endless items no more are taken than were yielded, plus `at_most`."""

    @flow(task_runner=task_runner)
    def roots() -> int:
        items = Counted(itertools.count())
        for number, _ in enumerate(as_they_complete(root, items, at_most=3), start=1):
            if number == 10:
                break
        return items.taken

    assert 10 <= roots() < 10 + 3


@task
def wait_for_file(number: int, folder: Path) -> int:
    """Wait, if it is number 0, for a file."""
    if number == 0:
        wait_until((folder / "go").exists, seconds=60)
    return number


@pytest.mark.guarantee(NAME, "first")
@pytest.mark.guarantee(NAME, "ended")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_a_slow_task_holds_up_no_other(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The first of six tasks ends only after the flow has seen the others, which all come first.

    Each one's state is final when it is yielded, before its result was asked for.
    """

    @flow(task_runner=task_runner)
    def in_order() -> list[tuple[int, bool, int]]:
        order = []
        for number, future in as_they_complete(wait_for_file, range(6), at_most=2, folder=tmp_path):
            order.append((number, future.state.is_completed(), future.result(timeout=0)))
            if len(order) == 5:
                (tmp_path / "go").touch()
        return order

    order = in_order()
    assert [number for number, *_ in order[:5]] != [0, 1, 2, 3, 4]
    assert sorted(number for number, *_ in order[:5]) == [1, 2, 3, 4, 5]
    assert all(completed and result == number for number, completed, result in order)


class Unpicklable:
    """A value that can't be sent to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("this stays here")


@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.runners("processes")
def test_an_item_that_never_reached_its_task_is_yielded(task_runner: TaskRunner[Any]) -> None:
    """An item that can't be sent to a process is yielded with its error, and so are the others."""

    @task
    def name(item: Any) -> str:
        return type(item).__name__

    @flow(task_runner=task_runner)
    def names() -> list[str]:
        found = as_they_complete(name, [1, Unpicklable(), "two"], at_most=2)
        return sorted(str(outcome(future)) for _, future in found)

    assert names() == ["int", "str", "this stays here"]


@task
def note_end(number: int, folder: Path) -> int:
    """Leave a file when it begins and, some time later, one when it ends."""
    (folder / f"{number} began").touch()
    # Otherwise the loop may have its first result, and be left, before the second task exists.
    wait_until((folder / ("left" if number else "1 began")).exists)
    if number:
        time.sleep(0.2)
    (folder / f"{number} ended").touch()
    return number


def broken_after(folder: Path, items: int) -> Iterator[int]:
    """Yield items, and then raise an error."""
    yield from range(items)
    (folder / "left").touch()
    raise OSError("no more items")


def left_by_break(folder: Path) -> None:
    """Leave the loop by `break`."""
    for _ in as_they_complete(note_end, itertools.count(), at_most=2, folder=folder):
        (folder / "left").touch()
        break


def left_by_error(folder: Path) -> None:
    """Leave the loop by an error."""

    def look_up() -> None:
        for number, _ in as_they_complete(note_end, itertools.count(), at_most=2, folder=folder):
            (folder / "left").touch()
            raise KeyError(number)

    with pytest.raises(KeyError):
        look_up()


def left_by_items(folder: Path) -> None:
    """Leave the loop by an error of the items."""
    with pytest.raises(OSError, match="no more items"):
        for _ in as_they_complete(note_end, broken_after(folder, 2), at_most=3, folder=folder):
            pass


def left_by_close(folder: Path) -> None:
    """Close a generator that is kept in a variable."""
    endless = as_they_complete(note_end, itertools.count(), at_most=2, folder=folder)
    with closing(endless):
        next(endless)
        (folder / "left").touch()


LEFT = [left_by_break, left_by_error, left_by_items, left_by_close]


@pytest.mark.guarantee(NAME, "stop")
@pytest.mark.runners("threads", "dask-processes")
def test_when_the_loop_is_left_the_tasks_in_flight_are_waited_for(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """However the loop is left, each task that had begun has ended afterwards, and none is new.

    It is left by `break`, by an error in its body, by an error of the items, and by `closing`.
    """
    for leave in LEFT:
        (tmp_path / leave.__name__).mkdir()

    @flow(task_runner=task_runner)
    def leaves() -> tuple[str, list[list[str]]]:
        found = []
        for leave in LEFT:
            folder = tmp_path / leave.__name__
            leave(folder)
            found.append(sorted(file.name for file in folder.iterdir()))
        return flow_run.id or "", found

    id, found = leaves()
    assert found == [["0 began", "0 ended", "1 began", "1 ended", "left"]] * len(LEFT)
    assert states(id, 2 * len(LEFT)) == [StateType.COMPLETED] * 2 * len(LEFT)


def states(flow_run_id: str, number: int) -> list[StateType]:
    """Return the states of a flow run's task runs, once there are so many and all have ended."""
    with get_client(sync_client=True) as client:
        own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]

        def ended() -> list[StateType] | None:
            runs = client.read_task_runs(flow_run_filter=own)
            finals = [run.state.type for run in runs if run.state and run.state.is_final()]
            return finals if len(finals) == len(runs) >= number else None

        return wait_until(ended)


class Page:
    """A result that can be counted while it is in memory."""

    def __init__(self, number: int) -> None:
        self.number = number


@task
def fetch(number: int, folder: Path | None = None) -> Page:
    """Return a page; the first one waits for a file if there is a folder."""
    if folder and number == 0:
        wait_until((folder / "go").exists)
    return Page(number)


class Alive:
    """Counts the objects of some types that were made after it and are still in memory."""

    def __init__(self) -> None:
        gc.collect()
        # Objects that are there already need not be looked at each time.
        gc.freeze()

    def __call__(self, *kinds: type) -> list[int]:
        """Collect garbage, and return the number of objects of each kind."""
        gc.collect()
        objects = gc.get_objects()
        return [sum(isinstance(each, kind) for each in objects) for kind in kinds]

    def close(self) -> None:
        """Let the garbage collector look at everything again."""
        gc.unfreeze()


@pytest.fixture
def alive() -> Iterator[Alive]:
    """Yield a counter of the objects in memory."""
    counter = Alive()
    yield counter
    counter.close()


@pytest.mark.guarantee(NAME, "released")
@pytest.mark.runners("sequential", "threads", "dask-processes")
def test_what_was_yielded_is_not_kept(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path, alive: Alive
) -> None:
    """While the first task still runs, no more futures are in memory than in flight and in hand.

    The results of the others are gone soon after they were yielded. On the sequential runner the
    first task can't be slow.
    """
    folder = None if runner_name == "sequential" else tmp_path

    @flow(task_runner=task_runner)
    def fetches() -> list[int]:
        counts = []
        for _, page in as_they_complete(fetch, range(12), at_most=2, folder=folder):
            page.result()
            counts += alive(PrefectFuture)
            if len(counts) == 11:
                # Workers in this process hold theirs until the events of the task run are sent.
                wait_until(lambda: alive(Page)[0] <= 2 + 1)
                (tmp_path / "go").touch()
        return counts

    counts = fetches()
    assert len(counts) == 12
    assert max(counts) <= 2 + 1


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "window")
@pytest.mark.guarantee(NAME, "released")
@pytest.mark.runners("threads")
def test_ten_thousand_items_need_no_more_memory_than_a_few(
    task_runner: TaskRunner[Any], alive: Alive
) -> None:
    """At no hundredth of 10,000 items are there more futures and results than at first."""

    @flow(task_runner=task_runner)
    def fetches() -> list[int]:
        counts = []
        pages = as_they_complete(fetch, range(10_000), at_most=8)
        for number, _ in enumerate(pages):
            if number % 100 == 0:
                counts += alive(PrefectFuture)
                # Each of the two workers may hold its last one.
                wait_until(lambda: alive(Page)[0] <= 8 + 1 + 2)
        return counts

    counts = fetches()
    assert len(counts) == 100
    assert max(counts) <= 8 + 1


@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("at_most", [0, -1])
def test_a_window_without_room_is_refused(at_most: int) -> None:
    """An `at_most` below 1 raises a ValueError before an item is taken."""
    items = Counted([1])
    with pytest.raises(ValueError, match=f"at_most={at_most}: at least one"):
        next(as_they_complete(root, items, at_most=at_most))
    with pytest.raises(ValueError, match=f"at_most={at_most}: at least one"):
        asyncio.run(anext(as_they_complete_async(root, items, at_most=at_most)))
    assert items.taken == 0


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("sequential", "threads", "dask-processes")
@settings(max_examples=1)
@given(numbers=st.lists(st.integers(-3, 30), max_size=12), at_most=st.integers(1, 6))
@example(numbers=[4, -1, 2, 4, -1, 9, 0, 7], at_most=3)
def test_the_async_twin_yields_the_same(
    task_runner: TaskRunner[Any], numbers: list[int], at_most: int
) -> None:
    """In an async flow, each item comes once, failed ones too, and no more are taken at a time."""

    @flow(task_runner=task_runner)
    async def roots() -> tuple[list[tuple[int, str, str]], list[int]]:
        items = Counted(numbers)
        got: list[tuple[int, str, str]] = []
        ahead = []
        async for number, future in as_they_complete_async(root, items, at_most=at_most, digits=2):
            ahead.append(items.taken - len(got))
            got.append(said(number, future))
        return got, ahead

    got, ahead = asyncio.run(roots())
    assert sorted(got) == expected(numbers, 2)
    assert all(0 < each <= at_most for each in ahead)


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads", "dask-threads")
def test_the_event_loop_keeps_running(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """While a task is waited for, the event loop does what ends it; async tasks work, too."""

    @task
    async def wait_in_loop(number: int) -> int:
        await asyncio.to_thread(wait_until, (tmp_path / "go").exists)
        return number

    async def go() -> None:
        (tmp_path / "go").touch()

    async def numbers() -> list[int]:
        found = as_they_complete_async(wait_in_loop, range(3), at_most=2)
        return [future.result() async for _, future in found]

    @flow(task_runner=task_runner)
    async def waits() -> list[int]:
        found, _ = await asyncio.gather(numbers(), go())
        return found

    assert sorted(asyncio.run(waits())) == [0, 1, 2]


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.guarantee(NAME, "stop")
@pytest.mark.runners("threads", "dask-processes")
def test_an_async_loop_that_is_left_waits(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """With `aclosing`, the tasks in flight have ended when an async loop is left by `break`."""

    @flow(task_runner=task_runner)
    async def leaves() -> list[str]:
        endless = as_they_complete_async(note_end, itertools.count(), at_most=2, folder=tmp_path)
        async with aclosing(endless):
            async for _ in endless:
                (tmp_path / "left").touch()
                break
        return sorted(file.name for file in tmp_path.iterdir())

    assert asyncio.run(leaves()) == ["0 began", "0 ended", "1 began", "1 ended", "left"]


@pytest.mark.guarantee(NAME, "released")
@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads")
def test_the_async_twin_keeps_nothing(
    task_runner: TaskRunner[Any], tmp_path: Path, alive: Alive
) -> None:
    """In an async flow, too, few futures are in memory while the first task runs."""

    @flow(task_runner=task_runner)
    async def fetches() -> list[int]:
        counts = []
        async for _ in as_they_complete_async(fetch, range(20), at_most=2, folder=tmp_path):
            counts += alive(PrefectFuture)
            if len(counts) == 19:
                (tmp_path / "go").touch()
        return counts

    counts = asyncio.run(fetches())
    assert len(counts) == 20
    assert max(counts) <= 2 + 1


@pytest.mark.guarantee(NAME, "each")
@pytest.mark.guarantee(NAME, "stop")
@pytest.mark.runners("threads")
def test_the_flows_read_a_book(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flows read all pages but one that fails, find a page, and fail if one fails."""
    letters = sum(len(f"Emma, page {number}") for number in range(1, 21) if number != 13)
    assert read_book.with_options(task_runner=task_runner)("Emma", 20) == (letters, [13])
    find: Callable[..., Any] = find_page.with_options(task_runner=task_runner)
    assert asyncio.run(find("Emma", "page 5")) == 5
    with pytest.raises(ConnectionError, match="lost page 13"):
        asyncio.run(find("Emma", "page 99"))


@pytest.mark.fact(NAME, "all-at-once")
@pytest.mark.runners("threads")
def test_map_takes_and_submits_everything_first(task_runner: TaskRunner[Any]) -> None:
    """When `map` returns, it has taken every item and made a future for each (#12252, #18883)."""

    @flow(task_runner=task_runner)
    def roots() -> tuple[int, int]:
        items = Counted(range(6))
        futures = root.map(items)
        taken = items.taken, len(futures)
        futures.wait()
        return taken

    assert roots() == (6, 6)


@pytest.mark.fact(NAME, "again")
@pytest.mark.runners("threads")
def test_as_completed_keeps_what_has_ended(
    task_runner: TaskRunner[Any], tmp_path: Path, alive: Alive
) -> None:
    """If `as_completed` is called for each result, all futures stay until the slowest task ends."""

    @flow(task_runner=task_runner)
    def fetches() -> list[int]:
        slow = fetch.submit(0, tmp_path)
        window = [slow, fetch.submit(1)]
        for number in range(2, 22):
            window.append(fetch.submit(number))
            window.remove(next(as_completed(window)))
        counts = alive(PrefectFuture)
        (tmp_path / "go").touch()
        wait(window)
        # Its callbacks are called a moment later than its result is there.
        wait_until(lambda: alive(PrefectFuture) == [len(window)])
        return [len(window), *counts, *alive(PrefectFuture)]

    window, before, after = fetches()
    assert (window, after) == (2, 2)
    assert before > 15


@pytest.mark.fact(NAME, "collected")
@pytest.mark.runners("threads", "processes")
def test_a_future_is_freed_by_the_garbage_collector(task_runner: TaskRunner[Any]) -> None:
    """A future that nobody refers to lives until the garbage collector runs."""

    @flow(task_runner=task_runner)
    def fetches() -> tuple[bool, bool]:
        gc.disable()
        try:
            page = fetch.submit(1)
            page.wait()
            future = weakref.ref(page)
            del page
            before = future() is not None
            gc.collect()
            return before, future() is not None
        finally:
            gc.enable()

    assert fetches() == (True, False)


@pytest.mark.fact(NAME, "remembered")
@pytest.mark.runners("threads")
def test_a_flow_run_remembers_each_task_run(task_runner: TaskRunner[Any], alive: Alive) -> None:
    """On threads, each task run leaves a state and an event in memory until the flow run ends."""

    @flow(task_runner=task_runner)
    def fetches() -> list[list[int]]:
        def fetched(number: int) -> list[int]:
            for _ in as_they_complete(fetch, range(number), at_most=1):
                pass
            wait_until(lambda: alive(Page)[0] <= 2)
            return alive(State, threading.Event)

        return [fetched(2), fetched(30)]

    before, after = fetches()
    # A state is forgotten if the next result has the same address in memory, and events that have
    # nothing to do with the tasks may be gone by the second count.
    assert after[0] - before[0] >= 15
    assert after[1] - before[1] >= 15
