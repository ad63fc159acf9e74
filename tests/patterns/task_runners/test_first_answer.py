# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/first_answer.py`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.futures import as_completed
from prefect.runtime import flow_run
from prefect.states import Cancelled
from prefect.task_runners import TaskRunner

from flowgauge import History
from flowgauge.waiting import wait_until
from patterns.task_runners.first_answer import (
    Lost,
    Race,
    contestant,
    download_from_the_fastest,
    first_answer,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/first_answer"


def go_on_until_lost(race: Race) -> None:
    """Work until the race is decided."""
    wait_until(lambda: race.go_on() or False, "the end of the race")  # type: ignore[func-returns-value]


@task
@contestant
def ask(kind: str, race: Race, folder: str) -> str:
    """Answer, fail, work until another one has an answer, or be late."""
    place = Path(folder)
    (place / f"{kind} asked").touch()
    if kind == "fails":
        raise ConnectionError("down")
    if kind == "slow":
        go_on_until_lost(race)
    if kind == "late":
        wait_until(race.decided.exists)
        time.sleep(0.3)  # longer than it takes to return without waiting
        (place / "late answered").touch()
    if kind == "fast":
        # All that start at once have started.
        wait_until(
            lambda: not (place / "wait for slow").exists() or (place / "slow asked").exists()
        )
        wait_until(
            lambda: not (place / "wait for late").exists() or (place / "late asked").exists()
        )
    return f"answer of {kind}"


def raced(
    task_runner: TaskRunner[Any], kinds: list[str], folder: Path
) -> tuple[Any, UUID, list[str]]:
    """Return the outcome of a race, the id of its flow run, and what had been done by its end."""

    @flow(task_runner=task_runner)
    def race() -> tuple[Any, str, list[str]]:
        outcome: Any
        try:
            outcome = first_answer(ask, kinds, folder=str(folder))
        except Exception as error:
            outcome = error
        return outcome, flow_run.id, sorted(path.name for path in folder.glob("* *ed"))

    outcome, run_id, done = race()
    return outcome, UUID(run_id), done


def ends(run_id: UUID, count: int) -> list[str]:
    """Return the final states of the task runs of a flow run, once there are at least so many.

    The server gets the states of task runs as events.
    """
    own = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    with get_client(sync_client=True) as client:

        def final() -> list[str]:
            states = [run.state for run in client.read_task_runs(flow_run_filter=own)]
            names = [f"{s.name} {s.type.value}" for s in states if s and s.is_final()]
            return names if len(names) >= count else []

        return sorted(wait_until(final, f"{count} final states"))


@pytest.mark.guarantee(NAME, "first")
@pytest.mark.guarantee(NAME, "lost")
@pytest.mark.guarantee(NAME, "none-left")
@pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")
def test_the_first_answer_ends_the_others(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The first answer is returned at once, and a task that is still at work ends as `Lost`."""
    (tmp_path / "wait for slow").touch()
    outcome, run_id, _ = raced(task_runner, ["fast", "slow"], tmp_path)
    assert outcome == ("fast", "answer of fast")
    assert ends(run_id, 2) == ["Completed COMPLETED", "Lost CANCELLED"]


@pytest.mark.guarantee(NAME, "first")
@pytest.mark.runners("sequential")
def test_where_one_task_runs_at_a_time_nobody_else_is_asked(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """If an answer is there before all items have been asked, the others are not."""
    outcome, run_id, done = raced(task_runner, ["fails", "fast", "slow"], tmp_path)
    assert outcome == ("fast", "answer of fast")
    assert done == ["fails asked", "fast asked"]
    assert ends(run_id, 2) == ["Completed COMPLETED", "Failed FAILED"]


@pytest.mark.guarantee(NAME, "failed")
def test_a_failure_does_not_decide_the_race(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """A failed task is passed over; if all fail, each error is in one group."""
    outcome, *_ = raced(task_runner, ["fails", "fast"], tmp_path)
    assert outcome == ("fast", "answer of fast")
    outcome, *_ = raced(task_runner, ["fails", "fails"], tmp_path)
    assert isinstance(outcome, ExceptionGroup)
    assert [(type(each), str(each)) for each in outcome.exceptions] == [
        (ConnectionError, "down")
    ] * 2


@pytest.mark.guarantee(NAME, "late")
@pytest.mark.guarantee(NAME, "none-left")
@pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")
def test_a_task_that_does_not_ask_is_waited_for(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task that does not ask whether it lost ends Completed before the race returns."""
    (tmp_path / "wait for late").touch()
    outcome, run_id, done = raced(task_runner, ["late", "fast"], tmp_path)
    assert outcome == ("fast", "answer of fast")
    assert "late answered" in done
    assert ends(run_id, 2) == ["Completed COMPLETED"] * 2


@pytest.mark.guarantee(NAME, "none-left")
def test_ctrl_c_ends_all(prefect_server: str, tmp_path: Path) -> None:
    """If the flow is interrupted while it waits for answers, its tasks end as `Lost`."""
    ids: list[str] = []
    main = threading.get_ident()

    @task
    @contestant
    def interrupt(number: int, race: Race) -> None:
        ids.append(flow_run.id)
        wait_until(lambda: len(ids) == 2)
        if number == 0:
            signal.pthread_kill(main, signal.SIGINT)  # wakes it, too
        go_on_until_lost(race)

    @flow
    def asks() -> None:
        first_answer(interrupt, range(2))

    with pytest.raises(KeyboardInterrupt):
        asks()
    assert ends(UUID(ids[0]), 2) == ["Lost CANCELLED"] * 2


@pytest.mark.guarantee(NAME, "lost")
def test_a_task_that_starts_after_the_answer_does_not_run(tmp_path: Path) -> None:
    """The body of a task that starts when the race is decided is not run."""
    race = Race(tmp_path / "decided")
    race.go_on()
    race.decided.touch()
    with pytest.raises(Lost):
        race.go_on()
    state: Any = ask.fn("fast", race, str(tmp_path))
    assert (state.name, state.is_cancelled()) == ("Lost", True)
    assert not (tmp_path / "fast asked").exists()


@pytest.mark.guarantee(NAME, "checked")
def test_mistakes_are_told_at_once() -> None:
    """A task that can't lose, and a race of nobody, are refused in one line."""

    @task
    def plain(item: int, race: Race) -> None:
        raise AssertionError("it must not run")

    @flow
    def asks(task: Any, items: list[int]) -> None:
        first_answer(task, items)

    with pytest.raises(TypeError, match="plain can't be told that it lost: put @contestant"):
        asks(plain, [1])
    with pytest.raises(ValueError, match="at least one item"):
        asks(ask, [])


@pytest.mark.guarantee(NAME, "first")
@pytest.mark.runners("threads")
def test_the_flow_takes_the_fastest_mirror(
    task_runner: TaskRunner[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The pattern's flow returns the file of the mirror that needs no time."""
    download = download_from_the_fastest.with_options(task_runner=task_runner)
    assert download("emma.txt", {"Rome": 0, "Oslo": 3600}) == "emma.txt from Rome"
    assert capsys.readouterr().out == "Rome was first\n"


@pytest.mark.fact(NAME, "waited")
@pytest.mark.runners("threads", "processes")
def test_a_flow_that_has_its_answer_waits_for_the_losers(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """The flow ends when its slow task has, though it returned before that."""
    returned, ended = tmp_path / "returned", tmp_path / "ended"

    @task
    def answer(slow: bool) -> str:
        if slow:
            wait_until(returned.exists)
            time.sleep(0.5)
            ended.touch()
        return "slow" if slow else "fast"

    @flow(task_runner=task_runner)
    def fastest() -> str:
        first = next(as_completed([answer.submit(True), answer.submit(False)]))
        returned.touch()
        return str(first.result())

    assert fastest() == "fast"
    assert ended.exists()


@pytest.mark.fact(NAME, "queued")
@pytest.mark.fact(NAME, "crashed")
@pytest.mark.runners("threads")
def test_what_a_flow_leaves_in_its_pool(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """A task that waits for another one ends Crashed; of one in the queue there is no record."""
    ids: list[UUID] = []

    @task
    def hold(started: Path, seconds: float) -> None:
        started.touch()
        time.sleep(seconds)

    @task
    def follow() -> None:
        """Run, if the flow is not over."""

    @flow(task_runner=task_runner)
    def leaves(seconds: float) -> str:
        started = tmp_path / f"{seconds} started"
        held = hold.submit(started, seconds)
        wait_until(started.exists)
        follows: Any = follow
        ids.extend(follows.submit(wait_for=[held]).task_run_id for _ in range(2))
        return str(flow_run.id)

    # How long a flow takes to end depends on the machine.
    lengths = (0.5, 5, 50)
    assert any(
        ends(UUID(leaves(seconds)), 2) == ["Completed COMPLETED", "Crashed CRASHED"]
        for seconds in lengths
    )
    with get_client(sync_client=True) as client, pytest.raises(ObjectNotFound):
        client.read_task_run(ids[-1])


@pytest.mark.fact(NAME, "returned")
def test_a_cancelled_state_that_is_returned_is_final(
    task_runner: TaskRunner[Any], run_history: Callable[..., History]
) -> None:
    """A task that returns a Cancelled state with a name ends in that state."""

    @task
    def gives_up() -> State[Any]:
        return Cancelled(name="Lost")

    @flow(task_runner=task_runner)
    def asks() -> tuple[str, UUID]:
        future = gives_up.submit()
        future.wait()
        return str(future.state.name), future.task_run_id

    name, run_id = asks()
    assert name == "Lost"
    assert run_history(run_id).matches("Pending Running Lost")
