# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/subflows/nested.py`."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.settings import PREFECT_TASKS_DEFAULT_RETRIES, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import SecretStr

from patterns.subflows.nested import book, book_once, nth_equal_call, plan_trip

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "subflows/nested"


Calls = list[Callable[[], Any]]


def retried(first: Calls, second: Calls) -> list[Any]:
    """Return what the second attempt of a flow gets from its calls.

    Args:
        first: What the first attempt calls before it fails.
        second: What the second attempt calls.

    Returns:
        A result for each call of the second attempt.
    """

    @flow(retries=1)
    def parent() -> list[Any]:
        if flow_run.run_count == 1:
            for call in first:
                call()
            raise ConnectionError
        return [call() for call in second]

    return parent()


@pytest.mark.guarantee(NAME, "child")
def test_a_booking_is_recorded_as_a_child() -> None:
    """Each subflow is a separate flow run, recorded as a child of the flow that called it."""

    @flow
    def parent() -> tuple[Any, list[str]]:
        return flow_run.id, [book_once("42", 20), book_once("7", 20)]

    parent_id, bookings = parent()
    names = {booking.rpartition(" ")[2] for booking in bookings}
    with get_client(sync_client=True) as client:
        only_children = FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(parent_id)])
        )
        children = client.read_flow_runs(flow_run_filter=only_children)
    assert {run.name for run in children} == names
    assert len(names) == 2


@pytest.mark.fact(NAME, "fails")
def test_the_failure_of_a_subflow_fails_its_parent() -> None:
    """What a subflow raises is raised in its parent, and fails it."""

    @flow
    def parent() -> str:
        return book("42", 0)

    with pytest.raises(ValueError, match="no seats"):
        parent()
    state: Any = parent(return_state=True)
    assert state.is_failed()


@pytest.mark.fact(NAME, "fails")
def test_the_failure_of_a_subflow_can_be_caught() -> None:
    """A parent that catches what its subflow raises goes on."""

    @flow
    def parent() -> str:
        try:
            return book("42", 0)
        except ValueError:
            return "walk"

    assert parent() == "walk"


@pytest.mark.fact(NAME, "state")
def test_a_parent_can_get_the_state_of_a_subflow() -> None:
    """With `return_state=True` the parent gets the state of a failed subflow and goes on."""

    @flow
    def parent() -> str:
        state: Any = book("42", 0, return_state=True)
        return f"the booking is {state.name}"

    assert parent() == "the booking is Failed"


@pytest.mark.fact(NAME, "futures")
def test_futures_arrive_as_values(task_runner: TaskRunner[Any]) -> None:
    """Futures passed as parameters arrive in the subflow as values, validated like others."""

    @task
    def text_of(seats: int) -> str:
        return str(seats)

    @task
    def ten() -> int:
        return 10

    @flow
    def child(seats: int, more: list[int]) -> list[int]:
        return [seats, *more]

    @flow(task_runner=task_runner)
    def parent() -> list[int]:
        seats: Any = text_of.submit(20)
        more: Any = [ten.submit(), 3]
        return child(seats, more)

    assert parent() == [20, 10, 3]


@pytest.mark.fact(NAME, "own-runner")
def test_a_subflow_has_its_own_task_runner(task_runner: TaskRunner[Any]) -> None:
    """A subflow runs its tasks on its own task runner, or on threads if it names none."""

    def runner_of_this_flow() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        return context.task_runner

    @task
    def work() -> None: ...

    @flow
    def names_none() -> str:
        work.submit().result()
        return type(runner_of_this_flow()).__name__

    seventeen: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=17)

    @flow(task_runner=seventeen)
    def names_one() -> int:
        return int(runner_of_this_flow()._max_workers)

    @flow(task_runner=task_runner)
    def parent() -> tuple[str, int, bool]:
        mine = runner_of_this_flow()
        return names_none(), names_one(), type(mine) is type(task_runner)

    assert parent() == ("ThreadPoolTaskRunner", 17, True)


class Bus:
    """A bus whose `repr` contains nothing but its memory address."""

    def __init__(self, line: str) -> None:
        self.line = line


