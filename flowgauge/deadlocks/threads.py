# SPDX-License-Identifier: Apache-2.0
"""What the task runs in this process's thread pools wait for.

The time limit of a task does not end its wait: Prefect can't interrupt a thread that waits.
Nothing is noted while tests run: all is read from the threads when it is asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flowgauge.deadlocks.waiting import Awaited, Pool, Waiting
from flowgauge.deadlocks.waits import Wait, wait_in
from flowgauge.frames import frames_by_thread


class Threads:
    """The thread pools of this process, as they are at one moment."""

    def __init__(self) -> None:
        """Look at all threads."""
        waits = {t: wait for t, f in frames_by_thread().items() if (wait := wait_in(f))}
        self._names = {wait.task_run_id: wait.task.name for wait in waits.values()}
        futures = {str(f.task_run_id): _wrapped(f) for w in waits.values() for f in w.futures}
        self._pending = {
            key: f for key, f in futures.items() if f and not (f.running() or f.done())
        }
        self._waits = waits

    def pools(self) -> list[Pool]:
        """Return the pools of task runners in which task runs wait for a place."""
        submitted: dict[int, list[str]] = {}
        runners: dict[int, Any] = {}
        for key, future in self._pending.items():
            if isinstance(
                getattr(runner := _runner_of(future), "_executor", None), ThreadPoolExecutor
            ):
                runners[id(runner)] = runner
                submitted.setdefault(id(runner), []).append(key)
        pools = []
        for number, runner in runners.items():
            executor = runner._executor
            threads = {thread.ident for thread in tuple(executor._threads)}
            own = [wait for thread, wait in self._waits.items() if thread in threads]
            waiting = {wait.task_run_id: self._waiting(wait) for wait in own}
            keys = frozenset(submitted[number])
            pools.append(Pool(type(runner).__name__, executor._max_workers, waiting, keys))
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


def _wrapped(future: object) -> Future[Any] | None:
    wrapped = getattr(future, "wrapped_future", None)
    # Not a subclass: that of a process pool has no state of its own, and holds no place here.
    return wrapped if type(wrapped) is Future else None


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
