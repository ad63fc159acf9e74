# SPDX-License-Identifier: Apache-2.0
"""Baselines: the simplest code that does what a task runner does, without Prefect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from flowgauge.measure.graph_flow import run_on_dask, run_on_pool, run_on_ray
from flowgauge.runners.parent_process import end_with_parent
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import RUNNERS, BaselineKind
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import TaskResult
from flowgauge.workflows.workflow import Workflow

T = TypeVar("T")


@dataclass(frozen=True)
class Baseline:
    """A warm pool of the same kind, and with as many workers, as a task runner's.

    Attributes:
        name: Its name in the report.
        map: Calls a function with each item and returns the results in order.
        run: Runs a workflow; the second argument is the iterations of each kernel in a second.
    """

    name: str
    map: Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]
    run: Callable[[Workflow, Speeds], Mapping[str, TaskResult]]


@contextlib.contextmanager
def baseline(runner: str, started: StartedRunners) -> Iterator[Baseline]:
    """Start the baseline of a task runner.

    Args:
        runner: The name of the task runner.
        started: The task runners of this pytest run; Dask and Ray baselines use the same cluster.

    Yields:
        The baseline; its workers are up.
    """
    kind = RUNNERS[runner].baseline
    match kind:
        case BaselineKind.CALL:
            yield Baseline(
                kind,
                lambda fn, items: [fn(item) for item in items],
                lambda workflow, speeds: run_on_pool(workflow, _InlineExecutor(), speeds),
            )
        case BaselineKind.DASK:
            from distributed import Client

            with Client(started.dask_scheduler(runner), set_as_default=False) as client:
                yield Baseline(
                    kind,
                    lambda fn, items: _gather(client, fn, items),
                    lambda workflow, speeds: run_on_dask(workflow, client, speeds),
                )
        case BaselineKind.RAY:
            import ray

            started.ray_address(runner)
            yield Baseline(
                kind,
                lambda fn, items: _remotely(ray, fn, items),
                lambda workflow, speeds: run_on_ray(workflow, ray, speeds),
            )
        case BaselineKind.THREADS | BaselineKind.PROCESSES:
            with pool(kind, started.workers) as executor:
                yield Baseline(
                    kind,
                    lambda fn, items: list(executor.map(fn, items)),
                    lambda workflow, speeds: run_on_pool(workflow, executor, speeds),
                )


@contextlib.contextmanager
def pool(kind: BaselineKind, workers: int) -> Iterator[Executor]:
    """Start a bare pool.

    Args:
        kind: Threads or processes.
        workers: The number of workers.

    Yields:
        The pool; its workers are up.
    """
    with _executor(kind, workers) as executor:
        list(executor.map(abs, range(workers)))
        yield executor


class _InlineExecutor(Executor):
    """Runs what is submitted immediately, in the calling thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _executor(kind: BaselineKind, workers: int) -> Executor:
    if kind is BaselineKind.THREADS:
        return ThreadPoolExecutor(workers)
    from flowgauge.runners.process_pool import preloaded_context

    # A process has only one fork server: started for this pool, it also serves Prefect's pools.
    context = preloaded_context()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)


def _remotely(ray: Any, fn: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    # Ray sends this function once, and refuses callables that are not written in Python.
    remote = ray.remote(lambda item: fn(item))
    results: list[T] = ray.get([remote.remote(item) for item in items])
    return results


def _gather(client: Any, fn: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    # Without pure=False Dask would reuse the result of an earlier call with the same arguments.
    results: list[T] = client.gather(client.map(fn, list(items), pure=False))
    return results
