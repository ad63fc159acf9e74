# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Retry on named exceptions only; every other one ends the run at once.

Problem:
    `retries=3` repeats a wrong password three times as gladly as a lost connection. Prefect
    leaves the choice to `retry_condition_fn`, which it calls only if it is a plain function:
    with a method, a `functools.partial` or an object with `__call__` the task is never retried
    at all, and no warning is given.

Guarantees:
    named: a task that raises a named exception, or a subclass of one, is tried `retries + 1`
        times, also where the exception is raised in another process.
    others: any other exception ends the run after one attempt, and is the one that is raised.
    async: it is the same for async tasks, where `state.result()` must be awaited.
    returned: a `Failed` state that is returned with a named exception in it is retried too.
    asked: the condition is called after each failure that has a retry left, not after the last.
    broken: an error in the condition itself means no retry, and the task's own error is raised.
    plain: the condition is a plain function (Prefect never retries with any other callable).

Not for:
    Choosing by something that is only known later, such as the answer of another service: the
    condition runs inside the task run, and every retry waits for it.

Costs:
    Row `retries/only_on` of the report: one retry. The check itself is too short to be seen.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/retries
    - Prefect #14745 and #15266: conditions that called `state.result()`, sync and async
    - Prefect #15826: a returned Failed state
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import Task

RetryCondition = Callable[[Task[..., Any], TaskRun, State[Any]], bool]


def only_on(*errors: type[Exception]) -> RetryCondition:
    """Return a condition for `@task(retries=..., retry_condition_fn=only_on(...))`.

    Args:
        errors: The exceptions worth a retry; their subclasses are too.

    Returns:
        A function that says whether a failed task run is to be retried.
    """

    def is_worth_a_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
        # Not `state.result()`: inside an async task that is a coroutine and raises nothing.
        return isinstance(state.data, errors)

    return is_worth_a_retry


@task(retries=3, retry_condition_fn=only_on(ConnectionError))
def log_in(user: str, password: str) -> str:
    """Log in to a service that answers at the second attempt."""
    if task_run.run_count == 1:
        raise ConnectionResetError("the service hung up")
    if password != "open sesame":
        raise PermissionError(f"wrong password at attempt {task_run.run_count}")
    return f"{user} is in at attempt {task_run.run_count}"


@flow
def log_in_twice() -> list[object]:
    """Log in with a right and with a wrong password."""
    logins = log_in.map(["ali", "eve"], ["open sesame", "let me in"])
    return [login.result(raise_on_failure=False) for login in logins]


def main() -> None:
    """Show that a lost connection is retried and a wrong password is not."""
    for outcome in log_in_twice():
        print(outcome)


if __name__ == "__main__":
    main()
