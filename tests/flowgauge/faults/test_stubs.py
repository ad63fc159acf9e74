# SPDX-License-Identifier: Apache-2.0
"""Tasks whose own code does not run: values and functions in its place, on every task runner.

A single flow run on each task runner has all the stubs, and a second one finds what was stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.client.schemas.objects import State
from prefect.runtime import task_run
from prefect.tasks import Task
from prefect.transactions import Transaction, transaction

from flowgauge.faults.errors import FaultRefused
from flowgauge.faults.faults import Faults
from flowgauge.observe.history import History, run_history
from tests.flowgauge.faults.conftest import Outcome, RunTasks, unchecked


class ServiceDown(Exception):
    """An exception that the test defines."""


@task(retries=2)
def fetch(url: str, timeout: int = 5, *, encoding: str = "utf-8") -> object:
    """Never run: every test replaces it."""
    raise AssertionError("the task's own code ran")


@task(retries=2)
async def fetch_async(url: str, timeout: int = 5) -> str:
    """Never run: every test replaces it."""
    raise AssertionError("the task's own code ran")


@task(persist_result=True, cache_policy=INPUTS)
def store(url: str) -> object:
    """Never run: every test replaces it."""
    raise AssertionError("the task's own code ran")


@task
def count_up(number: int) -> Generator[int]:
    """Never run: every test replaces it."""
    raise AssertionError("the task's own code ran")
    yield number


@task
async def count_up_async(number: int) -> AsyncIterator[int]:
    """Never run: every test replaces it."""
    raise AssertionError("the task's own code ran")
    yield number


@task
def keep(what: object) -> object:
    """Return the argument."""
    return what


def describe(url: str, timeout: int, encoding: str = "") -> str:
    """Return what the task was called with."""
    return f"{url} {timeout} {encoding}"


async def describe_async(url: str, timeout: int, **named: str) -> str:
    """Return what the task was called with."""
    await asyncio.sleep(0)
    return f"{url} {timeout}"


def fail_at_first(url: str, timeout: int, encoding: str = "") -> int:
    """Fail in the first attempt, and return the number of the second."""
    attempt: int = task_run.run_count
    if attempt == 1:
        raise ServiceDown(url)
    return attempt


def fail(*arguments: object, **named: object) -> None:
    """Fail."""
    raise ServiceDown("no answer")


TASKS: dict[str, Task[..., Any]] = {
    name: like.with_options(name=name)
    for like, names in (
        (fetch, ["value", "nothing", "function", "closure", "unsteady", "broken", "late", "some"]),
        (fetch_async, ["value, async", "function, async", "unsteady, async", "plain, async"]),
        (store, ["stored"]),
        (keep, ["own"]),
    )
    for name in names
}


@dataclass(frozen=True)
class Course:
    """A flow run with all stubs, and a second one that finds a stored result."""

    first: dict[str, Outcome]
    again: Outcome
    mapped: list[str]
    called: str
    strikes: dict[str, int]
    late: dict[str, int]

    def history(self, name: str) -> History:
        """Return the states of a task's run in the first flow run."""
        return run_history(self.first[name].run)


@pytest.fixture(scope="module")
def course(
    prefect_server: str,
    pytestconfig: pytest.Config,
    run_tasks: RunTasks,
    task_runner: Any,
    runner_name: str,
) -> Course:
    """Run every task with its stub."""
    closed_over = {"pages": [1, 2]}
    with unchecked(pytestconfig, prefect_server) as faults:
        faults.on("value*").returns({"pages": [1, 2]})
        faults.on("nothing").returns(None)
        faults.on("function").returns(describe)
        faults.on("closure").returns(lambda *_, **named: closed_over | named)
        faults.on("function, async").returns(describe_async)
        faults.on("plain, async").returns(describe)
        faults.on("unsteady*").returns(fail_at_first)
        faults.on("broken").returns(fail)
        faults.on("late").returns("page")
        faults.on("late", at="after the effect").fail_times(2, ServiceDown)
        faults.on(TASKS["stored"]).returns(f"page of {runner_name}")
        faults.on("some").returns(lambda url, *_, **__: url.upper())

        @flow(task_runner=task_runner)
        def map_and_call() -> tuple[list[str], str]:
            some = TASKS["some"]
            return some.map(["a", "b", "c"]).result(), str(some("d"))

        calls = [(each, f"{runner_name}/{name}") for name, each in TASKS.items() if name != "some"]
        _, outcomes = run_tasks(*calls)
        mapped, called = map_and_call()
        _, [again] = run_tasks((TASKS["stored"], f"{runner_name}/stored"))
        assert faults.unmet() == faults.refused() == []
        strikes = {name: faults.struck(name) for name in TASKS if name != "own"}
        late = {
            "all": faults.struck(TASKS["late"]),
            "failures": faults.struck("late", at="after the effect"),
            "values": faults.struck("value*"),
        }
    first = {outcome.task: outcome for outcome in outcomes}
    return Course(first, again, mapped, called, strikes, late)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", {"pages": [1, 2]}),
        ("value, async", {"pages": [1, 2]}),
        ("nothing", None),
        ("closure", {"pages": [1, 2], "encoding": "utf-8"}),
    ],
)
def test_a_value_is_the_result(course: Course, name: str, value: object) -> None:
    """A task returns the value; its own code, which would fail, does not run."""
    assert course.first[name].error is None
    assert course.first[name].value == value
    assert course.history(name).matches("Pending Running Completed")


