# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/sequential.py`."""

from __future__ import annotations

import asyncio
import io
import pdb
import sys
import threading
import time
from contextvars import ContextVar, copy_context
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task, unmapped
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from patterns.task_runners.sequential import SequentialTaskRunner, load_van

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/sequential"


@pytest.mark.guarantee(NAME, "inline")
def test_a_submitted_task_runs_at_once_in_the_submitting_thread() -> None:
    """A sync task runs in the submitting thread, and `submit` returns when it is finished."""
    ran: list[int] = []

    @task
    def note() -> None:
        ran.append(threading.get_ident())

    @flow(task_runner=SequentialTaskRunner())
    def notes() -> int:
        future = note.submit()
        assert ran == [threading.get_ident()]
        assert future.state.is_completed()
        return threading.get_ident()

    assert ran == [notes()]


@pytest.mark.guarantee(NAME, "inline")
@settings(max_examples=4)
@given(numbers=st.lists(st.integers(), max_size=12))
def test_tasks_run_in_the_order_of_submission(numbers: list[int]) -> None:
    """Tasks run in the order they were submitted, whatever their number."""
    ran: list[int] = []

    @task
    def note(number: int) -> int:
        ran.append(number)
        return number

    @flow(task_runner=SequentialTaskRunner())
    def notes() -> list[int]:
        return [future.result() for future in [note.submit(number) for number in numbers]]

    assert notes() == numbers
    assert ran == numbers


@pytest.mark.guarantee(NAME, "futures")
@settings(max_examples=4)
@given(divisors=st.lists(st.integers(-2, 2), min_size=1, max_size=5))
def test_futures_are_those_of_a_thread_pool(divisors: list[int]) -> None:
    """In a sync flow the future has the same value, state and error as on a thread pool."""

    @task
    def divide(divisor: int) -> float:
        return 1 / divisor

    @flow
    def divisions() -> list[tuple[str, str]]:
        seen = []
        for divisor in divisors:
            future = divide.submit(divisor)
            value = future.result(raise_on_failure=False)
            called_back: list[object] = []
            future.add_done_callback(called_back.append)
            assert called_back == [future]
            seen.append((str(future.state.name), repr(value)))
        return seen

    sequential = divisions.with_options(task_runner=SequentialTaskRunner())()
    pool: Any = ThreadPoolTaskRunner(max_workers=2)
    threads = divisions.with_options(task_runner=pool)()
    assert sequential == threads
    assert sequential == [
        ("Completed", repr(1 / divisor))
        if divisor
        else ("Failed", "ZeroDivisionError('division by zero')")
        for divisor in divisors
    ]


@pytest.mark.guarantee(NAME, "futures")
def test_result_raises_what_the_task_raised() -> None:
    """`result()` of a failed task raises the task's own error."""

    @task
    def fail() -> None:
        raise LookupError("no such parcel")

    @flow(task_runner=SequentialTaskRunner())
    def failing() -> None:
        fail.submit().result()

    with pytest.raises(LookupError, match="no such parcel"):
        failing()


@pytest.mark.guarantee(NAME, "futures")
def test_context_variables_of_a_task_are_not_seen_outside_it() -> None:
    """Neither later tasks nor the flow see a context variable that a task sets, as on threads."""
    seen: ContextVar[str] = ContextVar("seen", default="nothing")

    @task
    def note(name: str) -> str:
        found = seen.get()
        seen.set(name)
        return found

    @task
    async def note_async(name: str) -> str:
        return note.fn(name)

    @flow
    def notes() -> list[str]:
        seen.set("the flow's")
        tasks: list[Any] = [note, note_async, note]
        return [*(each.submit(each.name).result() for each in tasks), seen.get()]

    pool: Any = ThreadPoolTaskRunner(max_workers=2)
    for runner in (SequentialTaskRunner(), pool):
        found = copy_context().run(notes.with_options(task_runner=runner))
        assert found == ["the flow's"] * 4


@pytest.mark.fact(NAME, "map")
@settings(max_examples=4)
@given(pairs=st.lists(st.tuples(st.integers(), st.integers()), min_size=1), factor=st.integers())
def test_map_behaves_like_the_built_in_map(pairs: list[tuple[int, int]], factor: int) -> None:
    """`map` keeps order, pairs its iterables and repeats `unmapped` values."""

    @task
    def combine(left: int, right: int, factor: int) -> int:
        return (left - right) * factor

    lefts = [left for left, _ in pairs]
    rights = [right for _, right in pairs]

    @flow(task_runner=SequentialTaskRunner())
    def combined() -> list[int]:
        return combine.map(lefts, rights, unmapped(factor)).result()

    assert combined() == [(left - right) * factor for left, right in pairs]


