# SPDX-License-Identifier: Apache-2.0
"""The table of task runners: one record each, the one place where a task runner is described."""

from __future__ import annotations

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
        name: What `--runners`, marks and reports call it.
        start: Makes a task runner for a flow, given this record and what the run has started.
        execution: How it goes about a task.
        baseline: What its cost is measured relative to.
        colour: In charts: one of Okabe and Ito's, which most colour-blind people can tell apart,
            on white and black alike.
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
    colour: str
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


def names_where(is_wanted: Callable[[Runner], bool]) -> tuple[str, ...]:
    """Return the names of the task runners with a property, in the order of the table.

    Args:
        is_wanted: Tells whether a runner has it.

    Returns:
        The names, for instance for the mark `runners`.
    """
    return tuple(name for name, runner in RUNNERS.items() if is_wanted(runner))


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)


INLINE = names_where(lambda runner: runner.execution.inline)
STOCK = names_where(lambda runner: runner.common and not runner.pattern)
LEAN = names_where(lambda runner: runner.lean)
IN_OWN_PROCESSES = tuple(name for name in STOCK if not RUNNERS[name].in_process)
COMMON = names_where(lambda runner: runner.common)
