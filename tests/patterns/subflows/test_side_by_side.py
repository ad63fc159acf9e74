# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/subflows/side_by_side.py`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner
from pydantic import SecretStr

from flowgauge.waiting import patience, wait_until
from patterns.subflows.side_by_side import (
    start_flow,
    submit_flow,
    survey_all,
    survey_all_by_radio,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "subflows/side_by_side"
TOGETHER = ("threads", "processes", "dask-threads", "dask-processes", "ray")


def meeting(folder: Path, seconds: float) -> Flow[..., tuple[str, bool]]:
    """Return a flow whose two runs should overlap.

    Each run creates a file and waits for the file of the other, so the run that begins first
    sees the other's file only if the other begins before it ends.
    """

    @flow
    def meet(name: str, other: str) -> tuple[str, bool]:
        import time

        (folder / name).touch()
        deadline = time.monotonic() + seconds
        while not (folder / other).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return name, (folder / other).exists()

    return meet


@pytest.mark.guarantee(
    NAME,
    "overlap",
    runners=TOGETHER,
    reason="it runs one task at a time, and a subflow is in one of them",
)
def test_sync_subflows_overlap(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path
) -> None:
    """Sync subflows started with `submit_flow` run at the same time."""
    meet = meeting(tmp_path, 0.2 if runner_name == "sequential" else patience() / 4)

    @flow(task_runner=task_runner)
    def parent() -> list[tuple[str, bool]]:
        a = submit_flow(meet, name="a", other="b")
        b = submit_flow(meet, name="b", other="a")
        return [a.result(), b.result()]

    assert parent() == [("a", True), ("b", True)]


@pytest.mark.fact(NAME, "in-turn")
def test_called_subflows_do_not_overlap(tmp_path: Path) -> None:
    """Sync subflows that are called one after the other never overlap (#15415)."""
    meet = meeting(tmp_path, seconds=0.2)

    @flow
    def parent() -> list[tuple[str, bool]]:
        return [meet("a", "b"), meet("b", "a")]

    assert parent() == [("a", False), ("b", True)]


@pytest.mark.guarantee(NAME, "gathered")
def test_async_subflows_overlap() -> None:
    """Async subflows started with `start_flow` run at the same time, as long as they await."""
    begun: dict[str, asyncio.Event] = {}

    @flow
    async def meet(mine: str, other: str) -> bool:
        begun[mine].set()
        return await asyncio.wait_for(begun[other].wait(), timeout=patience() / 10)

    @flow
    async def parent() -> list[bool]:
        begun.update(a=asyncio.Event(), b=asyncio.Event())
        a = start_flow(meet, mine="a", other="b")
        b = start_flow(meet, mine="b", other="a")
        return list(await asyncio.gather(a, b))

    assert asyncio.run(parent()) == [True, True]


@pytest.mark.fact(NAME, "blocking")
def test_blocking_async_subflows_do_not_overlap() -> None:
    """While an async subflow blocks, even in `.result()`, no other one runs."""
    spans: list[tuple[float, float]] = []

    @task
    def leaf() -> None:
        time.sleep(0.05)

    @flow
    async def block() -> None:
        started = time.monotonic()
        leaf.submit().result()
        time.sleep(0.01)
        spans.append((started, time.monotonic()))

    @flow
    async def parent() -> None:
        await asyncio.gather(block(), block(), block())

    asyncio.run(parent())
    assert len(spans) == 3
    for (_, ended), (started, _) in pairwise(sorted(spans)):
        assert started >= ended


@pytest.mark.guarantee(NAME, "refused")
def test_each_function_refuses_the_other_kind_of_flow() -> None:
    """`submit_flow` refuses async flows and `start_flow` sync ones; each error names the other."""

    @flow
    async def by_radio() -> None: ...

    @flow
    def by_boat() -> None: ...

    @flow
    async def parent() -> tuple[str, str]:
        started: Any = by_boat
        with pytest.raises(TypeError) as submitted:
            submit_flow(by_radio)
        with pytest.raises(TypeError) as awaited:
            await start_flow(started)
        return str(submitted.value), str(awaited.value)

    assert asyncio.run(parent()) == (
        "flow 'by-radio' is async: call start_flow",
        "flow 'by-boat' is not async: call submit_flow",
    )


@pytest.mark.guarantee(NAME, "parameters")
def test_a_parameter_may_have_any_name() -> None:
    """A flow's parameters may have the same names as those of `submit_flow` and `start_flow`."""

    @flow
    def child(subflow: str, parameters: str, call: str) -> str:
        return subflow + parameters + call

    @flow
    async def async_child(subflow: str, parameters: str, call: str) -> str:
        return subflow + parameters + call

    names = {"subflow": "a", "parameters": "b", "call": "c"}

    @flow
    async def parent() -> tuple[str, str]:
        return submit_flow(child, **names).result(), await start_flow(async_child, **names)

    assert asyncio.run(parent()) == ("abc", "abc")


@pytest.mark.guarantee(NAME, "order")
def test_results_come_in_the_order_of_the_calls(tmp_path: Path) -> None:
    """Results come in the order of the calls, whichever subflow ends first."""
    ended: list[str] = []

    @flow
    def finish(name: str, after: str | None) -> str:
        wait_until(lambda: after is None or after in ended)
        ended.append(name)
        return name

    @flow
    def parent() -> list[str]:
        calls = [("a", "b"), ("b", "c"), ("c", None)]
        started = [submit_flow(finish, name=name, after=after) for name, after in calls]
        return [each.result() for each in started]

    assert parent() == ["a", "b", "c"]
    assert ended == ["c", "b", "a"]


def kinds(outcomes: Iterable[object]) -> list[str]:
    """Return results as text, and errors as the names of their types."""
    return [
        type(outcome).__name__ if isinstance(outcome, Exception) else str(outcome)
        for outcome in outcomes
    ]


@pytest.mark.guarantee(NAME, "order")
@pytest.mark.guarantee(NAME, "failures")
def test_one_failure_does_not_lose_the_others(task_runner: TaskRunner[Any]) -> None:
    """When one subflow fails, the others complete; its error is among the results."""
    maps = survey_all.with_options(task_runner=task_runner)(["Skye", "", "Mull"])
    assert kinds(maps) == ["map of Skye", "ValueError", "map of Mull"]
    assert "is on no map" in str(maps[1])


@pytest.mark.guarantee(NAME, "order")
@pytest.mark.guarantee(NAME, "failures")
def test_one_failure_does_not_lose_the_gathered_others() -> None:
    """When one gathered subflow fails, the others complete; its error is among the results."""
    maps = asyncio.run(survey_all_by_radio(["Skye", "", "Mull"]))
    assert kinds(maps) == ["map of Skye", "ValueError", "map of Mull"]
    assert "has no call sign" in str(maps[1])


def children_of(parent_id: str) -> set[UUID]:
    """Return the ids of the flow runs that are recorded as children of one."""
    children = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(parent_id)])
    )
    with get_client(sync_client=True) as client:
        return {run.id for run in client.read_flow_runs(flow_run_filter=children)}


