# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/retries/only_on.py`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.task_runners import TaskRunner

from flowgauge import EffectLedger
from patterns.retries.only_on import (
    log_in,
    log_in_async,
    log_in_twice,
    log_in_twice_async,
    only_on,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "retries/only_on"

ERRORS: list[type[Exception]] = [
    ConnectionError,
    ConnectionResetError,
    OSError,
    PermissionError,
    KeyError,
    LookupError,
    ValueError,
    RuntimeError,
]


def attempts(file: Path) -> int:
    """Return how many attempts a task noted in a file."""
    return len(file.read_text().split())


@pytest.mark.guarantee(NAME, "named")
@settings(max_examples=2)
@given(named=st.sets(st.sampled_from(ERRORS), min_size=1, max_size=3))
@example(named={ERRORS[0], ERRORS[-1]})
def test_named_exceptions_and_no_others_are_retried(
    task_runner: TaskRunner[Any], effect_ledger: EffectLedger, named: set[type[Exception]]
) -> None:
    """For a named exception or a subclass a task is tried `retries + 1` times, for others once."""

    @task(retries=1, retry_condition_fn=only_on(*named))
    def fail(error: int) -> None:
        effect_ledger.record("tried", error=error)
        raise ERRORS[error]

    @flow(task_runner=task_runner)
    def failures() -> None:
        fail.map(range(len(ERRORS))).wait()

    failures()
    for number, error in enumerate(ERRORS):
        expected = 2 if issubclass(error, tuple(named)) else 1
        assert (error, effect_ledger.count(error=number)) == (error, expected)


@pytest.mark.guarantee(NAME, "named")
@pytest.mark.guarantee(NAME, "async")
def test_the_logins_of_the_pattern_are_tried_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the service hangs up every time, both logins are tried four times."""
    tried: list[str] = []

    def hang_up(user: str, password: str) -> str:
        tried.append(user)
        raise ConnectionResetError

    monkeypatch.setattr("patterns.retries.only_on.ask_service", hang_up)
    with pytest.raises(ConnectionResetError):
        flow(lambda: log_in("ali", "open sesame"))()
    assert tried == ["ali"] * 4

    @flow
    async def log_in_eve() -> None:
        await log_in_async("eve", "open sesame")

    with pytest.raises(ConnectionResetError):
        asyncio.run(log_in_eve())
    assert tried == ["ali"] * 4 + ["eve"] * 4


@pytest.mark.guarantee(NAME, "others")
def test_any_other_exception_ends_the_run_at_once(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Any other exception ends the run at its first attempt, and `result()` raises it."""

    @task(retries=5, retry_condition_fn=only_on(ConnectionError))
    def fail() -> None:
        with (tmp_path / "attempts").open("a") as lines:
            lines.write("attempt\n")
        raise PermissionError("wrong password")

    @flow(task_runner=task_runner)
    def failures() -> None:
        fail.submit().result()

    with pytest.raises(PermissionError, match="wrong password"):
        failures()
    assert attempts(tmp_path / "attempts") == 1


@pytest.mark.guarantee(NAME, "others")
def test_the_flow_of_the_pattern_retries_one_login(task_runner: TaskRunner[Any]) -> None:
    """The lost connection is retried; the wrong password that follows it is not."""
    right, wrong = log_in_twice.with_options(task_runner=task_runner)()
    assert right == "ali is in at attempt 2"
    assert isinstance(wrong, PermissionError)
    assert str(wrong) == "wrong password at attempt 2"


@pytest.mark.guarantee(NAME, "async")
def test_async_tasks_are_retried_too(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """An async task is retried on a named exception and on no other."""

    @task(retries=2, retry_condition_fn=only_on(ConnectionError))
    async def fail(error: str) -> None:
        with (tmp_path / error).open("a") as lines:
            lines.write("attempt\n")
        raise ConnectionResetError if error == "connection" else KeyError

    @flow(task_runner=task_runner)
    def failures() -> None:
        fail.map(["connection", "key"]).wait()

    failures()
    assert attempts(tmp_path / "connection") == 3
    assert attempts(tmp_path / "key") == 1


@pytest.mark.guarantee(NAME, "async")
def test_the_async_flow_of_the_pattern_retries_one_login() -> None:
    """The async flow retries the lost connection, but not the wrong password after it."""
    right, wrong = asyncio.run(log_in_twice_async())
    assert right == "ali is in at attempt 2"
    assert isinstance(wrong, PermissionError)
    assert str(wrong) == "wrong password at attempt 2"


@pytest.mark.fact(NAME, "by-result")
def test_asking_the_state_for_its_result_does_not_work_in_async_tasks(tmp_path: Path) -> None:
    """A condition that calls `state.result()` sees no error in an async task (#15266)."""

    def by_result(task: Any, task_run: Any, state: State[Any]) -> bool:
        try:
            outcome: Any = state.result()
        except ConnectionError:
            return True
        if inspect.iscoroutine(outcome):
            outcome.close()
        return False

    @task(retries=2, retry_condition_fn=by_result)
    async def fail() -> None:
        with (tmp_path / "attempts").open("a") as lines:
            lines.write("attempt\n")
        raise ConnectionError

    @flow
    def failures() -> None:
        fail.submit().wait()

    failures()
    assert attempts(tmp_path / "attempts") == 1


@pytest.mark.guarantee(NAME, "returned")
def test_a_returned_failed_state_counts_as_its_exception(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A returned `Failed` state is retried only if it contains a named exception."""

    @task(retries=2, retry_condition_fn=only_on(ConnectionError))
    def fail(data: Exception | None, name: str) -> State[Any]:
        with (tmp_path / name).open("a") as lines:
            lines.write("attempt\n")
        return Failed(data=data, message="the service hung up")

    @flow(task_runner=task_runner)
    def failures() -> None:
        fail.map([ConnectionResetError(), KeyError(), None], ["named", "other", "without"]).wait()

    failures()
    counts = [attempts(tmp_path / name) for name in ("named", "other", "without")]
    assert counts == [3, 1, 1]


@pytest.mark.guarantee(NAME, "returned")
@pytest.mark.parametrize("kept", [False, True])
def test_a_returned_state_of_another_run_counts_as_its_exception(
    task_runner: TaskRunner[Any], tmp_path: Path, kept: bool
) -> None:
    """A task that returns the state of a run which raised a named exception is retried."""
    retrying = task(retries=1, retry_condition_fn=only_on(ConnectionError))

    def note(name: str) -> None:
        with (tmp_path / name).open("a") as lines:
            lines.write("attempt\n")

    def ask() -> None:
        raise ConnectionResetError

    ask_flow = flow(persist_result=kept)(ask)
    ask_task = task(persist_result=kept)(ask)

    @task(persist_result=kept)
    async def ask_async() -> None:
        ask()

    @retrying
    def pass_on(name: str) -> Any:
        note(name)
        return (ask_flow if name == "flow" else ask_task)(return_state=True)

    @retrying
    async def pass_on_async(name: str) -> Any:
        note(name)
        asked: Any = ask_async(return_state=True)
        return await asked

    @flow(task_runner=task_runner)
    def passing() -> None:
        passed = [pass_on.submit("flow"), pass_on.submit("task"), pass_on_async.submit("async")]
        for each in passed:
            each.wait()

    passing()
    assert [attempts(tmp_path / name) for name in ("flow", "task", "async")] == [2, 2, 2]


@pytest.mark.fact(NAME, "kept")
def test_a_persisted_failed_state_is_not_retried() -> None:
    """A task with persisted results that returns a `Failed` state ends Cached, without a retry."""
    tries: list[int] = []

    @task(retries=2, retry_condition_fn=only_on(ConnectionError), persist_result=True)
    def fail() -> State[Any]:
        tries.append(1)
        return Failed(data=ConnectionError("lost"), message="the service hung up")

    @flow
    def failing() -> str | None:
        name: str | None = fail(return_state=True).name
        return name

    assert (failing(), len(tries)) == ("Cached", 1)


@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.parametrize(
    "errors", [(), ("ConnectionError",), (ConnectionError(),), (KeyError, int), (SystemExit,)]
)
def test_anything_but_exception_classes_is_refused(errors: tuple[Any, ...]) -> None:
    """No arguments, a name, an instance, or a class that is not an Exception: all are refused."""
    with pytest.raises(TypeError, match="name exceptions"):
        only_on(*errors)


@pytest.mark.fact(NAME, "asked")
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_condition_is_called_for_each_retry_that_is_left(retries: int) -> None:
    """The condition is called after each failure that has a retry left, but not after the last."""
    asked: list[tuple[int, object]] = []
    condition = only_on(ConnectionError)

    def noted(task: Any, task_run: Any, state: State[Any]) -> bool:
        asked.append((task_run.run_count, state.data))
        return condition(task, task_run, state)

    error = ConnectionError("lost")

    @task(retries=retries, retry_condition_fn=noted)
    def fail() -> None:
        raise error

    flow(lambda: fail(return_state=True))(return_state=True)
    assert asked == [(attempt, error) for attempt in range(1, retries + 1)]


@pytest.mark.fact(NAME, "broken")
def test_an_error_in_the_condition_means_no_retry(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """An error in the condition means no retry, and the task's own error is raised."""

    def broken(task: Any, task_run: Any, state: State[Any]) -> bool:
        raise LookupError("no such setting")

    @task(retries=3, retry_condition_fn=broken)
    def fail() -> None:
        with (tmp_path / "attempts").open("a") as lines:
            lines.write("attempt\n")
        raise ConnectionError("lost")

    @flow(task_runner=task_runner)
    def failures() -> None:
        fail.submit().result()

    with pytest.raises(ConnectionError, match="lost"):
        failures()
    assert attempts(tmp_path / "attempts") == 1


class AlwaysRetry:
    """A condition that always returns True, in three forms that are not plain functions."""

    def __call__(self, task: Any, task_run: Any, state: Any) -> bool:
        """Return True."""
        return True

    def method(self, task: Any, task_run: Any, state: Any) -> bool:
        """Return True."""
        return True


@pytest.mark.fact(NAME, "plain")
@pytest.mark.parametrize(
    "condition",
    [AlwaysRetry(), AlwaysRetry().method, functools.partial(AlwaysRetry.method, AlwaysRetry())],
    ids=["object", "method", "partial"],
)
def test_other_callables_are_accepted_but_never_cause_a_retry(
    condition: Callable[..., bool],
) -> None:
    """A condition that is not a plain function never causes a retry, even if it returns True."""
    attempts: list[int] = []

    @task(retries=3, retry_condition_fn=condition)
    def fail() -> None:
        attempts.append(1)
        raise ConnectionError

    flow(lambda: fail(return_state=True))(return_state=True)
    assert len(attempts) == 1
