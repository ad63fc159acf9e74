# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/basics.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import ObjectNotFound, UnfinishedRun, UpstreamTaskError
from prefect.futures import wait
from prefect.runtime import flow_run, task_run
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience, wait_until
from patterns.tasks.basics import post, post_async, price, result_of, weigh, weigh_what_can_be

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "tasks/basics"

shapes = st.recursive(
    st.integers(0, 99),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)


def recorded(task_run_id: Any) -> TaskRun:
    """Return a task run once the server has it in a final state; it learns of this by an event."""
    with get_client(sync_client=True) as client:

        def final() -> TaskRun | None:
            try:
                run = client.read_task_run(task_run_id)
            except ObjectNotFound:
                return None
            return run if run.state and run.state.is_final() else None

        return wait_until(final, f"the record of task run {task_run_id}")


@pytest.mark.fact(NAME, "call")
def test_a_called_task_behaves_like_its_function() -> None:
    """A called task returns and raises what its function does, inside and outside a flow."""

    @flow
    def weigh_in_a_flow(parcel: str) -> int:
        return weigh(parcel)

    for called in (weigh, weigh_in_a_flow):
        assert called("book") == 4
        with pytest.raises(ValueError, match="there is no parcel"):
            called("")


@pytest.mark.fact(NAME, "plain")
def test_fn_runs_without_prefect() -> None:
    """`.fn` is the plain function; it runs without Prefect, so no task run is recorded."""

    @task
    def run_id() -> object:
        return task_run.id

    @flow
    def run_ids() -> tuple[object, object]:
        return run_id.fn(), run_id()

    without, within = run_ids()
    assert without is None
    assert within is not None
    assert weigh.fn("book") == 4


@pytest.mark.guarantee(NAME, "record")
def test_a_task_run_is_recorded(task_runner: TaskRunner[Any]) -> None:
    """A task run is recorded under its templated name, with its tags, final state and flow run."""

    @flow(task_runner=task_runner)
    def weighs() -> tuple[Any, Any]:
        future = weigh.submit("book")
        future.wait()
        return flow_run.id, future.task_run_id

    flow_run_id, task_run_id = weighs()
    run = recorded(task_run_id)
    assert run.name == "weigh book"
    assert run.tags == ["post"]
    assert run.state is not None
    assert run.state.is_completed()
    assert str(run.flow_run_id) == str(flow_run_id)


@pytest.mark.fact(NAME, "inputs")
@settings(max_examples=2)
@given(cases=st.lists(shapes, min_size=3, max_size=3))
@example(cases=[7, [1, {"a": [2, 3]}, []], {"a": 4, "b": {"ab": [5, [6]]}}])
def test_futures_arrive_as_values(task_runner: TaskRunner[Any], cases: list[Any]) -> None:
    """Futures among the arguments, even inside lists and dicts, arrive as their values."""

    @task
    def echo(value: Any) -> Any:
        return value

    @flow(task_runner=task_runner)
    def sends() -> list[Any]:
        number = echo.submit(7)

        def with_future(case: Any) -> Any:
            if isinstance(case, list):
                return [number, *(with_future(inner) for inner in case)]
            if isinstance(case, dict):
                return {key: with_future(inner) for key, inner in case.items()}
            return case if case % 2 else number

        return [echo.submit(with_future(case)).result() for case in cases]

    def with_value(case: Any) -> Any:
        if isinstance(case, list):
            return [7, *(with_value(inner) for inner in case)]
        if isinstance(case, dict):
            return {key: with_value(inner) for key, inner in case.items()}
        return case if case % 2 else 7

    assert sends() == [with_value(case) for case in cases]


@pytest.mark.guarantee(NAME, "postage")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_returns_the_total_postage(task_runner: TaskRunner[Any]) -> None:
    """`post` returns the total postage of all parcels."""
    assert post.with_options(task_runner=task_runner)(["book", "lamp", "piano"]) == 26


@pytest.mark.guarantee(NAME, "postage")
@pytest.mark.runners("sequential", "threads", "processes")
def test_the_flow_raises_why_a_parcel_cannot_be_weighed(task_runner: TaskRunner[Any]) -> None:
    """`post` raises the error that says why a parcel could not be weighed."""
    with pytest.raises(ValueError, match="there is no parcel"):
        post.with_options(task_runner=task_runner)(["book", ""])


@pytest.mark.fact(NAME, "upstream")
def test_a_task_after_a_failed_one_never_runs(task_runner: TaskRunner[Any]) -> None:
    """A task that receives the future of a failed one never runs; its error does not say why."""

    @flow(task_runner=task_runner)
    def prices() -> str:
        with pytest.raises((UnfinishedRun, UpstreamTaskError)) as raised:
            price.submit([weigh.submit("")]).result()  # type: ignore[list-item]
        return str(raised.value)

    assert "no parcel" not in prices()


@pytest.mark.fact(NAME, "hints")
def test_type_hints_of_a_task_are_not_checked() -> None:
    """A task receives its arguments as they are, whereas a flow converts them."""

    def same(number: int) -> list[object]:
        return [number]

    number: Any = "3"
    assert task(same)(number) == ["3"]
    assert flow(same)(number) == [3]