@pytest.mark.guarantee(NAME, "family")
def test_subflows_are_children_of_the_flow(task_runner: TaskRunner[Any]) -> None:
    """Each subflow's run is recorded as a child of the flow run that started it."""

    @flow
    def child() -> Any:
        return flow_run.id

    @flow(task_runner=task_runner)
    def parent() -> tuple[Any, Any, Any]:
        started = [submit_flow(child), submit_flow(child)]
        return flow_run.id, *(each.result() for each in started)

    parent_id, *children = parent()
    assert children_of(parent_id) == set(map(UUID, children))
    assert len(set(children)) == 2


@pytest.mark.guarantee(NAME, "family")
def test_gathered_subflows_are_children_of_the_flow() -> None:
    """Each async subflow's run is recorded as a child of the flow run that started it."""

    @flow
    async def child() -> Any:
        return flow_run.id

    @flow
    async def parent() -> tuple[Any, Any, Any]:
        return flow_run.id, *(await asyncio.gather(start_flow(child), start_flow(child)))

    parent_id, *children = asyncio.run(parent())
    assert children_of(parent_id) == set(map(UUID, children))
    assert len(set(children)) == 2


class Island:
    """An island whose `repr` contains nothing but its memory address."""

    def __init__(self, name: str) -> None:
        self.name = name


