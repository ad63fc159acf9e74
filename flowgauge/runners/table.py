# SPDX-License-Identifier: Apache-2.0
"""The table of named task runners: how each starts, and what is shared by a whole run."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flowgauge.mistake import Mistake
from flowgauge.runners.dask_cluster import borrowed_workers, check_workers, local_cluster

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


class RunnerError(Mistake):
    """A task runner that doesn't exist here; one line says what to do."""


def default_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_runners() -> tuple[str, ...]:
    """Return the names of the task runners whose packages are installed."""
    dask = importlib.util.find_spec("prefect_dask") is not None
    return tuple(name for name in RUNNERS if dask or name not in CLUSTERS)


def chosen_runners(text: str | None, *, lean: bool = True) -> tuple[str, ...]:
    """Read the value of `--runners`.

    Args:
        text: Names with commas between them, or None for all that are installed.
        lean: Whether the catalogue's own are among those that nobody named.

    Returns:
        The names, each once, in the order given.

    Raises:
        RunnerError: If a name doesn't exist or its packages are not installed.
    """
    if text is None:
        return tuple(name for name in installed_runners() if lean or name not in LEAN)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = ", ".join(RUNNERS)
    if not names:
        raise RunnerError(f"--runners: no task runner named; choose from {known}")
    for name in names:
        if name not in RUNNERS:
            raise RunnerError(f"--runners: there is no task runner {name!r}; choose from {known}")
        if name not in installed_runners():
            raise RunnerError(f'--runners: {name} needs Dask; pip install "flowgauge[dask]"')
    return names


@dataclass
class StartedRunners:
    """The task runners of one test run; what is slow to start is started once, when needed.

    Attributes:
        workers: How many tasks may run side by side.
        home: The folder of the run; worker processes write there.
        as_shipped: Whether worker processes do all that Prefect does, to be measured.
        dask_address: A Dask scheduler to use instead of a local cluster of processes.
        seconds_to_start: What starting each shared cluster took.
        out_of_reach: Why the virtual clock and faults do not reach the workers of a cluster.
    """

    workers: int
    home: Path
    as_shipped: bool
    dask_address: str | None = None
    seconds_to_start: dict[str, float] = field(default_factory=dict)
    out_of_reach: dict[str, str] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _addresses: dict[str, str] = field(default_factory=dict)

    def task_runner(self, name: str) -> TaskRunner[Any]:
        """Return a new task runner for a flow.

        Args:
            name: One of the names in the table.

        Returns:
            A task runner that is not started; the flow starts and stops it.
        """
        return RUNNERS[name](self)

    def dask_scheduler(self, name: str) -> str:
        """Return the address of the Dask scheduler behind a runner, starting it if needed."""
        from flowgauge.leftovers.watch import adopted

        name = CLUSTERS[name]
        if name not in self._addresses:
            start = time.perf_counter()
            if name == "dask-processes" and self.dask_address:
                check_workers(self.dask_address)
                self._addresses[name] = self.dask_address
                borrowed = borrowed_workers(self.dask_address, self.home)
                self.out_of_reach[name] = self._stack.enter_context(borrowed)
            else:
                cluster = local_cluster(
                    self.workers,
                    self.home,
                    in_process=name == "dask-threads",
                    as_shipped=self.as_shipped,
                )
                # It may be a test that asks for it first; it is the run's all the same.
                with adopted():
                    self._addresses[name] = self._stack.enter_context(cluster)
            self.seconds_to_start[name] = time.perf_counter() - start
        return self._addresses[name]

    def out_of_reach_of(self, name: str) -> str:
        """Return why the clock and faults do not reach a runner's workers; empty if they do."""
        return self.out_of_reach.get(CLUSTERS.get(name, name), "")

    def close(self) -> None:
        """Stop what was started."""
        self._addresses.clear()
        self._stack.close()


def _sequential(started: StartedRunners) -> TaskRunner[Any]:
    runner: TaskRunner[Any] = _pattern("sequential").SequentialTaskRunner()
    return runner


def _threads(started: StartedRunners) -> TaskRunner[Any]:
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=started.workers)


def _processes(started: StartedRunners) -> TaskRunner[Any]:
    from flowgauge.runners.process_pool import PreloadedProcessPoolTaskRunner

    return PreloadedProcessPoolTaskRunner(**_pool_options(started))


def _lean_processes(started: StartedRunners) -> TaskRunner[Any]:
    lean = _pattern("lean-processes")
    runner: TaskRunner[Any] = lean.LeanProcessPoolTaskRunner(**_pool_options(started))
    return runner


def _pool_options(started: StartedRunners) -> dict[str, Any]:
    from prefect.task_runners import ProcessPoolTaskRunner

    from flowgauge.runners.worker_setup import prepare_worker

    if "initializer" not in inspect.signature(ProcessPoolTaskRunner).parameters:
        raise RunnerError("processes: before Prefect 3.8 its workers start servers of their own")
    return {
        "max_workers": started.workers,
        "initializer": prepare_worker,
        "initargs": (str(started.home), started.as_shipped),
    }


def _dask(name: str) -> Callable[[StartedRunners], TaskRunner[Any]]:
    def runner(started: StartedRunners) -> TaskRunner[Any]:
        from prefect_dask.task_runners import DaskTaskRunner

        return DaskTaskRunner(address=started.dask_scheduler(name))

    return runner


def _lean_dask(started: StartedRunners) -> TaskRunner[Any]:
    lean = _pattern("lean-dask")
    runner: TaskRunner[Any] = lean.LeanDaskTaskRunner(address=started.dask_scheduler("lean-dask"))
    return runner


def _pattern(name: str) -> ModuleType:
    """Import the pattern of a task runner."""
    try:
        return importlib.import_module(f"flowgauge.patterns.{PATTERNS[name].replace('/', '.')}")
    except ImportError as error:
        raise RunnerError(str(error)) from None


RUNNERS: dict[str, Callable[[StartedRunners], TaskRunner[Any]]] = {
    "sequential": _sequential,
    "threads": _threads,
    "processes": _processes,
    "lean-processes": _lean_processes,
    "dask-threads": _dask("dask-threads"),
    "dask-processes": _dask("dask-processes"),
    "lean-dask": _lean_dask,
}
PATTERNS = {
    "sequential": "task_runners/sequential",
    "lean-processes": "task_runners/lean_process_pool",
    "lean-dask": "task_runners/lean_dask",
}
"""Runners that Prefect does not come with: the pattern that each is of."""
LEAN = {"lean-processes": "processes", "lean-dask": "dask-processes"}
"""Patterns that do the same as a stock runner, and that one."""
CLUSTERS = {
    "dask-threads": "dask-threads",
    "dask-processes": "dask-processes",
    "lean-dask": "dask-processes",
}
"""The cluster that a runner shares with others."""


def narrowed(chosen: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the chosen runners that a test's `runners` mark wants.

    Args:
        chosen: The names of this run.
        wanted: The names in the mark.

    Returns:
        The names in both, in the order of the run.

    Raises:
        RunnerError: If the mark names a runner that doesn't exist.
    """
    wanted = tuple(wanted)
    for name in wanted:
        if name not in RUNNERS:
            known = ", ".join(RUNNERS)
            raise RunnerError(
                f"mark runners: there is no task runner {name!r}; choose from {known}"
            )
    return tuple(name for name in chosen if name in wanted)