def parameters() -> list[Any]:
    """Return new parameters, some of which are equal as JSON, by `repr` or by `==`."""
    plain = [1, True, 1.0, "1", (1, 2), [1, 2], {1: "a"}, {"1": "a"}, 0.0, -0.0]
    return [*plain, SecretStr("ali"), SecretStr("eve"), Bus("42"), Bus("7")]


def said(given: Any) -> str:
    """Return the contents of a parameter as text."""
    return repr(vars(given) if hasattr(given, "__dict__") else given)


drawn = st.lists(st.integers(0, len(parameters()) - 1), max_size=4)


@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.guarantee(NAME, "retry-own")
@settings(max_examples=1)
@given(first=drawn, second=drawn)
@example(first=[4, 5, 2], second=[5, 4, 2, 1])
@example(first=[0, 0, 3], second=[3, 0, 0, 0])
@example(first=[10, 11, 12], second=[11, 13, 12, 10])
def test_a_call_reuses_the_result_of_the_same_parameters(
    first: list[int], second: list[int]
) -> None:
    """A completed call is not run again; each gets its own parameters' result, in any order."""
    runs: defaultdict[str, list[int]] = defaultdict(list)

    @flow(validate_parameters=False)
    def child(given: Any) -> tuple[str, int]:
        runs[said(given)].append(len(runs[said(given)]))
        return said(given), runs[said(given)][-1]

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once(given: Any) -> tuple[str, int]:
        return child(given)

    def calls(drawn: list[int]) -> Calls:
        return [lambda each=each: once(parameters()[each]) for each in drawn]  # type: ignore[misc]

    results = retried(calls(first), calls(second))
    names = list(map(said, parameters()))
    assert [of for of, _ in results] == [names[each] for each in second]
    assert len(set(results)) == len(second)
    # A call that both attempts made was run once, in the first.
    needed = Counter(names[each] for each in first) | Counter(of for of, _ in results)
    assert {given: len(of) for given, of in runs.items()} == needed