def parameters() -> list[Any]:
    """Return new parameters, some of which are equal as JSON, by `repr` or by `==`."""
    plain = [1, True, 1.0, "1", (1, 2), [1, 2], {1: "a"}, {"1": "a"}]
    return [*plain, SecretStr("ali"), SecretStr("eve"), Island("Skye"), Island("Mull")]


def said(given: Any) -> str:
    """Return the contents of a parameter as text."""
    return repr(vars(given) if hasattr(given, "__dict__") else given)


def noting(folder: Path, name: str = "child") -> Flow[..., tuple[str, str]]:
    """Return a flow that returns its parameter and its run's id, and notes both in a file."""

    @flow(name=name, validate_parameters=False)
    def child(given: Any) -> tuple[str, str]:
        (folder / str(flow_run.id)).write_text(said(given))
        return said(given), str(flow_run.id)

    return child


def retried(
    child: Flow[..., Any], first: list[Any], second: list[Any], task_runner: Any = None
) -> list[tuple[str, str]]:
    """Return what the second attempt of a flow gets from its subflows.

    Args:
        child: The subflow.
        first: Parameters of the calls of the first attempt, which fails after them.
        second: Parameters of the calls of the second attempt.
        task_runner: The task runner of the flow.

    Returns:
        A result for each call of the second attempt.
    """

    @flow(retries=1, task_runner=task_runner)
    def parent() -> list[tuple[str, str]]:
        calls = first if flow_run.run_count == 1 else second
        started = [submit_flow(child, given=given) for given in calls]
        results = [each.result() for each in started]
        if flow_run.run_count == 1:
            raise ConnectionError
        return results

    return parent()


def notes(folder: Path) -> Counter[str]:
    """Return how many times a noting flow has run with each parameter."""
    return Counter(file.read_text() for file in folder.iterdir())


drawn = st.lists(st.integers(0, len(parameters()) - 1), max_size=4)


@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.guarantee(NAME, "retry-own")
@settings(max_examples=1)
@given(first=drawn, second=drawn)
@example(first=[4, 5, 2, 2], second=[2, 5, 4, 1, 2, 2])
@example(first=[8, 9, 10, 11], second=[9, 8, 11, 10])
def test_a_call_reuses_the_result_of_the_same_parameters(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int]
) -> None:
    """A completed call is not run again; each gets its own parameters' result, in any order."""
    folder = tmp_path_factory.mktemp("notes")
    calls = [[parameters()[each] for each in attempt] for attempt in (first, second)]
    results = retried(noting(folder), *calls)
    assert [given for given, _ in results] == list(map(said, calls[1]))
    assert len(set(results)) == len(second)
    # A call that both attempts made was run once, in the first.
    assert notes(folder) == Counter(map(said, calls[0])) | Counter(map(said, calls[1]))


@pytest.mark.guarantee(NAME, "retry-kept")
def test_a_copy_counts_as_the_original(tmp_path: Path) -> None:
    """A list of a string and its copy counts as the same parameter as that string twice."""
    text = "Skye"
    first, second = [text, text], [text, "".join(text)]
    assert second[0] is not second[1]
    retried(noting(tmp_path), [first], [second])
    assert notes(tmp_path) == {"['Skye', 'Skye']": 1}


