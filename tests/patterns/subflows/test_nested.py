# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/subflows/nested.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client, task
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from patterns.subflows.nested import book, count_seats, plan_trip

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "subflows/nested"


@pytest.mark.guarantee(NAME, "child")
def test_a_subflow_is_recorded_as_a_child() -> None:
    """A subflow's run is recorded as a child of the flow run that called it."""

    @flow
    def child() -> tuple[Any, Any]:
        return flow_run.id, flow_run.parent_flow_run_id

    @flow
    def parent() -> tuple[Any, Any, Any]:
        return flow_run.id, *child()

    parent_id, child_id, parent_of_child = parent()
    assert child_id != parent_id
    assert parent_of_child == parent_id
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(child_id)).parent_task_run_id is not None
        assert client.read_flow_run(UUID(parent_id)).parent_task_run_id is None


@pytest.mark.guarantee(NAME, "value")
def test_a_subflow_returns_its_value() -> None:
    """A subflow returns its value to its caller."""

    @flow
    def parent() -> str:
        return book("42", 20)

    assert parent().startswith("20 seats in bus '42'")


@pytest.mark.guarantee(NAME, "fails")
def test_the_failure_of_a_subflow_fails_its_parent() -> None:
    """What a subflow raises is raised in its parent, and fails it."""

    @flow
    def parent() -> str:
        return book("42", 0)

    with pytest.raises(ValueError, match="no seats"):
        parent()
    state: Any = parent(return_state=True)
    assert state.is_failed()


@pytest.mark.guarantee(NAME, "fails")
def test_the_failure_of_a_subflow_can_be_caught() -> None:
    """A parent that catches what its subflow raises goes on."""

    @flow
    def parent() -> str:
        try:
            return book("42", 0)
        except ValueError:
            return "walk"

    assert parent() == "walk"


@pytest.mark.guarantee(NAME, "state")
def test_the_state_of_a_subflow_can_be_had() -> None:
    """With `return_state=True` the parent gets the state of a failed subflow and goes on."""

    @flow
    def parent() -> str:
        state: Any = book("42", 0, return_state=True)
        return f"the booking is {state.name}"

    assert parent() == "the booking is Failed"


@pytest.mark.guarantee(NAME, "futures")
def test_futures_arrive_as_values(task_runner: TaskRunner[Any]) -> None:
    """Futures given as parameters arrive in the subflow as values, checked like others."""

    @task
    def text_of(seats: int) -> str:
        return str(seats)

    @flow
    def child(seats: int, more: list[int]) -> list[int]:
        return [seats, *more]

    @flow(task_runner=task_runner)
    def parent() -> list[int]:
        seats: Any = text_of.submit(20)
        more: Any = [count_seats.submit("42"), 3]
        return child(seats, more)

    assert parent() == [20, 20, 3]


@pytest.mark.guarantee(NAME, "own-runner")
def test_a_subflow_has_a_task_runner_of_its_own(task_runner: TaskRunner[Any]) -> None:
    """A subflow runs its tasks on its own task runner, and on threads if it names none."""

    def runner_of_this_flow() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        return context.task_runner

    @flow
    def names_none() -> str:
        count_seats.submit("42").result()
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


def runs_of_a_subflow(folder: Path, persist_result: bool) -> list[str]:
    """Return the flow run ids under which a subflow runs whose parent fails once after it."""

    @flow(persist_result=persist_result)
    def child() -> str:
        with (folder / "runs").open("a") as lines:
            lines.write(f"{flow_run.id}\n")
        return "booked"

    @flow(retries=1)
    def parent() -> str:
        booking = child()
        if flow_run.run_count == 1:
            raise ConnectionError
        return booking

    assert parent() == "booked"
    return (folder / "runs").read_text().split()


@pytest.mark.guarantee(NAME, "retry-kept")
def test_a_persisted_subflow_is_not_run_again(tmp_path: Path) -> None:
    """When the parent is retried, a subflow that had completed is kept if it is persisted."""
    assert book.persist_result is True
    assert len(runs_of_a_subflow(tmp_path, book.persist_result)) == 1


@pytest.mark.guarantee(NAME, "retry-kept")
def test_the_flow_keeps_its_booking(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow gets through its failure with one booking."""
    booking = plan_trip.with_options(task_runner=task_runner)("42")
    assert booking.startswith("20 seats in bus '42'")


@pytest.mark.guarantee(NAME, "retry-again")
def test_a_subflow_that_is_not_persisted_is_run_again(tmp_path: Path) -> None:
    """Without a persisted result it is run again, as a new flow run."""
    first, second = runs_of_a_subflow(tmp_path, persist_result=False)
    assert first != second
