# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Run submitted tasks one after the other, in the thread that submits them.

Problem:
    Prefect 2 had a SequentialTaskRunner, Prefect 3 has none. A thread pool of one worker is no
    replacement: it deadlocks as soon as a submitted task submits another one and waits for it, a
    debugger stops in the wrong thread, and timeouts can't interrupt a task. The task runner here is
    for debugging and for tests. For everything else, use Prefect's default, which is a pool of
    threads.

Guarantees:
    inline: a sync task runs in the submitting thread, and `submit` returns when it is finished,
        so that tasks run in the order in which they were submitted.
    futures: the future has the same value, state and error as on a thread pool, if the flow is sync
        and the task returns or raises an `Exception`. Context variables that a task sets are not
        seen outside it.
    wait-for: a task whose `wait_for` failed does not run and ends NotReady.
    retries: a submitted task is retried as often as a called one.
    timeouts: `timeout_seconds` interrupts a submitted task, if the flow runs in the main thread.
    async: async tasks can be submitted from sync and from async flows, and know their flow run.
    nested: a task may submit tasks and wait for them, 50 deep, without deadlock. Somewhere beyond
        that is Python's recursion limit.
    debugger: `breakpoint()` in a task stops in the flow's own thread, with the flow below it.
    portable: the runner survives pickling, and a copy runs the same flow.
    started: a runner that was not started refuses tasks.

Prefect:
    map (3.8, 3.9): every task runner has a `map` that is built on its `submit`: it keeps order,
        pairs its iterables and repeats `unmapped` values.

Not for:
    Work that should overlap: waiting on I/O is not overlapped either. Sync tasks in an async flow
    whose event loop has other things to do, because they block it, or that call `asyncio.run`,
    which fails inside a loop. Tasks that call `sys.exit`: `submit` raises it. The engine that is
    called here, `prefect.task_engine`, is not a public interface: check this file first after an
    upgrade.

Costs:
    Rows `submit` and `map` of the report, runner `sequential`: the engine's own cost and
    nothing else, a baseline for what other runners add.

Sources:
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #17060 and #14143: nested submits deadlock a bounded thread pool
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from prefect import flow, task
from prefect.client.schemas.objects import RunInput, State
from prefect.futures import PrefectFuture, PrefectTaskRunFuture
from prefect.task_engine import run_task_async, run_task_sync
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

R = TypeVar("R")


class FinishedFuture(PrefectTaskRunFuture[R]):
    """A future of a task run that has already finished."""

    def __init__(self, task_run_id: uuid.UUID, state: State[R]) -> None:
        super().__init__(task_run_id)
        self._final_state: State[R] = state

    def wait(self, timeout: float | None = None) -> None:
        """Return at once: the task run has finished."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """Return what the task returned, or raise what it raised."""
        state: Any = self._final_state
        result: R = state.result(raise_on_failure=raise_on_failure, _sync=True)
        return result

    def add_done_callback(self, fn: Callable[[PrefectFuture[R]], None]) -> None:
        """Call `fn` at once: the task run has finished."""
        fn(self)


class SequentialTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """A task runner that runs each submitted task inline and returns a finished future."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def duplicate(self) -> SequentialTaskRunner:
        """Return a runner that works like this one; there is nothing to configure."""
        return type(self)()

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> FinishedFuture[Any]:
        """Run a task to its end.

        Args:
            task: The task to run.
            parameters: Its arguments by name; futures among them are resolved.
            wait_for: Futures that must have completed for the task to run.
            dependencies: The task runs that the arguments came from.

        Returns:
            A finished future, even if the task failed.

        Raises:
            RuntimeError: If the runner is used outside its `with` block.
        """
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        task_run_id = uuid.uuid4()
        state: Any
        call: dict[str, Any] = {
            "task": task,
            "task_run_id": task_run_id,
            "parameters": parameters,
            "wait_for": wait_for,
            "return_type": "state",
            "dependencies": dependencies,
        }
        if task.isasync:
            state = _run_to_end(lambda: asyncio.run(run_task_async(**call)))
        else:
            # Context variables that it sets, such as that of `decimal`, don't reach later tasks.
            state = copy_context().run(lambda: run_task_sync(**call))
        return FinishedFuture(task_run_id, state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SequentialTaskRunner)

    __hash__ = TaskRunner.__hash__


def _run_to_end(run: Callable[[], R]) -> R:
    """Call a function where no event loop runs: in this thread, or else in a new one.

    A loop can't be entered twice, so inside an async flow an async task gets a separate thread for
    as long as it runs; the flow waits for it all the same.

    Args:
        run: The function, which starts an event loop.

    Returns:
        What the function returns.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, run).result()


@task
def weigh(parcel: str) -> int:
    """Return the weight of a parcel."""
    return len(parcel)


@flow(task_runner=SequentialTaskRunner())
def load_van(parcels: list[str]) -> int:
    """Weigh parcels one after the other and return their total weight."""
    return sum(weigh.map(parcels).result())


def main() -> None:
    """Show that the tasks ran in order."""
    print(f"the van carries {load_van(['book', 'lamp', 'piano'])}")


if __name__ == "__main__":
    main()