@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.guarantee(NAME, "retry-own")
def test_results_are_reused_on_every_runner(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """On every runner a retry gets the results of the same parameters, even in another order."""
    results = retried(noting(tmp_path), [1, 2, 1], [2, 1, 1], task_runner)
    assert [given for given, _ in results] == ["2", "1", "1"]
    assert len(set(results)) == 3
    assert notes(tmp_path) == {"1": 2, "2": 1}


def retried_with_futures(
    child: Flow[..., Any], first: list[Any], second: list[Any], task_runner: Any = None
) -> list[tuple[str, str]]:
    """Return what the second attempt gets from subflows called with futures, and then with 1.

    Args:
        child: The subflow.
        first: The futures' values in the first attempt.
        second: The futures' values in the second attempt.
        task_runner: The task runner of the flow.

    Returns:
        A result for each call.
    """

    @task
    def echo(value: Any) -> Any:
        return value

    @flow(retries=1, task_runner=task_runner)
    def parent() -> list[tuple[str, str]]:
        futures = [echo.submit(value) for value in (first, second)[flow_run.run_count - 1]]
        started = [submit_flow(child, given=each) for each in [*futures, 1]]
        results = [each.result() for each in started]
        if flow_run.run_count == 1:
            raise ConnectionError
        return results

    return parent()


@pytest.mark.guarantee(NAME, "parameters")
@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.runners("threads", "dask-threads")
def test_the_results_of_calls_with_futures_are_reused(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Calls with futures are not run again if they come in the same order as before."""
    results = retried_with_futures(noting(tmp_path), [1, 2], [1, 2], task_runner)
    assert [given for given, _ in results] == ["1", "2", "1"]
    assert len(set(results)) == 3
    assert notes(tmp_path) == {"1": 2, "2": 1}


@pytest.mark.guarantee(NAME, "retry-own")
def test_calls_with_futures_have_their_own_results(tmp_path: Path) -> None:
    """Calls with futures get their own results even in another order."""
    results = retried_with_futures(noting(tmp_path), [(1, 2), [1, 2], 1], [[1, 2], (1, 2), 1])
    assert [given for given, _ in results] == ["[1, 2]", "(1, 2)", "1", "1"]
    assert len(set(results)) == 4


@pytest.mark.guarantee(NAME, "retry-own")
def test_another_run_of_the_flow_makes_its_own_calls(tmp_path: Path) -> None:
    """A new run of a flow does not reuse earlier results, even for the same parameters."""
    child = noting(tmp_path)
    first, second = (retried(child, [1], [1]) for _ in "12")
    assert first != second
    assert notes(tmp_path) == {"1": 2}


@pytest.mark.guarantee(NAME, "retry-own")
def test_flows_do_not_share_their_results(tmp_path: Path) -> None:
    """A call gets a result of the same subflow, not of one with another name or body."""

    @flow(name="inbound")
    def other(given: Any) -> tuple[str, str]:
        return "other", str(flow_run.id)

    inbound, outbound = noting(tmp_path, "inbound"), noting(tmp_path, "outbound")
    seen: list[str] = []

    @flow(retries=1)
    def parent() -> list[str]:
        first = flow_run.run_count == 1
        flows = (inbound, outbound, other)[:: 1 if first else -1]
        runs = [submit_flow(each, given=1).result()[1] for each in flows]
        if first:
            seen.extend(runs)
            raise ConnectionError
        return runs

    assert parent() == seen[::-1]


@pytest.mark.guarantee(NAME, "retry-kept")
@pytest.mark.guarantee(NAME, "retry-own")
def test_async_calls_reuse_the_results_of_the_same_parameters() -> None:
    """Async subflows are not run again; each gets its own result, in any order."""
    runs: list[int] = []

    @flow
    async def child(given: int) -> tuple[int, int]:
        runs.append(given)
        return given, len(runs)

    @flow(retries=1)
    async def parent() -> list[tuple[int, int]]:
        first = flow_run.run_count == 1
        calls = [1, 2, 1] if first else [2, 1, 1, 3]
        results = await asyncio.gather(*(start_flow(child, given=given) for given in calls))
        if first:
            raise ConnectionError
        return list(results)

    results = asyncio.run(parent())
    assert [given for given, _ in results] == [2, 1, 1, 3]
    assert len(set(results)) == 4
    assert sorted(runs) == [1, 1, 2, 3]
