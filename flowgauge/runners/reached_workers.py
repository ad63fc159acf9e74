# SPDX-License-Identifier: Apache-2.0
"""Makes the workers of task runners that a project creates itself part of a pytest run."""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from flowgauge.compat.features import usable
from flowgauge.compat.names import DASK_WORKERS, POOL_WORKERS
from flowgauge.runners.dask_cluster import prepare_workers
from flowgauge.runners.worker_setup import prepare_worker

_DASK = "prefect_dask.task_runners"


@contextlib.contextmanager
def reached_workers(home: Path, *, as_shipped: bool) -> Iterator[None]:
    """Prepare workers of process pools and local Dask clusters that flows in this process start.

    Args:
        home: The folder of the pytest run.
        as_shipped: Whether they do all the work that stock Prefect does, for benchmarks.

    Yields:
        Nothing.
    """
    from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

    prepare = functools.partial(prepare_worker, str(home), as_shipped)
    stock_enter = TaskRunner.__enter__
    hooked: list[ModuleType] = []
    with contextlib.ExitStack() as stack:

        @functools.wraps(stock_enter)
        def enter(self: Any) -> Any:
            is_pool = isinstance(self, ProcessPoolTaskRunner)
            # Not again for a task runner that is used again.
            if is_pool and usable(POOL_WORKERS, home) and self._initializer is not _initialize:
                self._initargs = (prepare, self._initializer, self._initargs)
                self._initializer = _initialize
            # Imported only by flows that use it, because that takes seconds.
            module = sys.modules.get(_DASK)
            if module and module not in hooked and usable(DASK_WORKERS, home):
                hooked.append(module)
                client = _reaching(module.PrefectDaskClient, home, as_shipped=as_shipped)
                stack.enter_context(patch.object(module, "PrefectDaskClient", client))
            return stock_enter(self)

        stack.enter_context(patch.object(TaskRunner, "__enter__", enter))
        yield


def _initialize(
    prepare: Callable[[], None], initializer: Callable[..., None] | None, initargs: tuple[Any, ...]
) -> None:
    """Make the worker that executes this part of the pytest run; its own initializer comes last."""
    prepare()
    if initializer is not None:
        initializer(*initargs)


def _reaching(stock: Callable[..., Any], home: Path, *, as_shipped: bool) -> Callable[..., Any]:
    """Return what creates a Dask client, and prepares the workers of a cluster of this process."""
    seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def create(*args: Any, **options: Any) -> Any:
        from distributed import LocalCluster, SpecCluster

        client = stock(*args, **options)
        address = client.scheduler.address
        for cluster in set(SpecCluster._instances) - set(seen):
            if isinstance(cluster, LocalCluster) and cluster.scheduler_address == address:
                seen.add(cluster)
                prepare_workers(address, home, as_shipped)
        return client

    return create
