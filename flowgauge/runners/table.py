# SPDX-License-Identifier: Apache-2.0
"""The table of task runners: one record each, the single place that describes a task runner."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from flowgauge.runners import starts

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

    from flowgauge.runners.started import StartedRunners


class BaselineKind(StrEnum):
    """A bare executor that runs the same work without Prefect; the value is its name in reports."""

    CALL = "plain function call"
    THREADS = "ThreadPoolExecutor"
    PROCESSES = "ProcessPoolExecutor"
    DASK = "bare Dask"
    RAY = "bare Ray"


@dataclass(frozen=True)
class ExecutionModel:
    """The execution model of a task runner, which `flowgauge advise` simulates.

    Attributes:
        inline: Whether the flow's own thread runs each task before it continues.
        one_interpreter: Whether workers and the flow share an interpreter, and so its lock.
        waits_at: Where a task waits for its parents: `worker`, on a worker that does nothing else
            in the meantime; `queue`, in a queue with one place per worker, ahead of tasks that were
            submitted later; `scheduler`, where it blocks no other task.
    """

    inline: bool = False
    one_interpreter: bool = False
    waits_at: Literal["worker", "queue", "scheduler"] = "scheduler"


@dataclass(frozen=True)
class Runner:
    """A task runner.

    Attributes:
        name: Its name in `--flow-runners`, marks and reports.
        start: Creates a task runner for a flow, given this record and what the run has started.
        execution: Its execution model.
        baseline: The baseline that its cost is measured relative to.
        colour: Its colour in charts, from the palette of Okabe and Ito, which most colour-blind
            people can distinguish, on white and on black. Empty to get an unused one.
        pattern: The catalogue's pattern that implements it; empty if Prefect or an integration
            does.
        stock: The task runner that the pattern can replace; empty if there is none.
        cluster: The task runner whose cluster it shares, possibly itself; empty for none.
        package: The import name of a package that it needs in addition to Prefect.
        extra: Flowgauge's extra that installs the package.
        common: Whether it is measured in benchmarks that take minutes for each task runner.
        by_default: Whether it is used, if installed, when nobody asks for certain task runners.
    """

    name: str
    start: Callable[[Runner, StartedRunners], TaskRunner[Any]]
    execution: ExecutionModel
    baseline: BaselineKind
    colour: str = ""
    pattern: str = ""
    stock: str = ""
    cluster: str = ""
    package: str = ""
    extra: str = ""
    common: bool = True
    by_default: bool = True

    @property
    def in_process(self) -> bool:
        """Whether tasks run in the process of the flow."""
        return self.execution.one_interpreter

    @property
    def lean(self) -> bool:
        """Whether it is a lean replacement for a stock task runner."""
        return bool(self.stock)

    @property
    def starts_workers(self) -> bool:
        """Whether each flow run starts its own worker processes."""
        return not self.in_process and not self.cluster

    @property
    def on_dask_workers(self) -> bool:
        """Whether tasks run in processes of a Dask cluster, which may have existed before."""
        return self.baseline is BaselineKind.DASK and not self.in_process

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is installed."""
        return not self.package or find_spec(self.package) is not None


_DASK: dict[str, Any] = {"baseline": BaselineKind.DASK, "package": "prefect_dask", "extra": "dask"}

RUNNERS = {
    runner.name: runner
    for runner in (
        Runner(
            "sequential",
            starts.sequential,
            ExecutionModel(inline=True, one_interpreter=True),
            BaselineKind.CALL,
            colour="#0072B2",
            pattern="task_runners/sequential",
        ),
        Runner(
            "threads",
            starts.threads,
            ExecutionModel(one_interpreter=True, waits_at="worker"),
            BaselineKind.THREADS,
            colour="#E69F00",
        ),
        Runner(
            "processes",
            starts.processes,
            ExecutionModel(waits_at="queue"),
            BaselineKind.PROCESSES,
            colour="#009E73",
        ),
        Runner(
            "lean-processes",
            starts.lean_processes,
            ExecutionModel(waits_at="queue"),
            BaselineKind.PROCESSES,
            colour="#B8B000",
            pattern="task_runners/lean_process_pool",
            stock="processes",
        ),
        Runner(
            "dask-threads",
            starts.dask,
            ExecutionModel(one_interpreter=True),
            colour="#CC79A7",
            cluster="dask-threads",
            common=False,
            **_DASK,
        ),
        Runner(
            "dask-processes",
            starts.dask,
            ExecutionModel(),
            colour="#D55E00",
            cluster="dask-processes",
            **_DASK,
        ),
        Runner(
            "lean-dask",
            starts.lean_dask,
            ExecutionModel(),
            colour="#56B4E9",
            pattern="task_runners/lean_dask",
            stock="dask-processes",
            cluster="dask-processes",
            **_DASK,
        ),
        # The arguments of a task are passed as Ray's references, for which its scheduler waits.
        Runner(
            "ray",
            starts.ray,
            ExecutionModel(),
            BaselineKind.RAY,
            colour="#7F7F7F",
            cluster="ray",
            package="prefect_ray",
            extra="ray",
            by_default=False,
        ),
    )
}
"""The task runners by name, in the order of reports: the simplest first. `flowgauge advise` names
the first of those between which it sees no difference."""


def add(runner: object) -> None:
    """Add a task runner to the table of this process.

    Args:
        runner: A `Runner` with an unused name.

    Raises:
        RunnerError: If it is not a `Runner`, or can't be added.
    """
    if not isinstance(runner, Runner):
        raise starts.RunnerError(f"pytest_flowgauge_runners: {runner!r:.60} is not a Runner")
    where = f"pytest_flowgauge_runners: the task runner {runner.name!r}"
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", runner.name):
        raise starts.RunnerError(f"{where} needs a name of lowercase letters, digits and hyphens")
    if runner.name in RUNNERS:
        raise starts.RunnerError(f"{where} is already in the table: choose another name")
    for other in (runner.stock, runner.cluster):
        if other and other not in RUNNERS:
            raise starts.RunnerError(f"{where} names {other!r}, which is not a task runner")
    RUNNERS[runner.name] = runner


def names_where(condition: Callable[[Runner], bool]) -> tuple[str, ...]:
    """Return the names of the task runners that meet a condition, in the order of the table.

    Args:
        condition: Returns whether a task runner meets it.

    Returns:
        The names, for instance for the mark `runners`.
    """
    return tuple(name for name, runner in RUNNERS.items() if condition(runner))


def _is_stock(runner: Runner) -> bool:
    return runner.common and not runner.pattern


INLINE: tuple[str, ...]
STOCK: tuple[str, ...]
LEAN: tuple[str, ...]
IN_OWN_PROCESSES: tuple[str, ...]
COMMON: tuple[str, ...]

_CONDITIONS: dict[str, Callable[[Runner], bool]] = {
    "INLINE": lambda runner: runner.execution.inline,
    "STOCK": _is_stock,
    "LEAN": lambda runner: runner.lean,
    # It is what a message recommends.
    "IN_OWN_PROCESSES": lambda runner: (
        _is_stock(runner) and not runner.in_process and runner.by_default
    ),
    "COMMON": lambda runner: runner.common,
}


def __getattr__(name: str) -> tuple[str, ...]:
    # Computed from the current table, because a project may have added to it.
    if name not in _CONDITIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return names_where(_CONDITIONS[name])
