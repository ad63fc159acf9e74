# SPDX-License-Identifier: Apache-2.0
"""What the task runners of one pytest run share, started once."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgauge.runners import ray_cluster
from flowgauge.runners.dask_cluster import finish_sending, local_cluster
from flowgauge.runners.existing_cluster import borrowed_workers, check_workers, out_of_reach
from flowgauge.runners.table import RUNNERS, BaselineKind

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


@dataclass
class StartedRunners:
    """The task runners of one pytest run; what is slow to start is started once, when needed.

    Attributes:
        workers: How many tasks may run at once.
        home: The folder of the pytest run; worker processes write there.
        as_shipped: Whether workers do all the work that stock Prefect does, for benchmarks.
        dask_address: A Dask scheduler to use instead of a local cluster of processes.
        prefect_api: The API of the server that is used instead of one of the pytest run.
        seconds_to_start: Seconds that each shared cluster took to start, by its task runner.
    """

    workers: int
    home: Path
    as_shipped: bool
    dask_address: str | None = None
    prefect_api: str | None = None
    seconds_to_start: dict[str, float] = field(default_factory=dict)
    _out_of_reach: dict[str, str] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _addresses: dict[str, str] = field(default_factory=dict)

    @property
    def prepare_worker(self) -> Callable[[], None]:
        """The function that a worker process calls when it starts; it can be pickled."""
        from flowgauge.runners.worker_setup import prepare_worker

        return functools.partial(prepare_worker, str(self.home), self.as_shipped)

    def task_runner(self, name: str) -> TaskRunner[Any]:
        """Return a new task runner for a flow.

        Args:
            name: One of the names in the table.

        Returns:
            A task runner that is not started yet; the flow starts and stops it.

        Raises:
            RunnerError: If this Prefect is too old for it, or its pattern can't be imported.
        """
        runner = RUNNERS[name]
        return runner.start(runner, self)

    def dask_scheduler(self, name: str) -> str:
        """Return the address of the Dask scheduler behind a task runner, starting it if needed.

        Args:
            name: The task runner.

        Returns:
            The address, for example "tcp://127.0.0.1:8786".
        """
        from flowgauge.leftovers.watch import adopted

        cluster = RUNNERS[RUNNERS[name].cluster]
        if cluster.name not in self._addresses:
            if self.borrows(name) and self.dask_address:
                self._addresses[cluster.name] = self.dask_address
                self._out_of_reach[cluster.name] = self._borrow(self.dask_address)
            else:
                start = time.perf_counter()
                local = local_cluster(
                    self.workers,
                    self.home,
                    in_process=cluster.in_process,
                    as_shipped=self.as_shipped,
                )
                # Even if a test requests it first, it belongs to the pytest run.
                with adopted():
                    self._addresses[cluster.name] = self._stack.enter_context(local)
                self.seconds_to_start[cluster.name] = time.perf_counter() - start
        return self._addresses[cluster.name]

    def _borrow(self, address: str) -> str:
        """Use the workers of an existing cluster, and return why they are out of reach."""
        from prefect.settings import PREFECT_API_URL

        existing = self.prefect_api is not None
        workers = check_workers(address, PREFECT_API_URL.value(), self.home, existing=existing)
        if not (reason := out_of_reach(workers)):
            self._stack.enter_context(borrowed_workers(address, self.home))
        return reason

    def ray_address(self, name: str) -> str:
        """Return the address of the Ray cluster of this pytest run, starting it if needed.

        Args:
            name: The task runner.

        Returns:
            The address, for example "127.0.0.1:6379".

        Raises:
            RunnerError: If this process uses Ray otherwise.
        """
        from flowgauge.leftovers.watch import adopted

        if name not in self._addresses:
            start = time.perf_counter()
            with adopted():
                self._addresses[name] = self._stack.enter_context(
                    ray_cluster.local_ray(self.workers, self.home, as_shipped=self.as_shipped)
                )
            self.seconds_to_start[name] = time.perf_counter() - start
        return self._addresses[name]

    def borrows(self, name: str) -> bool:
        """Return whether a task runner uses the workers of an existing cluster.

        Args:
            name: The task runner.

        Returns:
            Whether it does.
        """
        return bool(self.dask_address) and RUNNERS[name].on_dask_workers

    def out_of_reach_of(self, name: str) -> str:
        """Return why the clock and faults don't reach a task runner's workers.

        Args:
            name: The task runner.

        Returns:
            One line; empty if they do.
        """
        return self._out_of_reach.get(RUNNERS[name].cluster, "")

    def finish_sending(self) -> None:
        """Let the worker processes send what they have, before another server is used."""
        for name, address in self._addresses.items():
            if RUNNERS[name].baseline is BaselineKind.RAY:
                ray_cluster.finish_sending(self.workers, self.home)
            elif not RUNNERS[name].in_process:
                finish_sending(address)

    def close(self) -> None:
        """Stop everything that was started."""
        self._addresses.clear()
        self._stack.close()