@pytest.mark.guarantee(NAME, "retry-kept")
def test_the_flow_keeps_its_bookings(capsys: pytest.CaptureFixture[str]) -> None:
    """The pattern's flow recovers from its failure with the bookings of its first attempt."""
    bookings = plan_trip(["42", "7"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"attempt 1: {bookings[::-1]}"
    assert second == f"attempt 2: {bookings}"
    assert [booking.split("'")[1] for booking in bookings] == ["7", "42"]


@pytest.mark.guarantee(NAME, "retry-kept")
def test_a_copy_counts_as_the_original() -> None:
    """A list of a string and its copy counts as the same parameter as that string twice."""
    runs = []

    @flow
    def child(buses: list[str]) -> int:
        runs.append(buses)
        return len(runs)

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once(buses: list[str]) -> int:
        return child(buses)

    bus = "night bus"
    first, second = [bus, bus], [bus, "".join(bus)]
    assert second[0] is not second[1]
    assert retried([lambda: once(first)], [lambda: once(second)]) == [1]


@pytest.mark.guarantee(NAME, "retry-own")
def test_a_task_reuses_only_its_own_results() -> None:
    """A call gets only results of its own task, and each of several equal calls gets its own."""

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def cancel_once(bus: str, seats: int) -> str:
        return f"{seats} seats in bus {bus!r} given back"

    def once() -> str:
        return book_once("42", 1)

    other, *own = retried([once, once], [lambda: cancel_once("42", 1), once, once])
    assert other == "1 seats in bus '42' given back"
    assert all(booking.startswith("1 seats in bus '42', booked by") for booking in own)
    assert len(set(own)) == 2


@pytest.mark.guarantee(NAME, "retry-failed")
def test_a_failed_subflow_is_run_again() -> None:
    """A failed subflow is run again when its flow is retried."""
    runs = []

    @flow
    def child() -> str:
        runs.append(flow_run.id)
        if len(runs) == 1:
            raise TimeoutError
        return "booked"

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once() -> str:
        return child()

    assert retried([lambda: once(return_state=True)], [once]) == ["booked"]
    assert len(set(runs)) == 2


@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.guarantee(NAME, "retry-failed")
@pytest.mark.parametrize("by", ["decorator", "settings"])
def test_a_retry_of_the_task_is_the_same_call(by: str) -> None:
    """A task retry, by option or by setting, runs the subflow again and counts as the same call."""
    runs = []

    @flow
    def child(bus: str) -> int:
        runs.append(bus)
        if len(runs) == 1:
            raise ConnectionError
        return len(runs)

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once(bus: str) -> int:
        return child(bus)

    if by == "decorator":
        once = once.with_options(retries=1)
    calls: Calls = [lambda: once("42"), lambda: once("7")]
    with temporary_settings({PREFECT_TASKS_DEFAULT_RETRIES: int(by == "settings")}):
        assert retried(calls, calls) == [2, 3]
    assert runs == ["42", "42", "7"]


@pytest.mark.guarantee(NAME, "retry-own")
@settings(max_examples=2)
@given(fails=st.lists(st.booleans(), min_size=1, max_size=5))
@example(fails=[True, False])
@example(fails=[False, True, True, False])
def test_failed_calls_do_not_lose_the_results_of_equal_ones(fails: list[bool]) -> None:
    """However many equal calls fail in the first attempt, the second reuses all that completed."""
    outcomes = iter(fails)
    runs = []

    @flow
    def child() -> int:
        if next(outcomes, False):
            raise ConnectionError
        runs.append(flow_run.id)
        return len(runs)

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once() -> int:
        return child()

    completed = fails.count(False)
    results = retried([lambda: once(return_state=True)] * len(fails), [once] * (completed + 1))
    assert results == list(range(1, completed + 2))


@pytest.mark.guarantee(NAME, "retry-failed")
def test_a_subflow_whose_parameters_cannot_be_pickled_is_run_again() -> None:
    """A subflow whose parameters can't be pickled is run again."""
    runs = []

    @flow(validate_parameters=False)
    def child(lock: Any) -> int:
        runs.append(flow_run.id)
        return len(runs)

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once(lock: Any) -> int:
        return child(lock)

    lock = threading.Lock()
    assert retried([lambda: once(lock)], [lambda: once(lock)]) == [2]


@pytest.mark.guarantee(NAME, "retry-failed")
def test_a_subflow_whose_result_cannot_be_pickled_is_run_again() -> None:
    """A subflow whose result can't be pickled is run again, and its flow gets the result."""
    runs = []

    @flow
    def child() -> tuple[int, Any]:
        runs.append(flow_run.id)
        return len(runs), threading.Lock()

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    def once() -> tuple[int, Any]:
        return child()

    [(nth, _)] = retried([once], [once])
    assert nth == 2


@pytest.mark.guarantee(NAME, "async")
def test_async_subflows_are_kept() -> None:
    """Async subflows that `asyncio.gather` starts are not run again; each gets its own result."""
    runs: list[str] = []

    @flow
    async def child(bus: str) -> tuple[str, int]:
        runs.append(bus)
        return bus, len(runs)

    @task(cache_key_fn=nth_equal_call, persist_result=True)
    async def once(bus: str) -> tuple[str, int]:
        return await child(bus)

    @flow(retries=1)
    async def parent() -> list[tuple[str, int]]:
        if flow_run.run_count == 1:
            await asyncio.gather(once("42"), once("7"), once("42"))
            raise ConnectionError
        return list(await asyncio.gather(*map(once, ("7", "42", "42", "13"))))

    results = asyncio.run(parent())
    assert [bus for bus, _ in results] == ["7", "42", "42", "13"]
    assert len(set(results)) == 4
    assert len(runs) == 4


@pytest.mark.fact(NAME, "order")
def test_persisted_subflows_are_matched_by_order() -> None:
    """Persisted results of subflows that a flow calls directly are matched by order (#22259)."""

    @flow(persist_result=True)
    def child(bus: str) -> str:
        return f"a seat in bus {bus}"

    results = retried(
        [lambda: child("42"), lambda: child("7")], [lambda: child("7"), lambda: child("13")]
    )
    assert results == ["a seat in bus 42", "a seat in bus 7"]


@pytest.mark.fact(NAME, "retry-again")
def test_a_subflow_that_is_not_persisted_is_run_again() -> None:
    """Without a persisted result a subflow is run again, as a new flow run."""
    runs = []

    @flow
    def child() -> None:
        runs.append(flow_run.id)

    retried([child], [child])
    assert len(set(runs)) == 2