@pytest.mark.parametrize(
    ("name", "rest"),
    [("function", " 5 utf-8"), ("function, async", " 5"), ("plain, async", " 5 ")],
)
def test_a_function_gets_the_arguments(
    course: Course, runner_name: str, name: str, rest: str
) -> None:
    """A function, which for an async task may be async, gets the arguments, defaults included."""
    assert course.first[name].value == f"{runner_name}/{name}{rest}"
    assert course.history(name).matches("Pending Running Completed")


@pytest.mark.parametrize("name", ["unsteady", "unsteady, async"])
def test_what_a_function_raises_is_retried(course: Course, name: str) -> None:
    """An error of the function fails the attempt, Prefect retries, and each attempt counts."""
    assert course.first[name].value == 2
    assert course.history(name).matches("Pending Running Retrying Completed")
    assert course.strikes[name] == 2


def test_what_a_function_raises_is_the_error(course: Course) -> None:
    """A function that always raises uses up the retries, and its error arrives."""
    assert repr(course.first["broken"].error) == "ServiceDown('no answer')"
    assert course.history("broken").matches("Pending Running Retrying{2} Failed")
    assert course.strikes["broken"] == 3


def test_other_tasks_run_their_own_code(course: Course, runner_name: str) -> None:
    """A task that no stub names runs as usual."""
    assert course.first["own"].value == f"{runner_name}/own"


def test_the_result_is_stored(course: Course, runner_name: str) -> None:
    """A stub's result is stored; a run that finds it does not reach the stub."""
    assert course.first["stored"].value == f"page of {runner_name}"
    assert run_history(course.again.run).matches("Pending Running Cached")
    assert course.again.value == f"page of {runner_name}"
    assert course.strikes["stored"] == 1


def test_mapped_and_called(course: Course) -> None:
    """Tasks that are mapped or called are replaced, too, and all of their runs count."""
    assert course.mapped == ["A", "B", "C"]
    assert course.called == "D"
    assert course.strikes["some"] == 4


def test_strikes_are_counted_by_task_and_point(course: Course) -> None:
    """`struck` counts all faults of a task, those at a point, or those of a pattern."""
    assert course.history("late").matches("Pending Running Retrying{2} Completed")
    assert course.late == {"all": 3 + 2, "failures": 2, "values": 2}
    assert course.strikes["value"] == course.strikes["value, async"] == 1


def test_generators(faults: Faults) -> None:
    """A generator task yields the items of the value, or what the function yields or returns."""
    faults.on("count_up").returns([5, 6])
    assert list(count_up(1)) == [5, 6]
    faults.on("count_up").returns(lambda number: (number + each for each in range(2)))
    assert list(count_up(1)) == [1, 2]
    assert faults.struck("count_up") == 2


def test_async_generators(faults: Faults) -> None:
    """An async generator task does so, too, with async functions and generators as well."""

    async def yields(number: int) -> AsyncIterator[int]:
        yield number
        yield number + 1

    async def returns(number: int) -> list[int]:
        return [number]

    async def items() -> list[int]:
        return [item async for item in count_up_async(1)]

    found = []
    for stub in ([5, 6], yields, returns):
        faults.on("count_up_async").returns(stub)
        found.append(asyncio.run(items()))
    assert found == [[5, 6], [1, 2], [1]]


def test_a_generator_with_a_failing_stub(faults: Faults) -> None:
    """The error of a generator function is the task's failure, retried with other code as usual."""
    faults.on("count_up").returns(fail_at_first)
    retried = count_up.with_options(retries=1)

    def items(number: int) -> Iterator[int]:
        if task_run.run_count == 1:
            raise ServiceDown
        yield number

    faults.on("count_up").returns(items)
    assert list(retried(7)) == [7]
    assert faults.struck("count_up") == 2


def test_a_generator_closed_early(faults: Faults) -> None:
    """A generator task that is not read to its end has its stub closed."""
    faults.on("count_up").returns(range(10**9))
    generator = count_up(1)
    assert next(generator) == 0
    generator.close()
    assert faults.struck("count_up") == 1