@pytest.mark.guarantee(NAME, "wait-for")
def test_a_task_that_waits_for_a_failed_one_does_not_run() -> None:
    """A task whose `wait_for` failed does not run and ends NotReady."""
    ran: list[str] = []

    @task
    def fail() -> None:
        raise ValueError

    @task
    def follow(name: str) -> None:
        ran.append(name)

    @flow(task_runner=SequentialTaskRunner())
    def waits() -> tuple[str | None, str | None]:
        following: Any = follow
        failed, fine = fail.submit(), following.submit("first")
        after_failed = following.submit("after failed", wait_for=[failed])
        after_fine = following.submit("after fine", wait_for=[fine])
        return after_failed.state.name, after_fine.state.name

    assert waits() == ("NotReady", "Completed")
    assert ran == ["first", "after fine"]


@pytest.mark.guarantee(NAME, "retries")
@settings(max_examples=4)
@given(retries=st.integers(0, 3), failures=st.integers(0, 4))
def test_a_submitted_task_is_retried_as_often_as_a_called_one(retries: int, failures: int) -> None:
    """A submitted task is retried as often as a called one."""

    def outcome(submitted: bool) -> tuple[int, str]:
        tries: list[None] = []

        @task(retries=retries)
        def flaky() -> None:
            tries.append(None)
            if len(tries) <= failures:
                raise ConnectionError

        @flow(task_runner=SequentialTaskRunner())
        def attempt() -> str:
            state = flaky.submit().state if submitted else flaky(return_state=True)
            return str(state.name)

        name = attempt()
        return len(tries), name

    expected = (min(failures, retries) + 1, "Completed" if failures <= retries else "Failed")
    assert outcome(submitted=True) == outcome(submitted=False) == expected


@pytest.mark.guarantee(NAME, "timeouts")
def test_a_timeout_interrupts_a_submitted_task() -> None:
    """A submitted task that sleeps is interrupted when its time is up."""
    slept: list[str] = []

    @task(timeout_seconds=0.1)
    def sleep() -> None:
        time.sleep(30)
        slept.append("to the end")

    @flow(task_runner=SequentialTaskRunner())
    def sleeping() -> str:
        return str(sleep.submit().state.name)

    begun = time.monotonic()
    assert sleeping() == "TimedOut"
    assert slept == []
    # Outside the main thread the error would come only when the sleep is over.
    assert time.monotonic() - begun < 30


@task
async def double(number: int) -> tuple[int, str]:
    """Double a number after one turn of the event loop; return that and the flow run's id."""
    await asyncio.sleep(0)
    return 2 * number, str(flow_run.id)


@pytest.mark.guarantee(NAME, "async")
def test_async_tasks_can_be_submitted_from_sync_and_async_flows() -> None:
    """Async tasks can be submitted from sync and from async flows, and know their flow run."""

    @flow(task_runner=SequentialTaskRunner())
    def from_sync() -> tuple[list[Any], str]:
        return [double.submit(number).result() for number in range(3)], str(flow_run.id)

    @flow(task_runner=SequentialTaskRunner())
    async def from_async() -> tuple[list[Any], str]:
        return [double.submit(number).result() for number in range(3)], str(flow_run.id)

    for doubled, run in (from_sync(), asyncio.run(from_async())):
        assert doubled == [(0, run), (2, run), (4, run)]


@pytest.mark.guarantee(NAME, "nested")
def test_tasks_submit_tasks_that_submit_tasks() -> None:
    """A task may submit tasks and wait for them, 50 deep, without deadlock."""

    @task
    def descend(depth: int) -> int:
        return 1 + descend.submit(depth - 1).result() if depth else 0

    @flow(task_runner=SequentialTaskRunner())
    def descent(depth: int) -> int:
        return descend.submit(depth).result()

    assert descent(50) == 50


@pytest.mark.guarantee(NAME, "debugger")
def test_breakpoint_stops_with_the_flow_below_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """`breakpoint()` in a task stops in the flow's own thread, with the flow below it."""
    terminal = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("where\np weight\ncontinue\n"), stdout=terminal)
    debugger.use_rawinput = False
    monkeypatch.setattr(sys, "breakpointhook", lambda: debugger.set_trace(sys._getframe().f_back))

    @task
    def weigh_under_debugger() -> int:
        weight = 41 + 1
        breakpoint()
        return weight

    @flow(task_runner=SequentialTaskRunner())
    def flow_with_breakpoint() -> int:
        return weigh_under_debugger.submit().result()

    trace = sys.gettrace()
    try:
        assert flow_with_breakpoint() == 42
    finally:
        sys.settrace(trace)
    assert "flow_with_breakpoint()" in terminal.getvalue()
    assert "42" in terminal.getvalue()


@pytest.mark.guarantee(NAME, "portable")
def test_a_pickled_copy_runs_the_same_flow() -> None:
    """The runner survives pickling, and a copy runs the same flow."""
    runner: Any = cloudpickle.loads(cloudpickle.dumps(SequentialTaskRunner()))
    assert runner == SequentialTaskRunner() == runner.duplicate()
    assert load_van.with_options(task_runner=runner)(["book", "lamp"]) == 8


@pytest.mark.guarantee(NAME, "started")
def test_submitting_to_a_runner_that_was_not_started_is_refused() -> None:
    """Submitting to a runner that was not started raises an error that says so."""
    with pytest.raises(RuntimeError, match="must be started"):
        SequentialTaskRunner().submit(double, {"number": 1})
