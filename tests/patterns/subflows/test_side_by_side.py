# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/subflows/side_by_side.py`."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience, wait_until
from patterns.subflows.side_by_side import submit_flow, survey_all, survey_all_by_radio

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "subflows/side_by_side"
TOGETHER = ("threads", "processes", "dask-threads", "dask-processes")


def meeting(folder: Path, seconds: float) -> Flow[..., tuple[str, bool]]:
    """Return a flow that two must run at the same time.

    Each marks that it has begun and waits for the mark of the other, so the one that begins
    first gets past only if the other begins before it ends.
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
    meet = meeting(tmp_path, 0.2 if runner_name == "sequential" else patience())

    @flow(task_runner=task_runner)
    def parent() -> list[tuple[str, bool]]:
        a = submit_flow(meet, name="a", other="b")
        b = submit_flow(meet, name="b", other="a")
        return [a.result(), b.result()]

    assert parent() == [("a", True), ("b", True)]


@pytest.mark.guarantee(NAME, "in-turn")
def test_called_subflows_do_not_overlap(tmp_path: Path) -> None:
    """Sync subflows that are called one after the other never overlap (#15415)."""
    meet = meeting(tmp_path, seconds=0.2)

    @flow
    def parent() -> list[tuple[str, bool]]:
        return [meet("a", "b"), meet("b", "a")]

    assert parent() == [("a", False), ("b", True)]


@pytest.mark.guarantee(NAME, "gathered")
def test_async_subflows_overlap() -> None:
    """Async subflows in `asyncio.gather` run at the same time, as long as they await."""

    @flow
    async def meet(mine: asyncio.Event, other: asyncio.Event) -> bool:
        mine.set()
        return await asyncio.wait_for(other.wait(), timeout=patience())

    # Parameters are copied when they are checked, and these must be shared.
    meet = meet.with_options(validate_parameters=False)

    @flow
    async def parent() -> list[bool]:
        a, b = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(meet(a, b), meet(b, a)))

    assert asyncio.run(parent()) == [True, True]


@pytest.mark.guarantee(NAME, "blocking")
def test_blocking_async_subflows_do_not_overlap() -> None:
    """An async subflow that blocks, with `.result()` too, lets no other one run meanwhile."""
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


@pytest.mark.guarantee(NAME, "failures")
def test_one_failure_does_not_lose_the_others(task_runner: TaskRunner[Any]) -> None:
    """When one subflow fails, the others run to their end and their results are kept."""
    maps = survey_all.with_options(task_runner=task_runner)(["Skye", "", "Mull"])
    assert maps == ["map of Skye", None, "map of Mull"]


@pytest.mark.guarantee(NAME, "failures")
def test_one_failure_does_not_lose_the_gathered_others() -> None:
    """When one gathered subflow fails, the others run to their end."""
    wrong: Any = None

    @flow
    async def parent() -> list[str | None]:
        return await survey_all_by_radio.fn(["Skye", wrong, "Mull"])

    assert asyncio.run(parent()) == ["map of Skye", None, "map of Mull"]


@pytest.mark.guarantee(NAME, "failures")
@pytest.mark.runners("sequential", "threads")
def test_the_error_of_a_subflow_is_its_own(task_runner: TaskRunner[Any]) -> None:
    """The future of a failed subflow raises what the subflow raised."""

    @flow
    def sink(island: str) -> None:
        raise LookupError(f"{island} is not there")

    @flow(task_runner=task_runner)
    def parent() -> None:
        submit_flow(sink, island="Thule").result()

    state: Any = parent(return_state=True)
    assert isinstance(state, State)
    with pytest.raises(LookupError, match="Thule is not there"):
        state.result()


@pytest.mark.guarantee(NAME, "family")
def test_subflows_are_children_of_the_flow(task_runner: TaskRunner[Any]) -> None:
    """Each subflow's run is recorded as a child of the flow run that started it."""

    @flow
    def child() -> tuple[Any, Any]:
        return flow_run.id, flow_run.parent_flow_run_id

    @flow(task_runner=task_runner)
    def parent() -> tuple[Any, list[tuple[Any, Any]]]:
        started = [submit_flow(child), submit_flow(child)]
        return flow_run.id, [each.result() for each in started]

    parent_id, children = parent()
    assert [of for _, of in children] == [parent_id, parent_id]
    assert len({run_id for run_id, _ in children}) == 2