def test_the_last_stub_counts(faults: Faults) -> None:
    """Of several stubs of a task the last counts, and the others are no mistake."""
    faults.on("*").returns("any")
    faults.on("fetch").returns("first")
    assert fetch("a") == "first"
    faults.on("fetch").returns("second")
    assert fetch("a") == "second"
    assert keep("own") == "any"
    assert faults.struck("fetch") == 2


def test_a_value_is_new_in_each_run(faults: Faults) -> None:
    """What one run does to the value, no other run sees, as if they ran in separate processes."""
    faults.on("fetch").returns([])
    changed: Any = fetch("a")
    changed.append(1)
    assert fetch("b") == []


def test_async_tasks_side_by_side(faults: Faults) -> None:
    """Runs of one async task at the same time each have their stub."""
    faults.on("fetch_async").returns(describe_async)

    async def both() -> list[str]:
        return list(await asyncio.gather(fetch_async("a"), fetch_async("b", 1)))

    assert asyncio.run(both()) == ["a 5", "b 1"]
    assert faults.struck(fetch_async) == 2


def test_hooks_and_transactions(faults: Faults) -> None:
    """Hooks run with the task itself, and a transaction rolls a stubbed task back."""
    seen: list[object] = []
    faults.on("reserve").returns("seat 1")

    def note(hooked: Task[..., Any], run: Any, state: State[Any]) -> None:
        seen.append((hooked is reserve, state.name))

    @task(on_completion=[note], persist_result=True)
    def reserve() -> str:
        raise AssertionError("the task's own code ran")

    @reserve.on_rollback
    def release(transaction: Transaction) -> None:
        seen.append("released")

    @flow
    def book() -> None:
        with transaction():
            assert reserve() == "seat 1"
            raise ServiceDown

    assert book(return_state=True).is_failed()
    assert seen == [(True, "Completed"), "released"]


def test_a_function_without_a_signature(faults: Faults) -> None:
    """A function that is not written in Python replaces a task, too, and so does a class."""
    faults.on("keep").returns(max)
    assert keep("hello") == "o"
    faults.on("keep").returns(str)
    assert keep(5) == "5"


def test_the_task_keeps_its_code(unchecked_faults: Faults) -> None:
    """A stub changes no task: code that calls the function itself gets its own."""
    own = keep.fn
    unchecked_faults.on("keep").returns(lambda what: keep.fn("own"))
    assert keep("any") == "own"
    assert keep.fn is own


@pytest.mark.parametrize(
    ("a_task", "stub", "says"),
    [
        (count_up, 5, "'count_up' is a generator task; give what it yields, such as a list"),
        (fetch, describe_async, "'fetch' is not async; give a function that is not async either"),
        (
            fetch,
            lambda url: url,
            "'fetch' has the parameters url, timeout, encoding, which the function does not take"
            " (too many positional arguments)",
        ),
        (
            store,
            lambda: None,
            "'store' has the parameters url, which the function does not take (too many"
            " positional arguments)",
        ),
    ],
)
def test_a_stub_that_does_not_fit(
    unchecked_faults: Faults, a_task: Task[..., Iterator[Any]], stub: object, says: str
) -> None:
    """What can't replace a task of its kind ends the run in one line, without a retry."""
    unchecked_faults.on(a_task).returns(stub)
    with pytest.raises(FaultRefused) as caught:
        tuple(a_task("a"))
    assert str(caught.value).startswith(f"faults.on({a_task.name!r}).returns(")
    assert str(caught.value).endswith(says)
    assert unchecked_faults.refused() == [str(caught.value)]
    assert unchecked_faults.struck(a_task) == 1


@pytest.mark.runners("processes")
def test_a_stub_that_does_not_fit_in_a_pool(unchecked_faults: Faults, run_tasks: RunTasks) -> None:
    """In a process pool, which such an end would break, the run fails and the line is kept."""
    unchecked_faults.on("fetch").returns(describe_async)
    _, [outcome] = run_tasks((fetch, "a"))
    assert isinstance(outcome.error, FaultRefused)
    assert unchecked_faults.refused() == [str(outcome.error)]


def test_a_stub_of_a_cached_task(unchecked_faults: Faults) -> None:
    """A stub of a task whose result is in the cache is reported at the end."""
    cached = keep.with_options(name="cached", persist_result=True, cache_policy=INPUTS)
    assert cached("stub of a cached task") == "stub of a cached task"
    unchecked_faults.on("cached").returns("stub")
    assert cached("stub of a cached task") == "stub of a cached task"
    assert unchecked_faults.struck("cached") == 0
    assert unchecked_faults.unmet() == [
        "faults.on('cached').returns('stub'): 'cached' ran, but from the cache or failed before"
        " its own code"
    ]
