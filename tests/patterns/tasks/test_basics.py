# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/basics.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.futures import wait
from prefect.runtime import flow_run, task_run
from prefect.task_runners import TaskRunner

from flowgauge.waiting import wait_until
from patterns.tasks.basics import post, weigh, weigh_what_can_be

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "tasks/basics"

shapes = st.recursive(
    st.integers(0, 99),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)


def recorded(task_run_id: Any) -> TaskRun:
    """Return a task run when the server has it in a final state; it hears of it as an event."""
    with get_client(sync_client=True) as client:

        def final() -> TaskRun | None:
            try:
                run = client.read_task_run(task_run_id)
            except ObjectNotFound:
                return None
            return run if run.state and run.state.is_final() else None

        return wait_until(final, f"the record of task run {task_run_id}")


@pytest.mark.guarantee(NAME, "call")
def test_a_called_task_is_a_function() -> None:
    """A called task returns what its function returns and raises what it raises, anywhere."""

    @flow
    def weigh_in_a_flow(parcel: str) -> int:
        return weigh(parcel)

    for called in (weigh, weigh_in_a_flow):
        assert called("book") == 4
        with pytest.raises(ValueError, match="there is no parcel"):
            called("")


@pytest.mark.guarantee(NAME, "plain")
def test_fn_runs_without_prefect() -> None:
    """`.fn` is the function alone; it runs without Prefect, so no task run is recorded."""

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
    """A task run is recorded under its templated name, with tags, final state and flow run."""

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


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=2)
@given(cases=st.lists(shapes, min_size=3, max_size=3))
@example(cases=[7, [1, {"a": [2, 3]}, []], {"a": 4, "b": {"ab": [5, [6]]}}])
def test_futures_arrive_as_values(task_runner: TaskRunner[Any], cases: list[Any]) -> None:
    """Futures among the arguments, also inside lists and dicts, arrive as their values."""

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


@pytest.mark.guarantee(NAME, "inputs")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_adds_up_futures(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow passes a list of futures on and gets the price of their values."""
    assert post.with_options(task_runner=task_runner)(["book", "lamp", "piano"]) == 26


@pytest.mark.guarantee(NAME, "hints")
def test_hints_of_a_task_are_not_checked() -> None:
    """Arguments of a task are passed as they are, where a flow converts them."""

    def same(number: int) -> list[object]:
        return [number]

    number: Any = "3"
    assert task(same)(number) == ["3"]
    assert flow(same)(number) == [3]


@pytest.mark.guarantee(NAME, "surface")
def test_a_failure_surfaces_when_asked_for(task_runner: TaskRunner[Any]) -> None:
    """`submit` raises nothing; `.result()` raises the error that the task raised."""
    got_past_submit = []

    @flow(task_runner=task_runner)
    def weighs() -> int:
        future = weigh.submit("")
        got_past_submit.append(True)
        return future.result()

    with pytest.raises(ValueError, match="there is no parcel"):
        weighs()
    assert got_past_submit


@pytest.mark.guarantee(NAME, "inspect")
def test_a_failure_can_be_looked_at(task_runner: TaskRunner[Any]) -> None:
    """A failed task gives its error or its state on request, and nothing is raised."""

    @flow(task_runner=task_runner)
    def weighs() -> str:
        error: Any = weigh.submit("").result(raise_on_failure=False)
        submitted: Any = weigh.submit("", return_state=True)
        called: Any = weigh("", return_state=True)
        return f"{type(error).__name__} {submitted.type.value} {called.type.value}"

    assert weighs() == "ValueError FAILED FAILED"


@pytest.mark.guarantee(NAME, "inspect")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_keeps_what_worked(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow has a weight for each parcel, None where there was none."""
    weights = weigh_what_can_be.with_options(task_runner=task_runner)(["book", "", "piano"])
    assert weights == [4, None, 5]


def ran(
    task_runner: TaskRunner[Any],
    folder: Path,
    wait_for: Callable[[Any], object],
    seconds: float = 0.15,
) -> int:
    """Return how many of 12 tasks, of so many seconds, have run when their flow is Completed."""

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


@pytest.mark.guarantee(NAME, "waited")
def test_what_is_waited_for_has_run(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """All that was submitted has run when `wait` returns, however little runs at a time."""
    assert ran(task_runner, tmp_path, wait) == 12


@pytest.mark.guarantee(
    NAME,
    "dropped",
    runners=("threads", "processes", "dask-threads", "dask-processes"),
    reason="nothing is queued: each task has run when `submit` returns",
)
def test_what_is_not_waited_for_is_dropped(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path
) -> None:
    """A flow that does not wait ends Completed though some of its tasks never ran."""

    def all_ran(seconds: float) -> bool:
        folder = tmp_path / str(seconds)
        folder.mkdir()
        return ran(task_runner, folder, lambda futures: None, seconds) == 12

    # A flow takes time to end, how long is the machine's; tasks that take longer are dropped.
    lengths = (0.01,) if runner_name == "sequential" else (0.3, 3, 30)
    assert not all(map(all_ran, lengths))
