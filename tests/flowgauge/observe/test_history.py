# SPDX-License-Identifier: Apache-2.0
"""The states that runs go through, with flows on every task runner."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import task_run
from prefect.states import Scheduled
from prefect.task_runners import TaskRunner

from flowgauge.observe.history import History, HistoryError, Step, run_history

START = datetime(2026, 1, 1, tzinfo=UTC)
FAILED = History(
    "task run 1",
    (
        Step("Pending", "PENDING", START),
        Step("Running", "RUNNING", START + timedelta(seconds=1)),
        Step("AwaitingRetry", "SCHEDULED", START + timedelta(seconds=3), "no answer"),
        Step("Retrying", "RUNNING", START + timedelta(seconds=63)),
        Step("Failed", "FAILED", START + timedelta(seconds=67), "no answer"),
    ),
)


@task(retries=2, retry_delay_seconds=0.1)
def fetch(answers_at: int) -> int:
    """Fail until the given attempt, and return its number."""
    attempt: int = task_run.run_count
    if attempt < answers_at:
        raise ConnectionError("no answer")
    return attempt


@task(persist_result=True, cache_key_fn=lambda context, parameters: f"once-{parameters['key']}")
def once(key: str) -> str:
    """Return the key; the second time from the cache."""
    return key


@flow
def many_tasks(key: str) -> list[Any]:
    """Submit `fetch` to succeed at once, after two retries, and never; submit `once` twice."""
    futures: list[Any] = [fetch.submit(answers_at) for answers_at in (1, 3, 9)]
    for _ in range(2):
        futures.append(once.submit(key))
        futures[-1].wait()
    for future in futures:
        future.wait()
    return futures


@pytest.fixture(scope="module")
def histories(task_runner: TaskRunner[Any], runner_name: str) -> dict[str, History]:
    """Return the histories of the tasks of `many_tasks`, on each task runner in turn."""
    run: Any = many_tasks.with_options(task_runner=task_runner)
    states = run(runner_name, return_state=True).result(raise_on_failure=False)
    names = ("success", "retries", "failure", "computed", "cached")
    return {name: run_history(state) for name, state in zip(names, states, strict=True)}


def test_a_success(histories: dict[str, History]) -> None:
    """A task that succeeds at its first attempt is Pending, Running and Completed."""
    history = histories["success"]
    assert history.matches("Pending Running Completed")
    assert history.attempts == 1


def test_retries(histories: dict[str, History]) -> None:
    """A task that succeeds at its third attempt awaits two retries; the history says how long."""
    history = histories["retries"]
    assert history.matches("Scheduled? Pending Running (AwaitingRetry Retrying){2} Completed")
    assert history.attempts == 3
    assert list(history.times) == sorted(history.times)
    waited = [
        after - before
        for step, before, after in zip(
            history.steps, history.times, history.times[1:], strict=False
        )
        if step.name == "AwaitingRetry"
    ]
    # A delay begins before its state; how much shorter the state is depends on the machine.
    assert history.duration("AwaitingRetry") == pytest.approx(sum(waited))
    assert min(waited) > 0


def test_a_failure(histories: dict[str, History]) -> None:
    """A task that never succeeds fails after its retries."""
    history = histories["failure"]
    assert history.matches("Pending Running (AwaitingRetry Retrying)+ Failed")
    assert "no answer" in history.steps[-1].message
    assert not history.matches("Pending Running (AwaitingRetry Retrying)* Completed")


def test_a_cached_result(histories: dict[str, History]) -> None:
    """A task whose result is in the cache ends Cached."""
    assert histories["computed"].matches("Pending Running Completed")
    assert histories["cached"].matches("Pending Running? Cached")


def test_a_crash_of_a_subflow(task_runner: TaskRunner[Any]) -> None:
    """A subflow that crashes also crashes its parent flow; both histories end in Crashed."""
    from prefect.context import FlowRunContext

    ids: list[uuid.UUID] = []

    def note_run() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ids.append(context.flow_run.id)

    @flow(task_runner=task_runner)
    def inner() -> None:
        note_run()
        fetch.submit(1).wait()
        raise SystemExit(3)

    @flow(task_runner=task_runner)
    def outer() -> None:
        note_run()
        inner()

    with pytest.raises(SystemExit):
        outer()
    assert len(ids) == 2
    for run_id in ids:
        assert run_history(run_id).matches("Pending Running Crashed")


def test_a_flow_retry(task_runner: TaskRunner[Any]) -> None:
    """A flow that is retried goes from AwaitingRetry to Running again."""
    attempts: list[int] = []

    @flow(task_runner=task_runner, retries=1)
    def restless() -> str:
        attempts.append(fetch.submit(1).result())
        if len(attempts) == 1:
            raise ConnectionError("no answer")
        return "done"

    history = run_history(restless(return_state=True))
    assert history.matches("Pending Running AwaitingRetry Running Completed")
    assert history.attempts == len(attempts) == 2


def test_a_run_may_be_given_in_many_ways(prefect_server: str) -> None:
    """A state, a future, an id, an id as text, and the run itself give the same history."""
    futures: list[Any] = []

    @flow
    def one_task() -> None:
        futures.append(fetch.submit(1))
        futures[0].wait()

    state = one_task(return_state=True)
    of_flow, of_task = run_history(state), run_history(futures[0])
    assert of_flow.run == f"flow run {state.state_details.flow_run_id}"
    assert of_task.run == f"task run {futures[0].task_run_id}"
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(uuid.UUID(of_flow.run.split()[-1]))
        its_task_run = client.read_task_run(futures[0].task_run_id)
    assert {run_history(flow_run.id), run_history(str(flow_run.id)), run_history(flow_run)} == {
        of_flow
    }
    assert {run_history(its_task_run.id), run_history(its_task_run)} == {of_task}
    assert run_history(futures[0].state) == of_task


def test_a_run_that_has_not_ended(prefect_server: str) -> None:
    """A run that has not ended has a history with `final=False`; otherwise the wait times out."""
    with get_client(sync_client=True) as client:
        later: State[None] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        waiting = client.create_flow_run(many_tasks, state=later)
    assert run_history(waiting, final=False).matches("Scheduled")
    with pytest.raises(HistoryError, match=r"did not end within 0 s \(Scheduled\); wait longer"):
        run_history(waiting, timeout=0)
    with pytest.raises(HistoryError, match=r"^run_history: flow run .* did not end within 0 s"):
        run_history(waiting.id, timeout=0)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (uuid.UUID(int=1), "the server had no states for a flow or task run 00000000-"),
        ("one", "'one' is not the id of a run"),
        (42, "42 is not a run; give a flow run, a task run, an id, a future, or the state"),
        (Scheduled(), "is not a run; give"),
    ],
)
def test_what_is_not_a_run_is_one_line(prefect_server: str, run: object, says: str) -> None:
    """Something that has no history is reported in one line that says why."""
    with pytest.raises(HistoryError) as caught:
        run_history(run, timeout=0)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_fixture_returns_the_function(request: pytest.FixtureRequest) -> None:
    """The fixture `run_history` returns the function that can be imported."""
    assert request.getfixturevalue("run_history") is run_history
    assert request.getfixturevalue("prefect_server")


def test_times_and_durations() -> None:
    """Times count from the first state; a state lasts until the next, and the last lasts 0 s.

    An attempt is a state of type RUNNING.
    """
    assert FAILED.times == (0, 1, 3, 63, 67)
    assert FAILED.duration("Running") == 2
    assert FAILED.duration("AwaitingRetry") == 60
    assert FAILED.duration("Failed") == 0
    again = History("flow run 1", (*FAILED.steps, *FAILED.steps[1:2]))
    assert again.duration("Failed") == -66
    assert FAILED.attempts == 2


def test_a_mismatch_is_shown_in_its_place() -> None:
    """A mismatch shows the whole history, with the position and the states expected there."""
    match = FAILED.matches("Pending Running (AwaitingRetry Retrying)* Completed")
    assert not match
    assert str(match).splitlines() == [
        "task run 1 does not match Pending Running (AwaitingRetry Retrying)* Completed",
        "     0.000 s  Pending",
        "     1.000 s  Running",
        "     3.000 s  AwaitingRetry  no answer",
        "    63.000 s  Retrying",
        ">   67.000 s  Failed         no answer",
        "              ^ state 5 is Failed, where AwaitingRetry or Completed was expected",
    ]
    assert repr(match).endswith(
        "Retrying Failed: state 5 is Failed, where AwaitingRetry or Completed was expected"
    )


def test_a_history_that_ends_too_early_or_late() -> None:
    """A mismatch at the end says which state is missing, or that the end was expected."""
    early = FAILED.matches("Pending Running AwaitingRetry Retrying Failed Paused+ Crashed")
    assert str(early).splitlines()[-1] == ">             the end, where Paused was expected"
    late = FAILED.matches("Pending Running AwaitingRetry Retrying")
    assert "state 5 is Failed, where the end was expected" in repr(late)
    nothing = History("task run 2", ()).matches("Pending")
    assert repr(nothing) == "no match: no states: the end, where Pending was expected"


def test_a_failed_assertion_shows_the_history(pytester: pytest.Pytester) -> None:
    """A failed `assert history.matches(...)` shows the history, line by line."""
    pytester.makepyfile(
        """
        from datetime import datetime, timedelta
        from flowgauge.observe.history import History, Step

        def test_it():
            start = datetime(2026, 1, 1)
            names = ["Pending", "Running"] + ["AwaitingRetry", "Retrying"] * 20 + ["Failed"]
            times = [start + timedelta(seconds=place) for place in range(len(names))]
            history = History("task run 1", tuple(map(Step, names, names, times)))
            assert history.matches("Pending Running (AwaitingRetry | Retrying)* Failed")
            assert history.matches("Pending Running (AwaitingRetry Retrying)* Completed")
        """
    )
    result = pytester.runpytest_subprocess("-p", "flowgauge.plugin.observe_fixtures")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *assert no match: Pending Running AwaitingRetry *",
            "*- run history -*",
            "task run 1 does not match Pending Running (AwaitingRetry Retrying)[*] Completed",
            "    41.000 s  Retrying",
            ">   42.000 s  Failed",
            "*^ state 43 is Failed, where AwaitingRetry or Completed was expected",
        ]
    )
