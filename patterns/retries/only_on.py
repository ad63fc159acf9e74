# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Retry on named exceptions only; any other exception ends the run at once.

Problem:
    `retries=3` retries a wrong password three times, just like a lost connection. Prefect leaves
    the choice to `retry_condition_fn`, and a condition that looks right may silently prevent every
    retry: see below.

Guarantees:
    named: a task that raises a named exception, or a subclass of one, is tried `retries + 1` times,
        even if the exception is raised in another process.
    others: any other exception ends the run at the attempt that raised it, and is the one that
        `result()` raises.
    async: the same holds for async tasks.
    returned: a `Failed` state that is returned is retried if it contains a named exception, even if
        it is the state of another flow or task.
    checked: arguments that are not exceptions, or no arguments at all, are refused where the task
        is defined.

Prefect:
    plain (3.8): a condition that is a method, a partial or an object is not called: the task is
        not retried at all.
    by-result (3.8, 3.9): in the condition of an async task `state.result()` is a coroutine, which
        raises nothing unless it is awaited.
    broken (3.8, 3.9): an error in the condition means no retry; the task's own error is raised.
    asked (3.8, 3.9): the condition is called after each failure that has a retry left, not after
        the last.
    kept (3.8): if a task with persisted results returns a `Failed` state, it is not tried again:
        the task run ends Cached, which counts as Completed.

Not for:
    Choosing by something that is only known later, such as the answer of another service: the
    condition runs inside the task run, and every retry waits for it. Exceptions that are the cause
    of the raised one, or inside an exception group: name the one that is raised.

Costs:
    Row `retries/only_on` of the report: one retry. The check itself is too quick to be noticeable.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/retries
    - Prefect #14745 and #15266: conditions that called `state.result()`, sync and async
    - Prefect #15826: a returned Failed state
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import get_state_exception
from prefect.tasks import Task

RetryCondition = Callable[[Task[..., Any], TaskRun, State[Any]], bool]


def only_on(*errors: type[Exception]) -> RetryCondition:
    """Return a condition for `@task(retries=..., retry_condition_fn=only_on(...))`.

    Args:
        *errors: The exceptions worth a retry, including their subclasses.

    Returns:
        A function that returns whether a failed task run is to be retried.

    Raises:
        TypeError: If there are no arguments, or not all are exceptions.
    """
    if not errors or not all(isinstance(e, type) and issubclass(e, Exception) for e in errors):
        raise TypeError(f"only_on{errors}: name exceptions, such as only_on(ConnectionError)")

    def is_worth_a_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
        # Not `state.result()`: inside an async task that is a coroutine and raises nothing.
        error = get_state_exception(state, _sync=True)  # type: ignore[call-arg]
        return isinstance(error, errors)

    return is_worth_a_retry


def ask_service(user: str, password: str) -> str:
    """Stand in for a service that answers at the second attempt."""
    if task_run.run_count == 1:
        raise ConnectionResetError("the service hung up")
    if password != "open sesame":
        raise PermissionError(f"wrong password at attempt {task_run.run_count}")
    return f"{user} is in at attempt {task_run.run_count}"


@task(retries=3, retry_condition_fn=only_on(ConnectionError))
def log_in(user: str, password: str) -> str:
    """Log in to a service."""
    return ask_service(user, password)


@flow
def log_in_twice() -> list[object]:
    """Log in with a right and with a wrong password."""
    logins = log_in.map(["ali", "eve"], ["open sesame", "let me in"])
    return [login.result(raise_on_failure=False) for login in logins]


@task(retries=3, retry_condition_fn=only_on(ConnectionError))
async def log_in_async(user: str, password: str) -> str:
    """Log in to a service; the async twin of `log_in`."""
    return ask_service(user, password)


@flow
async def log_in_twice_async() -> list[object]:
    """Log in with a right and with a wrong password, side by side."""
    logins = [log_in_async("ali", "open sesame"), log_in_async("eve", "let me in")]
    return list(await asyncio.gather(*logins, return_exceptions=True))


def main() -> None:
    """Show that a lost connection is retried and a wrong password is not."""
    for outcome in log_in_twice() + asyncio.run(log_in_twice_async()):
        print(outcome)


if __name__ == "__main__":
    main()
