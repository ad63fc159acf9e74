# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/chunked_map.py`."""

from __future__ import annotations

import asyncio
import functools
import math
import pickle
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner

from flowgauge.faults.points import kill_this_process
from flowgauge.observe.ledger import EffectLedger
from flowgauge.waiting import wait_until
from patterns.task_runners import chunked_map as chunks
from patterns.task_runners.chunked_map import (
    PILOT_ITEMS,
    Outcome,
    chunked_map,
    count_all,
    tapered,
    values,
)

NAME = "task_runners/chunked_map"


def root(number: int) -> float:
    """Return the square root of a number, or fail if it is negative."""
    if number < 0:
        raise ValueError(f"{number} has none")
    return float(number**0.5)


@flow
def roots(numbers: list[int], options: dict[str, Any]) -> tuple[str, list[Outcome[float]]]:
    """Return the flow run's id, and the outcome of each number."""
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    return str(run.flow_run.id), chunked_map(root, numbers, **options)


def ended(numbers: Sequence[int]) -> list[str]:
    """Return the expected outcomes of numbers, worked out without Prefect."""
    return [f"{number} has none" if number < 0 else str(root(number)) for number in numbers]


def said(outcomes: Sequence[Outcome[float]]) -> list[str]:
    """Return outcomes as text."""
    return [str(each.value if each.error is None else each.error) for each in outcomes]


@pytest.mark.guarantee(NAME, "order")
@pytest.mark.guarantee(NAME, "apart")
@settings(max_examples=3)
@given(
    numbers=st.lists(st.integers(-3, 30), max_size=30),
    size=st.none() | st.integers(1, 40),
)
@example(numbers=[-1, 4, 9, -4, 16, 25, 0], size=3)
def test_results_are_those_of_a_loop(
    task_runner: TaskRunner[Any], numbers: list[int], size: int | None
) -> None:
    """Each item has the same value or error as in a plain loop, in order, for any chunk size."""
    run = roots.with_options(task_runner=task_runner)
    _, outcomes = run(numbers, {"chunk_size": size})
    assert said(outcomes) == ended(numbers)
    assert [each.attempts for each in outcomes] == [1] * len(numbers)


@pytest.mark.guarantee(NAME, "apart")
def test_values_raises_the_error_of_a_failed_item(task_runner: TaskRunner[Any]) -> None:
    """`values` returns the values if all items succeeded, or raises the error of a failed one.

    The pattern's flow skips what is not a word, and raises any other error.
    """
    assert values([Outcome(1, None, 1), Outcome(2, None, 1)]) == [1, 2]
    with pytest.raises(ValueError, match="second"):
        values([Outcome(1, None, 1), Outcome(None, ValueError("second"), 1)])
    count = count_all.with_options(task_runner=task_runner, validate_parameters=False)
    assert count(["ebb", "4", "flow"]) == [3, 4]
    no_text: Any = 4
    with pytest.raises(AttributeError, match="isalpha"):
        count(["ebb", no_text])


class Flaky:
    """A function that records each call, and fails the given number of times for an item."""

    def __init__(self, ledger: EffectLedger, failures: dict[int, int]) -> None:
        self.ledger, self.failures = ledger, failures

    def __call__(self, item: int) -> int:
        """Record the call, and fail if the item has failures left."""
        self.ledger.record(str(item))
        calls = sum(effect.name == str(item) for effect in self.ledger.effects())
        if calls <= self.failures.get(item, 0):
            raise ConnectionError(f"call {calls}")
        return item


@flow
def retried(function: Any, items: list[int], retries: int) -> list[Outcome[int]]:
    """Return the outcome of each item."""
    return chunked_map(function, items, chunk_size=3, retries=retries)


def leave(item: int) -> int:
    """Call `sys.exit` for item 2, and raise a `CancelledError` for item 3."""
    if item == 2:
        sys.exit("enough")
    if item == 3:
        raise asyncio.CancelledError("a call was cancelled")
    return item


@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.runners("threads", "dask-processes")
def test_an_item_that_exits_does_not_affect_the_others(task_runner: TaskRunner[Any]) -> None:
    """An item that exits or is cancelled has that as its error; the others have their results."""

    @flow(task_runner=task_runner)
    def left() -> list[Outcome[int]]:
        return chunked_map(leave, [1, 2, 3, 4], chunk_size=4)

    first, second, third, fourth = left()
    assert repr(second.error) == "SystemExit('enough')"
    assert repr(third.error) == "CancelledError('a call was cancelled')"
    assert values([first, fourth]) == [1, 4]


