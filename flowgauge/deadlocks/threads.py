# SPDX-License-Identifier: Apache-2.0
"""What the task runs in this process's thread pools wait for.

The time limit of a task does not end its wait: Prefect can't interrupt a thread that waits.
Nothing is noted while tests run: all is read from the threads when it is asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

from flowgauge.deadlocks.waiting import Awaited, Pool, Waiting
from flowgauge.deadlocks.waits import Wait, wait_in
from flowgauge.frames import frames_by_thread, outwards


class Threads:
    """The thread pools of this process, as they are at one moment."""

    def __init__(self) -> None:
        """Look at all threads."""
        self._waits = [
            (executor, wait)
            for frame in frames_by_thread().values()
            if (wait := wait_in(frame)) and (executor := _executor_of(frame)) is not None
        ]
        self._names = {wait.task_run_id: wait.task.name for _, wait in self._waits}
        futures = {str(f.task_run_id): _wrapped(f) for _, wait in self._waits for f in wait.futures}
        self._pending = {
            key: f for key, f in futures.items() if f and not (f.running() or f.done())
        }

    def pools(self) -> list[Pool]:
        """Return the pools in which task runs wait for others."""
        runners = {key: _runner_of(future) for key, future in self._pending.items()}
        pools = []
        for executor in {id(executor): executor for executor, _ in self._waits}.values():
            own = {k: r for k, r in runners.items() if getattr(r, "_executor", None) is executor}
            waiting = {
                wait.task_run_id: self._waiting(wait) for e, wait in self._waits if e is executor
            }
            name = type(next(iter(own.values()))).__name__ if own else "a thread pool"
            pools.append(Pool(name, executor._max_workers, waiting, frozenset(own)))
        return pools

    def _waiting(self, wait: Wait) -> Waiting:
        awaited = [
            Awaited(key, self._names.get(key) or _name_of(self._pending.get(key)))
            for key in (str(future.task_run_id) for future in wait.futures)
        ]
        return Waiting(wait.task.name, tuple(awaited), wait.where)

    def cancel(self, keys: Iterable[str]) -> None:
        """Cancel submitted task runs, so that who waits for them gets an error.

        Args:
            keys: The keys of the task runs.
        """
        for key in keys:
            future = self._pending.get(key)
            if future and future.cancel() and (coroutine := _called(future).get("coroutine")):
                coroutine.close()  # Nobody will await it.


def _executor_of(frame: FrameType) -> ThreadPoolExecutor | None:
    """Return the thread pool that a thread belongs to."""
    for outer in outwards(frame):
        if outer.f_code.co_name == "_worker" and "executor_reference" in outer.f_locals:
            executor = outer.f_locals["executor_reference"]()
            return executor if isinstance(executor, ThreadPoolExecutor) else None
    return None


def _wrapped(future: object) -> Future[Any] | None:
    wrapped = getattr(future, "wrapped_future", None)
    return wrapped if isinstance(wrapped, Future) else None


def _runner_of(future: Any) -> object:
    """Return the task runner that a future was submitted to; it is told when the future is done."""
    return next((getattr(call, "__self__", None) for call in future._done_callbacks), None)


def _called(future: Future[Any] | None) -> dict[str, Any]:
    """Return the arguments with which a task will be run; `coroutine` is that of an async one."""
    for item in gc.get_referrers(future) if future else ():
        if type(item).__name__ == "_WorkItem":
            coroutine = next((each for each in item.args if hasattr(each, "cr_frame")), None)
            arguments = item.kwargs if coroutine is None else coroutine.cr_frame.f_locals
            return {"coroutine": coroutine, **arguments}
    return {}


def _name_of(future: Future[Any] | None) -> str:
    return str(getattr(_called(future).get("task"), "name", "another task"))
