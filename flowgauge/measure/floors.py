# SPDX-License-Identifier: Apache-2.0
"""The plainest code that does what a task runner does, without Prefect: the runner's floor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from flowgauge.runners import StartedRunners

T = TypeVar("T")


@dataclass(frozen=True)
class Floor:
    """A warm pool of the same kind and width as a task runner's.

    Attributes:
        name: What it is, as a report names it.
        map: Calls a function with each item and returns the results in order.
    """

    name: str
    map: Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


@contextlib.contextmanager
def floor(runner: str, started: StartedRunners) -> Iterator[Floor]:
    """Start the floor of a task runner.

    Args:
        runner: The name of the task runner.
        started: The run's task runners; a Dask floor uses the same cluster.

    Yields:
        The floor; its workers are up.
    """
    if runner == "sequential":
        yield Floor("plain function call", lambda fn, items: [fn(item) for item in items])
    elif runner.startswith("dask-"):
        from distributed import Client

        with Client(started.dask_scheduler(runner), set_as_default=False) as client:
            yield Floor("bare Dask", lambda fn, items: _gather(client, fn, items))
    else:
        with _executor(runner, started.workers) as pool:
            list(pool.map(abs, range(started.workers)))
            yield Floor(type(pool).__name__, lambda fn, items: list(pool.map(fn, items)))


def _executor(runner: str, workers: int) -> Executor:
    if runner == "threads":
        return ThreadPoolExecutor(workers)
    from flowgauge.process_pool import preloaded_context

    # There is one fork server in a process: started for this pool, it also serves Prefect's.
    return ProcessPoolExecutor(workers, mp_context=preloaded_context())


def _gather(client: Any, fn: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    # Dask would answer a second call with the same arguments from the first.
    results: list[T] = client.gather(client.map(fn, list(items), pure=False))
    return results
