# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Ask several at once, take the first answer, and let the others end as `Lost`.

Problem:
    Three mirrors have the same file, and the fastest one is enough. A flow that takes the first
    answer and returns leaves the others behind: a pool of threads or processes waits until they are
    done, and a Dask cluster that ends with the flow leaves them Running for ever. What was still in
    the queue has no record at all. Prefect can cancel a flow run, but none of its tasks.

Guarantees:
    first: `first_answer` returns the item whose task was the first to complete, and its result.
        Items after it are not asked if the answer is there before their turn.
    failed: a task that fails does not decide the race; if all of them fail, `first_answer` raises
        one ExceptionGroup with their errors.
    lost: once there is an answer, a task that calls `race.go_on()` ends there, Cancelled under the
        name "Lost", on every task runner; so does one that starts later, without running its body.
    late: a task that does not ask ends by itself, and keeps the state that it ends in.
    none-left: when `first_answer` returns or raises, all its tasks have ended, also if the flow is
        interrupted by Ctrl-C.
    checked: a task whose function is not decorated with `@contestant` is a TypeError, and no items
        are a ValueError.

Prefect:
    waited (3.8, 3.9): a flow that returns the first answer of `as_completed` ends on threads and
        processes only when each task that is running has ended by itself.
    queued (3.8, 3.9): a task that is still in the queue of threads when the flow returns never
        runs, and the server has no record of it.
    crashed (3.8, 3.9): one that has a thread, but waits for another task, ends Crashed.
    returned (3.8, 3.9): a Cancelled state that a task returns is its final state, name included.

Not for:
    Tasks that block in one long call: they are waited for until it returns. Give the call a time
    limit and repeat it, or run it in a process that can be killed, as `tasks/timeout` does. Effects
    that a loser must not have: it may be anywhere in its work when the race is decided. More items
    than workers: those in the queue are asked when another one has ended. A Dask cluster on several
    machines without a shared folder: name one with `race_folder`. Losers that wait for a retry:
    they are waited for. Async tasks, and async flows: the wait blocks their event loop.

Costs:
    Row `submit` of the report for each item. `go_on` asks the file system whether a file exists.

Sources:
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #15716 and #14018: futures that nobody waits for
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Cancelled
from prefect.tasks import Task

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class Lost(Exception):
    """Another task of the race had an answer first."""


@dataclass(frozen=True)
class Race:
    """A race; it is decided when its file exists, which every process can see."""

    decided: Path

    def go_on(self) -> None:
        """Do nothing while nobody has an answer; then raise `Lost`."""
        if self.decided.exists():
            raise Lost


def contestant(
    body: Callable[Concatenate[T, Race, P], R],
) -> Callable[Concatenate[T, Race, P], R | State[Any]]:
    """Let a function end as `Lost` once another one has an answer; to be placed below `@task`.

    Args:
        body: Takes an item and the race, and calls `race.go_on()` often.

    Returns:
        The function for `@task`.
    """

    @functools.wraps(body)
    def run(item: T, race: Race, *args: P.args, **kwargs: P.kwargs) -> R | State[Any]:
        try:
            race.go_on()
            return body(item, race, *args, **kwargs)
        except Lost:
            return Cancelled(name="Lost", message="another task had an answer first")

    run.races = True  # type: ignore[attr-defined]
    return cast(Callable[Concatenate[T, Race, P], R | State[Any]], run)


def first_answer(
    task: Task[..., Any],
    items: Iterable[T],
    /,
    *,
    race_folder: Path | None = None,
    **arguments: Any,
) -> tuple[T, Any]:
    """Submit a task for each item, return the first answer, and end the others.

    Args:
        task: The task, of a function decorated with `@contestant`.
        items: The first argument of each task; the second one is the race.
        race_folder: A folder that all workers share; by default the machine's temporary one.
        **arguments: Other arguments of the task, the same for each item.

    Returns:
        The item of the first task that completed, and its result.

    Raises:
        ExceptionGroup: If all tasks failed; it holds their errors.
        TypeError: If the task's function is not decorated with `@contestant`.
        ValueError: If there are no items.
    """
    if not hasattr(task.fn, "races"):
        raise TypeError(f"{task.name} can't be told that it lost: put @contestant below its @task")
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    running: dict[PrefectFuture[Any], T] = {}
    errors: list[Exception] = []
    unasked = iter(items)
    # The folder outlives the tasks.
    with tempfile.TemporaryDirectory(dir=race_folder) as shared:
        race = Race(Path(shared, "decided"))
        try:
            while True:
                # Where one task runs at a time, the answer may be there before all are asked.
                for item in unasked:
                    run = task.submit(item, race, **arguments)
                    running[run] = item
                    run.add_done_callback(ended.put)
                    if not ended.empty():
                        break
                if not running:
                    break
                run = ended.get()
                item = running.pop(run)
                try:
                    return item, run.result()
                except Exception as error:
                    errors.append(error)
        finally:
            race.decided.touch()
            while running:
                running.pop(ended.get())
    if not errors:
        raise ValueError("a race needs at least one item")
    raise ExceptionGroup("nobody has an answer", errors)


@task
@contestant
def download(mirror: str, race: Race, file: str, seconds: dict[str, float]) -> str:
    """Stand in for a download in chunks, which takes some seconds."""
    for _ in range(int(seconds[mirror] * 10)):
        race.go_on()
        time.sleep(0.1)
    return f"{file} from {mirror}"


@flow
def download_from_the_fastest(file: str, seconds: dict[str, float]) -> str:
    """Return a file from the mirror that is the first to have sent it."""
    mirror, content = first_answer(download, seconds, file=file, seconds=seconds)
    print(f"{mirror} was first")
    return str(content)


def main() -> None:
    """Download from three mirrors, one of which takes a minute, without waiting for it."""
    print(download_from_the_fastest("emma.txt", {"Oslo": 60, "Rome": 0.5, "Lima": 9}))


if __name__ == "__main__":  # a process pool imports this file again in every worker
    main()
