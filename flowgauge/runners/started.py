# SPDX-License-Identifier: Apache-2.0
"""What the task runners of one test run share, started once."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgauge.runners.dask_cluster import borrowed_workers, check_workers, local_cluster
from flowgauge.runners.table import RUNNERS

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


@dataclass
class StartedRunners:
    """The task runners of one test run; what is slow to start is started once, when needed.

    Attributes:
        workers: How many tasks may run side by side.
        home: The folder of the run; worker processes write there.
        as_shipped: Whether worker processes do all that Prefect does, to be measured.
        dask_address: A Dask scheduler to use instead of a local cluster of processes.
        seconds_to_start: What starting each shared cluster took, by the name of its runner.
    """

    workers: int
    home: Path
    as_shipped: bool
    dask_address: str | None = None
    seconds_to_start: dict[str, float] = field(default_factory=dict)
    _out_of_reach: dict[str, str] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _addresses: dict[str, str] = field(default_factory=dict)

    @property
    def prepare_worker(self) -> Callable[[], None]:
        """What a worker process calls when it begins; it can be sent there."""
        from flowgauge.runners.worker_setup import prepare_worker

        return functools.partial(prepare_worker, str(self.home), self.as_shipped)

    def task_runner(self, name: str) -> TaskRunner[Any]:
        """Return a new task runner for a flow.

        Args:
            name: One of the names in the table.

        Returns:
            A task runner that is not started; the flow starts and stops it.

        Raises:
            RunnerError: If this Prefect is too old for it.
        """
        runner = RUNNERS[name]
        return runner.start(runner, self)

    def dask_scheduler(self, name: str) -> str:
        """Return the address of the Dask scheduler behind a runner, starting it if needed."""
        from flowgauge.leftovers.watch import adopted

        cluster = RUNNERS[RUNNERS[name].cluster]
        if cluster.name not in self._addresses:
            start = time.perf_counter()
            if self.borrows(name) and self.dask_address:
                check_workers(self.dask_address)
                self._addresses[cluster.name] = self.dask_address
                borrowed = borrowed_workers(self.dask_address, self.home)
                self._out_of_reach[cluster.name] = self._stack.enter_context(borrowed)
            else:
                started = local_cluster(
                    self.workers,
                    self.home,
                    in_process=cluster.in_process,
                    as_shipped=self.as_shipped,
                )
                # It may be a test that asks for it first; it is the run's all the same.
                with adopted():
                    self._addresses[cluster.name] = self._stack.enter_context(started)
            self.seconds_to_start[cluster.name] = time.perf_counter() - start
        return self._addresses[cluster.name]

    def borrows(self, name: str) -> bool:
        """Return whether a runner's workers are those of a cluster that was there before."""
        runner = RUNNERS[name]
        return bool(self.dask_address and runner.cluster) and not runner.in_process

    def out_of_reach_of(self, name: str) -> str:
        """Return why the clock and faults do not reach a runner's workers; empty if they do."""
        return self._out_of_reach.get(RUNNERS[name].cluster, "")

    def close(self) -> None:
        """Stop what was started."""
        self._addresses.clear()
        self._stack.close()
