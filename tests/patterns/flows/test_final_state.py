# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/final_state.py`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import allow_failure, flow, task
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner
from pydantic import BaseModel

from flowgauge.waiting import patience
from patterns.flows.final_state import (
    count_stock,
    settle,
    settle_async,
    take_stock,
    take_stock_and_miss,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "flows/final_state"


@dataclass(frozen=True)
class Pair:
    """A pair of values."""

    left: Any
    right: Any


class Box(BaseModel):
    """A model that contains one value."""

    inside: Any


shelves = st.sampled_from(["shelf", "desk", "box"])
nests = st.recursive(
    shelves | st.sets(shelves),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab"), inner, max_size=2)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Box, inside=inner)
    ),
    max_leaves=6,
)


RICH: list[Any] = [
    "desk",
    ["shelf", {"a": ["desk", ("box", [["shelf"]])], "b": []}],
    Pair({"box", "desk"}, Box(inside=[Box(inside="desk")])),
]


def replaced(nest: Any, leaf: Callable[[str], Any]) -> Any:
    """Return the same structure with each leaf replaced."""
    if isinstance(nest, list):
        return [replaced(inner, leaf) for inner in nest]
    if isinstance(nest, dict):
        return {key: replaced(inner, leaf) for key, inner in nest.items()}
    if isinstance(nest, tuple):
        return tuple(replaced(inner, leaf) for inner in nest)
    if isinstance(nest, set):
        return {replaced(inner, leaf) for inner in nest}
    if isinstance(nest, Pair):
        return Pair(replaced(nest.left, leaf), replaced(nest.right, leaf))
    if isinstance(nest, Box):
        return Box(inside=replaced(nest.inside, leaf))
    return leaf(nest)


def end(body: Callable[[], Any]) -> State[Any]:
    """Return the final state of a flow with this body."""

    @flow
    def one() -> Any:
        return body()

    state: Any = one(return_state=True)
    assert isinstance(state, State)
    return state


def ends(task_runner: TaskRunner[Any], bodies: list[Callable[[Any, Any], Any]]) -> list[State[Any]]:
    """Return the final states of flows.

    Args:
        task_runner: Runs a task that fails and one that completes.
        bodies: The flows' bodies; each receives the futures of both tasks.

    Returns:
        A state for each body.
    """
    states: list[State[Any]] = []

    @flow(task_runner=task_runner)
    def try_all() -> None:
        failed, fine = count_stock.submit("locked"), count_stock.submit("open")
        wait([failed, fine])
        for body in bodies:
            # In a partial, as futures that are parameters of a flow would be resolved.
            states.append(end(partial(body, failed, fine)))

    try_all()
    return states


@pytest.mark.guarantee(NAME, "settled")
@settings(max_examples=2)
@given(cases=st.lists(nests, min_size=4, max_size=4))
@example(cases=[*RICH, ([], Pair({}, "shelf"))])
def test_results_have_the_structure_of_the_futures(
    task_runner: TaskRunner[Any], cases: list[Any]
) -> None:
    """`settle` returns the results of all futures, in the structure in which it received them."""
    returned: list[Any] = []

    @flow(task_runner=task_runner)
    def counts() -> None:
        futures = {shelf: count_stock.submit(shelf) for shelf in ("shelf", "desk", "box")}
        returned.extend(settle(replaced(case, futures.__getitem__)) for case in cases)

    counts()
    assert returned == [replaced(case, len) for case in cases]