@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.runners("sequential")
def test_prefect_can_end_a_flow_in_the_middle_of_an_item(task_runner: TaskRunner[Any]) -> None:
    """A subclass of `CancelledError` that an item raises ends the flow.

    Prefect raises one when a run's time is up; it is not kept as the item's error.
    """

    @flow(task_runner=task_runner)
    def in_time(ended: type[BaseException]) -> list[Outcome[int]]:
        def end(item: int) -> int:
            raise ended

        return chunked_map(end, [1], chunk_size=1)

    run = in_time.with_options(validate_parameters=False)
    with pytest.raises(EndsRun):
        run(EndsRun)


class EndsRun(asyncio.CancelledError):
    """A subclass of asyncio's error, like the one that Prefect raises when a run's time is up."""


class NoSuchPage(LookupError):
    """An error that has more than a message, and that can't be unpickled by default."""

    def __init__(self, message: str, *, page: int, **kept: object) -> None:
        super().__init__(message)
        self.page, self.kept = page, kept


class Doubled(ValueError):
    """An error whose message would get its prefix twice if it were unpickled by default."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class InItsOwnWay(ValueError):
    """An error that defines how it is pickled, though it has an attribute that can't be."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


def fetch(item: int) -> int:
    """Fail in a different way for each item."""
    if item == 1:
        request = httpx.Request("GET", "http://localhost/1")
        httpx.Response(404, request=request).raise_for_status()
    if item == 2:
        raise NoSuchPage("not there", page=2)
    if item == 3:
        raise Doubled("page")
    if item == 4:
        raise InItsOwnWay("page")
    raise NoSuchPage("not there", page=item, lock=threading.Lock())


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_an_error_arrives_as_it_was_raised(task_runner: TaskRunner[Any], runner_name: str) -> None:
    """An error keeps its type, arguments and attributes.

    One that can't be pickled arrives from another process as a RuntimeError that gives its type and
    message.
    """

    @flow(task_runner=task_runner)
    def fetched() -> list[Outcome[int]]:
        return chunked_map(fetch, range(1, 6), chunk_size=5)

    of_http, missing, doubled, own, last = (outcome.error for outcome in fetched())
    assert isinstance(of_http, httpx.HTTPStatusError)
    assert of_http.response.status_code == 404
    assert isinstance(missing, NoSuchPage)
    assert (missing.args, missing.page) == (("not there",), 2)
    assert repr(doubled) == "Doubled('no page')"
    assert repr(own) == "InItsOwnWay('page')"
    # Within one process it does not have to be pickled.
    kind, name = (NoSuchPage, "") if runner_name == "threads" else (RuntimeError, "NoSuchPage: ")
    assert type(last) is kind
    assert str(last) == f"{name}not there"


@pytest.mark.guarantee(NAME, "errors")
@given(
    error=st.one_of(
        st.builds(OSError, st.integers(1, 40), st.text(), st.text()),
        st.builds(KeyError, st.text()),
        st.builds(SystemExit, st.integers()),
        st.builds(asyncio.CancelledError, st.text()),
        st.builds(UnicodeDecodeError, st.text(), st.binary(), *[st.integers(0, 9)] * 2, st.text()),
        st.builds(NoSuchPage, st.text(), page=st.integers(), seen=st.text()),
        st.builds(Doubled, st.text()),
    )
)
def test_an_error_survives_pickling(error: BaseException) -> None:
    """An outcome is pickled with its attempts and its error's type, arguments and attributes."""
    kept = pickle.loads(pickle.dumps(Outcome(None, error, 3)))
    assert kept.attempts == 3
    assert type(kept.error) is type(error)
    assert str(kept.error) == str(error)
    assert kept.error.args == error.args
    assert vars(kept.error) == vars(error)


@pytest.mark.guarantee(NAME, "retry")
@pytest.mark.runners("threads", "dask-processes")
def test_a_failed_item_is_retried_alone(
    task_runner: TaskRunner[Any], effect_ledger: EffectLedger
) -> None:
    """A failed item is called again until it succeeds or has no retries left; no other item is."""
    failures = {1: 1, 4: 2, 5: 9}
    run = retried.with_options(task_runner=task_runner, validate_parameters=False)
    outcomes = run(Flaky(effect_ledger, failures), list(range(7)), 2)
    attempts = [min(failures.get(item, 0) + 1, 3) for item in range(7)]
    assert [each.attempts for each in outcomes] == attempts
    calls = [effect.name for effect in effect_ledger.effects()]
    assert [calls.count(str(item)) for item in range(7)] == attempts
    assert [each.error is None for each in outcomes] == [item != 5 for item in range(7)]


