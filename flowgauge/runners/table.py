# SPDX-License-Identifier: Apache-2.0
"""The table of task runners: one record each, the one place where a task runner is described."""

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
    """What runs the same work without Prefect, by the name that reports give it."""

    CALL = "plain function call"
    THREADS = "ThreadPoolExecutor"
    PROCESSES = "ProcessPoolExecutor"
    DASK = "bare Dask"


@dataclass(frozen=True)
class ExecutionModel:
    """How a task runner goes about a task; what `flowgauge advise` simulates.

    Attributes:
        inline: The flow's own thread does it, before it goes on.
        one_interpreter: Workers and the flow share an interpreter, and so its lock.
        waits_at: Where a task waits for its parents: `worker`, on one that does nothing else
            meanwhile; `queue`, in one of as many places as there are workers, before those that
            were submitted later; `scheduler`, where it is in nobody's way.
    """

    inline: bool = False
    one_interpreter: bool = False
    waits_at: Literal["worker", "queue", "scheduler"] = "scheduler"


@dataclass(frozen=True)
class Runner:
    """A task runner.

    Attributes:
        name: What `--flow-runners`, marks and reports call it.
        start: Makes a task runner for a flow, given this record and what the run has started.
        execution: How it goes about a task.
        baseline: What its cost is measured relative to.
        colour: In charts: one of Okabe and Ito's, which most colour-blind people can tell apart,
            on white and black alike. Empty for one that is not taken.
        pattern: The pattern of the catalogue that it is; empty where Prefect or an integration
            brings it.
        stock: The runner that the pattern may take the place of; empty where there is none.
        cluster: The runner whose Dask cluster it shares, be it itself; empty where it has none.
        package: What must be installed besides Prefect, as an import name.
        extra: The extra of flowgauge that installs that.
        common: Whether it is measured in benchmarks that take minutes for each task runner.
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

    @property
    def in_process(self) -> bool:
        """Whether tasks run in the process of the flow."""
        return self.execution.one_interpreter

    @property
    def lean(self) -> bool:
        """Whether it does the same as a stock runner, with less."""
        return bool(self.stock)

    @property
    def starts_workers(self) -> bool:
        """Whether each flow run starts worker processes of its own."""
        return not self.in_process and not self.cluster

    @property
    def installed(self) -> bool:
        """Whether its packages are there."""
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
    )
}
"""By name, in the order of reports."""


def add(runner: object) -> None:
    """Add a task runner to the table, for this process.

    Args:
        runner: A `Runner` of a name that is not taken.

    Raises:
        RunnerError: If it is none, or can't be added.
    """
    if not isinstance(runner, Runner):
        raise starts.RunnerError(f"pytest_flowgauge_runners: {runner!r:.60} is no Runner")
    where = f"pytest_flowgauge_runners: the task runner {runner.name!r}"
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", runner.name):
        raise starts.RunnerError(f"{where} needs a name of small letters, digits and hyphens")
    if runner.name in RUNNERS:
        raise starts.RunnerError(f"{where} is in the table already: choose another name")
    for other in (runner.stock, runner.cluster):
        if other and other not in RUNNERS:
            raise starts.RunnerError(f"{where} names {other!r}, which is no task runner")
    RUNNERS[runner.name] = runner


def names_where(is_wanted: Callable[[Runner], bool]) -> tuple[str, ...]:
    """Return the names of the task runners with a property, in the order of the table.

    Args:
        is_wanted: Tells whether a runner has it.

    Returns:
        The names, for instance for the mark `runners`.
    """
    return tuple(name for name, runner in RUNNERS.items() if is_wanted(runner))


def _is_stock(runner: Runner) -> bool:
    return runner.common and not runner.pattern


INLINE: tuple[str, ...]
STOCK: tuple[str, ...]
LEAN: tuple[str, ...]
IN_OWN_PROCESSES: tuple[str, ...]
COMMON: tuple[str, ...]

_WANTED: dict[str, Callable[[Runner], bool]] = {
    "INLINE": lambda runner: runner.execution.inline,
    "STOCK": _is_stock,
    "LEAN": lambda runner: runner.lean,
    "IN_OWN_PROCESSES": lambda runner: _is_stock(runner) and not runner.in_process,
    "COMMON": lambda runner: runner.common,
}


def __getattr__(name: str) -> tuple[str, ...]:
    # As the table is now: a project may have added to it.
    if name not in _WANTED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return names_where(_WANTED[name])