@pytest.mark.guarantee(NAME, "settled")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_counts_its_stock(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow returns the counts by room."""
    counted: Any = take_stock.with_options(task_runner=task_runner)({"attic": ["toys", "box"]})
    assert counted == {"attic": [4, 3]}


@pytest.mark.guarantee(NAME, "failed")
@settings(max_examples=2)
@given(
    cases=st.lists(nests, min_size=3, max_size=3),
    chosen=st.integers(0, 9),
    as_state=st.booleans(),
)
@example(cases=RICH, chosen=-1, as_state=True)
@example(cases=RICH[1:2], chosen=3, as_state=False)
def test_one_failure_fails_the_flow(
    task_runner: TaskRunner[Any], cases: list[Any], chosen: int, as_state: bool
) -> None:
    """If a future or state did not complete, wherever it is nested, the flow is Failed."""

    def with_failure(case: Any, failed: Any, fine: Any) -> Any:
        places: list[str] = []
        replaced(case, places.append)
        if not places:
            return [case, failed]
        which = chosen % len(places)
        leaves = iter([*[fine] * which, failed, *[fine] * len(places)])
        return replaced(case, lambda _: next(leaves))

    def body(case: Any) -> Callable[[Any, Any], Any]:
        return lambda failed, fine: settle(
            with_failure(case, failed.state if as_state else failed, fine)
        )

    for state in ends(task_runner, [body(case) for case in cases]):
        assert state.is_failed()
        error = state.result(raise_on_failure=False)
        assert isinstance(error, ExceptionGroup)
        assert [type(each) for each in error.exceptions] == [PermissionError]


@pytest.mark.guarantee(NAME, "failed")
def test_each_failure_is_in_the_error() -> None:
    """`settle` raises one ExceptionGroup with the error of each run that did not complete."""

    @flow
    def counts() -> None:
        submit: Any = count_stock.submit
        never_ran = submit("open", wait_for=[submit("locked door")])
        called: Any = count_stock("locked safe", return_state=True)
        never_ran.wait()
        # A run that appears in two places counts once.
        settle([count_stock.map(["locked box", "open"]), {1: called}, called, never_ran.state])

    with pytest.raises(ExceptionGroup, match="3 runs did not complete") as raised:
        counts()
    box, safe, door = raised.value.exceptions
    assert "locked box" in str(box)
    assert "locked safe" in str(safe)
    assert "NotReady" in str(door)


@pytest.mark.guarantee(NAME, "all-waited")
def test_all_tasks_end_before_settle_raises(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Before `settle` raises, every task has run, even those after the first failure."""

    @task
    def count(number: int) -> None:
        if number == 0:
            raise PermissionError
        time.sleep(0.2)
        (tmp_path / str(number)).touch()

    @flow(task_runner=task_runner)
    def counts() -> int:
        futures = count.map(range(5))
        try:
            settle(futures)
        except ExceptionGroup:
            return len(list(tmp_path.iterdir()))
        return -1

    assert counts() == 4


@pytest.mark.guarantee(NAME, "settled")
def test_mapped_futures_become_a_plain_list() -> None:
    """The list of futures that `map` returns becomes a plain list of results, nested or not."""

    @flow
    def counts() -> list[Any]:
        work = count_stock.map(["box"]), {"attic": count_stock.map(["desk"])}
        return [type(settle(work[0])), *settle(work), type(settle(work)[1]["attic"])]

    assert counts() == [list, [3], {"attic": [4]}, list]


@pytest.mark.guarantee(NAME, "unseen")
@pytest.mark.parametrize(
    "hide", [iter, lambda given: (each for each in given), lambda given: map(len, given)]
)
def test_an_iterator_is_refused(hide: Callable[[list[Any]], Any]) -> None:
    """An iterator, whose futures `settle` would not see, raises a TypeError."""
    with pytest.raises(TypeError, match=r"futures in a \w+ can.t be settled: make it a list"):
        settle({"cellar": hide([[1], [2]])})


HIDING: dict[str, Callable[[Any], Any]] = {
    "deque": lambda each: deque([each]),
    "frozenset": lambda each: {frozenset([each])},
    "dict_keys": lambda each: {each: 1}.keys(),
    "dict_values": lambda each: [{1: each}.values()],
    "dict_items": lambda each: {1: each}.items(),
    "keys of a dict": lambda each: {"cellar": {each: 1}},
    "keys of a dict ": lambda each: [{("cellar", each): 1}],
    "frozenset ": lambda each: deque([frozenset([each])]),
}
"""Places where a future is not seen, or where its result may overwrite another's."""


@pytest.mark.guarantee(NAME, "unseen")
@pytest.mark.parametrize("where", HIDING)
def test_hidden_futures_are_refused(where: str) -> None:
    """A hidden future or state, or one as a key, raises a TypeError; other values are kept."""
    hide = HIDING[where]

    @flow
    def counts() -> None:
        future = count_stock.submit("box")
        future.wait()
        for hidden in (future, future.state):
            with pytest.raises(TypeError, match=f"futures in .*{where.strip()} can.t be settled"):
                settle([hide(hidden)])

    counts()
    harmless = hide(4)
    assert settle([harmless]) == [harmless]


@pytest.mark.guarantee(NAME, "unseen")
def test_an_unawaited_coroutine_is_refused() -> None:
    """A coroutine or asyncio task that was not awaited raises a TypeError in `settle_async`."""

    @task
    async def count() -> int:
        return 1

    @flow
    async def counts() -> list[str]:
        coroutine = count()
        begun = asyncio.ensure_future(count())
        errors = []
        for each in (coroutine, begun):
            with pytest.raises(TypeError) as raised:
                await settle_async([each])
            errors.append(str(raised.value))
            await each
        return errors

    assert asyncio.run(counts()) == [
        "a coroutine is not looked into: await it first",
        "a Task is not looked into: await it first",
    ]


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads", "processes", "dask-threads")
def test_the_event_loop_keeps_running(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """`settle_async` returns results, and the event loop keeps running meanwhile."""
    seconds = patience() / 10

    @task
    def wait_for_key(door: Path) -> str:
        deadline = time.monotonic() + seconds
        while not door.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"open: {door.exists()}"

    async def unlock(door: Path) -> None:
        door.touch()

    @flow(task_runner=task_runner)
    async def opens() -> Any:
        waiting = wait_for_key.submit(tmp_path / "door")
        settled, _ = await asyncio.gather(settle_async([waiting]), unlock(tmp_path / "door"))
        return settled

    assert asyncio.run(opens()) == ["open: True"]


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("sequential", "threads")
def test_an_async_flow_fails(task_runner: TaskRunner[Any]) -> None:
    """`settle_async` raises one ExceptionGroup with the error of each failure."""

    @flow(task_runner=task_runner)
    async def counts() -> Any:
        return await settle_async({"cellar": count_stock.map(["locked safe", "wine"])})

    with pytest.raises(ExceptionGroup, match="1 runs did not complete") as raised:
        asyncio.run(counts())
    assert [type(error) for error in raised.value.exceptions] == [PermissionError]


@pytest.mark.fact(NAME, "raised")
def test_an_error_that_leaves_the_body_fails_the_flow(task_runner: TaskRunner[Any]) -> None:
    """An error that leaves the body, including one raised by `.result()`, fails the flow."""

    def raises(failed: Any, fine: Any) -> None:
        raise RuntimeError

    states = ends(task_runner, [raises, lambda failed, fine: failed.result()])
    errors = [state.result(raise_on_failure=False) for state in states]
    assert [state.type.value for state in states] == ["FAILED", "FAILED"]
    assert [type(error) for error in errors] == [RuntimeError, PermissionError]


@pytest.mark.fact(NAME, "forgotten")
def test_failures_that_are_not_returned_do_not_count(task_runner: TaskRunner[Any]) -> None:
    """Failed tasks that are not returned leave the flow Completed (#16373)."""

    @flow(task_runner=task_runner)
    def submits_only() -> None:
        count_stock.submit("locked")

    def waits(failed: Any, fine: Any) -> None:
        failed.wait()

    def looks(failed: Any, fine: Any) -> Any:
        return failed.result(raise_on_failure=False)

    state: Any = submits_only(return_state=True)
    for each in [state, *ends(task_runner, [waits, looks])]:
        assert each.is_completed()


@pytest.mark.fact(NAME, "flat")
def test_futures_that_are_returned_flat_count(task_runner: TaskRunner[Any]) -> None:
    """Returned futures or states, alone or in a flat list, tuple or set, must all be Completed."""
    bad: list[Callable[[Any, Any], Any]] = [
        lambda failed, fine: failed,
        lambda failed, fine: [fine, failed.state],
        lambda failed, fine: (failed, fine.state),
        lambda failed, fine: {failed, fine},
    ]
    good: list[Callable[[Any, Any], Any]] = [
        lambda failed, fine: fine,
        lambda failed, fine: [fine, fine.state],
    ]
    types = [state.type.value for state in ends(task_runner, bad + good)]
    assert types == ["FAILED"] * len(bad) + ["COMPLETED"] * len(good)


@pytest.mark.fact(NAME, "hidden")
def test_futures_that_are_returned_nested_do_not_count(task_runner: TaskRunner[Any]) -> None:
    """Failed futures that are nested or next to another value leave the flow Completed (#23137)."""
    hidden: list[Callable[[Any, Any], Any]] = [
        lambda failed, fine: [[failed], [fine]],
        lambda failed, fine: {"a": failed},
        lambda failed, fine: [failed, "beside it"],
        lambda failed, fine: (each for each in [failed]),
        lambda failed, fine: Pair(failed, fine),
    ]
    for state in ends(task_runner, hidden):
        assert state.is_completed()


@pytest.mark.fact(NAME, "hidden")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_without_settle_misses_its_failure(task_runner: TaskRunner[Any]) -> None:
    """With a failed task the pattern's flow is Failed, and the one without `settle` Completed."""
    shelves = {"cellar": ["locked safe"]}
    types = []
    for each in (take_stock, take_stock_and_miss):
        state: Any = each.with_options(task_runner=task_runner)(shelves, return_state=True)
        types.append(state.type.value)
    assert types == ["FAILED", "COMPLETED"]


@pytest.mark.fact(NAME, "explicit")
@pytest.mark.parametrize("made", [Completed, Failed, Cancelled])
def test_a_state_made_by_hand_is_the_final_state(made: Callable[..., State[Any]]) -> None:
    """A state that the body creates and returns is the final state, whatever its tasks did."""

    @flow
    def decides() -> State[Any]:
        count_stock("locked", return_state=True)
        count_stock("open")
        return made(message="decided by hand")

    state: Any = decides(return_state=True)
    assert state.type == made().type
    assert state.message == "decided by hand"


@pytest.mark.fact(NAME, "upstream")
def test_a_task_that_never_ran_fails_the_flow(task_runner: TaskRunner[Any]) -> None:
    """A returned future of a task that never ran, because one before it failed, fails the flow."""

    @flow(task_runner=task_runner)
    def counts() -> Any:
        submit: Any = count_stock.submit
        return submit("open", wait_for=[submit("locked")])

    state: Any = counts(return_state=True)
    assert state.is_failed()


@pytest.mark.fact(NAME, "called")
def test_a_called_task_that_never_ran_leaves_the_flow_completed(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task called after a failed one never runs, and only `settle` lets the flow fail of it."""
    published = tmp_path / "published"

    @task
    def publish() -> str:
        published.touch()
        return "published"

    returned: list[Any] = []

    def calls(failed: Any) -> None:
        returned.append(publish(wait_for=[failed]))

    def settles_its_state(failed: Any) -> None:
        settle(publish(wait_for=[failed], return_state=True))

    def settles_its_future(failed: Any) -> None:
        submit: Any = publish.submit
        settle(submit(wait_for=[failed]))

    def ended(body: Callable[[Any], None]) -> str:
        @flow(task_runner=task_runner)
        def nightly() -> None:
            body(count_stock.submit("locked"))

        state: Any = nightly(return_state=True)
        return str(state.type.value)

    bodies = (calls, settles_its_state, settles_its_future)
    assert [ended(body) for body in bodies] == ["COMPLETED", "FAILED", "FAILED"]
    assert returned == [None]
    assert not published.exists()


@pytest.mark.fact(
    NAME,
    "allowed",
    runners=("sequential", "threads", "processes", "ray"),
    reason="on Dask the later task does not run: its argument counts as a failed upstream",
)
def test_an_allowed_failure_does_not_count(task_runner: TaskRunner[Any]) -> None:
    """A failure that a later task accepts with `allow_failure` does not fail the flow."""

    @task
    def describe(outcome: Any) -> str:
        return type(outcome).__name__

    @flow(task_runner=task_runner)
    def counts() -> Any:
        failed: Any = count_stock.submit("locked")
        return describe.submit(allow_failure(failed))

    state: Any = counts(return_state=True)
    assert state.is_completed()