def task_runs(flow_run_id: str, number: int) -> list[TaskRun]:
    """Return the task runs of a flow run, once all have ended and there are at least `number`."""
    with get_client(sync_client=True) as client:
        own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]

        def ended() -> list[TaskRun] | None:
            found = client.read_task_runs(flow_run_filter=own)
            finals = [run for run in found if run.state and run.state.is_final()]
            return finals if len(finals) == len(found) >= number else None

        return wait_until(ended)


class Clock:
    """A clock that advances only when an item takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Return the seconds so far."""
        return self.now

    def take(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


Cuts = Callable[[list[float], int], list[tuple[int, int]]]


@pytest.fixture
def cuts(task_runner: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch) -> Cuts:
    """Return a function that maps over items' durations and returns each task run's item range."""
    clock = Clock()
    monkeypatch.setattr(chunks, "time", clock)

    @flow(task_runner=task_runner)
    def take(seconds: list[float]) -> str:
        run = FlowRunContext.get()
        assert run is not None
        assert run.flow_run is not None
        values(chunked_map(clock.take, seconds, chunk_seconds=2**-3))
        return str(run.flow_run.id)

    def taken(seconds: list[float], runs: int) -> list[tuple[int, int]]:
        names = [run.name for run in task_runs(take(seconds), runs)]
        found = (re.fullmatch(r"take\[(\d+):(\d+)\]", name) for name in names)
        return sorted((int(each[1]), int(each[2])) for each in found if each)

    return taken


@pytest.mark.guarantee(NAME, "granularity")
@pytest.mark.guarantee(NAME, "runs")
@pytest.mark.runners("sequential")
@pytest.mark.parametrize("first", [2**-11, 2.0], ids=["as others", "slow"])
def test_a_chunk_takes_as_long_as_requested(cuts: Cuts, first: float) -> None:
    """Chunks have as many items as take an eighth of a second at the pace of the first items.

    The first items are run for a tenth of a chunk's time, not counting the very first. Their task
    run is named after all items that it received; the next one starts with the first that it left.
    """
    number = 1 + len(list(tapered(2001 - 27, 2**8)))
    pilot, *others = cuts([first, *[2**-11] * 2000], number)
    # After one item that does not count, it takes 26 of 0.49 ms to reach 12.5 ms.
    assert pilot == (0, PILOT_ITEMS)
    assert others[0][0] == 1 + 26
    assert [end - begin for begin, end in others[:7]] == [256] * 7
    assert others[-1][1] == 2001


@pytest.mark.guarantee(NAME, "granularity")
@pytest.mark.runners("sequential")
def test_the_second_item_alone_can_determine_the_pace(cuts: Cuts) -> None:
    """If only two items are run first, the second one alone determines the pace.

    The first takes two seconds, the others a sixteenth of a second each, so a chunk of an eighth of
    a second has two.
    """
    number = 1 + len(list(tapered(15, 2)))
    assert cuts([2.0, *[2**-4] * 16], number)[:3] == [(0, 17), (2, 4), (4, 6)]


@pytest.mark.guarantee(NAME, "granularity")
@given(items=st.integers(0, 5000), size=st.integers(1, 1000))
def test_the_last_chunks_are_small(items: int, size: int) -> None:
    """For any number of items and any size, chunks hold all items and get smaller at the end.

    No chunk is larger than the size or than the one before it, the last one has at most an eighth
    of the size (rounded up), and there are at most four more chunks than full ones would be.
    """
    sizes = list(tapered(items, size))
    assert sum(sizes) == items
    assert all(0 < each <= size for each in sizes)
    assert sorted(sizes, reverse=True) == sizes
    assert not sizes or sizes[-1] <= math.ceil(size / 8)
    assert len(sizes) <= items // size + 4


@pytest.mark.guarantee(NAME, "runs")
@pytest.mark.guarantee(NAME, "seen")
@pytest.mark.runners("threads", "dask-processes")
def test_there_is_a_task_run_for_each_chunk(task_runner: TaskRunner[Any]) -> None:
    """Ten items in chunks of four make three task runs, named after their items.

    The one with failed items is Failed, and its message names the first of them.
    """
    numbers = [1, 1, 1, 1, 1, -1, -2, 1, 1, 1]
    id, _ = roots.with_options(task_runner=task_runner)(numbers, {"chunk_size": 4})
    found = {run.name: run.state for run in task_runs(id, 3)}
    assert {name: state.name for name, state in found.items() if state} == {
        "root[0:4]": "Completed",
        "root[4:8]": "Failed",
        "root[8:10]": "Completed",
    }
    failed = found["root[4:8]"]
    assert failed is not None
    assert failed.message == ("2 of 4 items failed, the first is 5: ValueError('-1 has none')")


def vanish(item: int) -> int:
    """Kill the process at item 2."""
    if item == 2:
        kill_this_process()
    return item


@flow
def vanished(items: list[int]) -> list[Outcome[int]]:
    """Return the outcome of each item."""
    return chunked_map(vanish, items, chunk_size=2)


@pytest.mark.guarantee(NAME, "crash")
@pytest.mark.runners("processes")
def test_items_of_a_chunk_that_never_answers_have_an_error(task_runner: TaskRunner[Any]) -> None:
    """If a worker dies while running a chunk, the chunk's items have an error and 0 attempts."""
    outcomes = vanished.with_options(task_runner=task_runner)([1, 2, 3, 4])
    assert len(outcomes) == 4
    assert [each.attempts for each in outcomes[:2]] == [0, 0]
    assert all(each.error is not None for each in outcomes[:2])


@pytest.mark.guarantee(NAME, "crash")
@pytest.mark.runners("processes")
def test_items_whose_results_cannot_be_pickled_are_called_once(
    task_runner: TaskRunner[Any], effect_ledger: EffectLedger
) -> None:
    """If a result of the first items can't be pickled, all of these items have the error.

    The items after them still have their values, and no item is called twice.
    """

    def result_of(item: int) -> object:
        effect_ledger.record(str(item))
        return threading.Lock() if item == 0 else item

    @flow(task_runner=task_runner)
    def results() -> list[Outcome[object]]:
        return chunked_map(result_of, range(PILOT_ITEMS + 3), chunk_seconds=1000)

    outcomes = results()
    lost, others = outcomes[:PILOT_ITEMS], outcomes[PILOT_ITEMS:]
    assert {(type(each.error), each.attempts) for each in lost} == {(TypeError, 0)}
    assert [each.value for each in others] == list(range(PILOT_ITEMS, PILOT_ITEMS + 3))
    calls = [effect.name for effect in effect_ledger.effects()]
    assert sorted(calls, key=int) == [str(item) for item in range(PILOT_ITEMS + 3)]


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 0},
        {"chunk_seconds": 0},
        {"chunk_seconds": math.nan},
        {"chunk_seconds": math.inf},
        {"retries": -1},
        {"retry_delay_seconds": -1},
        {"retry_delay_seconds": math.nan},
        {"retry_delay_seconds": math.inf},
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """An invalid size, time or number is refused, and nothing is called."""

    def touch(item: int) -> None:
        (tmp_path / str(item)).touch()

    with pytest.raises(ValueError, match=next(iter(options))):
        chunked_map(touch, [1], **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize(
    "options", [{"retries": 1.0}, {"chunk_size": 1.5}, {"chunk_size": "2"}], ids=str
)
def test_counts_must_be_integers(options: dict[str, Any], tmp_path: Path) -> None:
    """A size or number of retries that is not an integer is refused by name; nothing is called."""

    def touch(item: int) -> None:
        (tmp_path / str(item)).touch()

    with pytest.raises(TypeError, match=f"{next(iter(options))}=.* is not an integer"):
        chunked_map(touch, [1], **options)
    assert not list(tmp_path.iterdir())


class Waits:
    """A callable that is not a function, with an async `__call__`."""

    async def __call__(self, item: int) -> int:
        """Return the item."""
        return item


@pytest.mark.guarantee(NAME, "refused")
def test_tasks_and_async_functions_are_refused() -> None:
    """A task or anything async, even in a `partial`, raises a TypeError that says what to pass."""

    async def wait(item: int) -> int:
        return item

    async def each(item: int) -> AsyncIterator[int]:
        yield item

    refused: list[Any] = [wait, each, Waits(), Waits().__call__, task(root), task(wait)]
    for function in [*refused, *(functools.partial(each) for each in refused)]:
        with pytest.raises(TypeError, match="give a task's `fn`, and of an async function one"):
            chunked_map(function, [1])


@flow
def double_of_roots() -> None:
    """Pass the futures of one map to another."""
    chunked_map(str, task(root).map([1, 4]))


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.usefixtures("prefect_server")
def test_futures_are_refused_as_items() -> None:
    """Futures passed as items raise a TypeError that says what to pass instead."""
    with pytest.raises(TypeError, match="items are values, not futures"):
        double_of_roots()