@pytest.mark.fact(NAME, "surface")
def test_a_failure_is_raised_by_result(task_runner: TaskRunner[Any]) -> None:
    """`submit` does not raise what the task raises; `.result()` does."""
    got_past_submit = []

    @flow(task_runner=task_runner)
    def weighs() -> int:
        future = weigh.submit("")
        got_past_submit.append(True)
        return future.result()

    with pytest.raises(ValueError, match="there is no parcel"):
        weighs()
    assert got_past_submit


@pytest.mark.fact(NAME, "inspect")
def test_a_failure_can_be_inspected(task_runner: TaskRunner[Any]) -> None:
    """The error or the state of a failed task is returned on request, and nothing is raised."""

    @flow(task_runner=task_runner)
    def weighs() -> str:
        error: Any = weigh.submit("").result(raise_on_failure=False)
        submitted: Any = weigh.submit("", return_state=True)
        called: Any = weigh("", return_state=True)
        return f"{type(error).__name__} {submitted.type.value} {called.type.value}"

    assert weighs() == "ValueError FAILED FAILED"


@pytest.mark.guarantee(NAME, "kept")
def test_the_flow_returns_each_weight_or_error(task_runner: TaskRunner[Any]) -> None:
    """`weigh_what_can_be` returns each parcel's weight, or the error that says why it has none."""
    weights = weigh_what_can_be.with_options(task_runner=task_runner)(["book", "", "piano"])
    book, nothing, piano = weights
    assert (book, piano) == (4, 5)
    assert isinstance(nothing, ValueError)
    assert "there is no parcel" in str(nothing)


async def opened(task_runner: TaskRunner[Any], door: Path, wait: Callable[[Any], Any]) -> bool:
    """Return whether an event loop opens a door while its flow waits for a task.

    Args:
        task_runner: Runs the task, which ends once the door is open or after a while.
        door: The file that the event loop creates.
        wait: Waits for the future of the task.
    """
    seconds = 0.2 if wait is blocking_result else patience() / 10

    @task
    def wait_at_the_door() -> bool:
        deadline = time.monotonic() + seconds
        while not door.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return door.exists()

    async def open_the_door() -> None:
        door.touch()

    @flow(task_runner=task_runner)
    async def opens() -> bool:
        future = wait_at_the_door.submit()
        answer, _ = await asyncio.gather(wait(future), open_the_door())
        return bool(answer)

    return await opens()


async def blocking_result(future: Any) -> Any:
    """Return the result of a future as a sync flow would get it."""
    return future.result()


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads", "processes", "dask-threads")
def test_the_event_loop_keeps_running(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The event loop keeps running while `result_of` waits."""
    assert asyncio.run(opened(task_runner, tmp_path / "door", result_of))


@pytest.mark.fact(NAME, "blocking")
@pytest.mark.runners("threads")
def test_result_blocks_the_event_loop(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """`.result()` in an async flow blocks the event loop until the task ends."""
    assert not asyncio.run(opened(task_runner, tmp_path / "door", blocking_result))


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("sequential", "threads")
def test_the_async_flow_returns_the_total_postage(task_runner: TaskRunner[Any]) -> None:
    """`post_async` returns the total postage of all parcels, and fails like `post`."""
    flow_of_runner = post_async.with_options(task_runner=task_runner)
    assert asyncio.run(flow_of_runner(["book", "lamp", "piano"])) == 26
    with pytest.raises(ValueError, match="there is no parcel"):
        asyncio.run(flow_of_runner(["book", ""]))


def ran(
    task_runner: TaskRunner[Any],
    folder: Path,
    wait_for: Callable[[Any], object],
    seconds: float = 0.15,
) -> int:
    """Return how many of 12 tasks, each `seconds` long, have run when their flow is Completed."""

    @task
    def drop_off(number: int) -> None:
        time.sleep(seconds)
        (folder / str(number)).touch()

    @flow(task_runner=task_runner)
    def drops_off() -> None:
        wait_for([drop_off.submit(number) for number in range(12)])

    state: Any = drops_off(return_state=True)
    assert state.is_completed()
    return len(list(folder.iterdir()))


@pytest.mark.fact(NAME, "waited")
def test_tasks_that_are_waited_for_have_run(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """`wait` returns only when all twelve tasks passed to it have run."""
    assert ran(task_runner, tmp_path, wait) == 12


@pytest.mark.fact(
    NAME,
    "dropped",
    runners=("threads", "processes", "dask-threads", "dask-processes", "ray"),
    reason="nothing is queued: each task has run when `submit` returns",
)
def test_tasks_that_are_not_waited_for_are_dropped(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path
) -> None:
    """A flow that does not wait ends Completed although some of its tasks never ran."""

    def all_ran(seconds: float) -> bool:
        folder = tmp_path / str(seconds)
        folder.mkdir()
        return ran(task_runner, folder, lambda futures: None, seconds) == 12

    # How long a flow takes to end depends on the machine; tasks that take longer are dropped.
    lengths = (0.01,) if runner_name == "sequential" else (0.3, 3, 30)
    assert not all(map(all_ran, lengths))
