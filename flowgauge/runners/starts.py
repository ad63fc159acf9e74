# SPDX-License-Identifier: Apache-2.0
"""Makes each task runner for a flow, with what its run has started."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from flowgauge.compat.features import usable
from flowgauge.compat.names import PRELOADED_POOL
from flowgauge.mistake import Mistake

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

    from flowgauge.runners.started import StartedRunners
    from flowgauge.runners.table import Runner


class RunnerError(Mistake):
    """A task runner that doesn't exist here; one line says what to do."""


def sequential(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make the catalogue's runner that calls each task at once."""
    made: TaskRunner[Any] = _pattern(runner).SequentialTaskRunner()
    return made


def threads(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make Prefect's thread pool."""
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=started.workers)


def processes(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make Prefect's process pool, whose workers begin with Prefect imported."""
    from prefect.task_runners import ProcessPoolTaskRunner

    kind = ProcessPoolTaskRunner
    if usable(PRELOADED_POOL, started.home):
        from flowgauge.runners.process_pool import PreloadedProcessPoolTaskRunner

        kind = PreloadedProcessPoolTaskRunner
    return kind(**_pool_options(runner, started))


def lean_processes(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make the catalogue's process pool."""
    lean = _pattern(runner)
    made: TaskRunner[Any] = lean.LeanProcessPoolTaskRunner(**_pool_options(runner, started))
    return made


def dask(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make the Dask task runner, on a cluster of the run."""
    from prefect_dask.task_runners import DaskTaskRunner

    return DaskTaskRunner(address=started.dask_scheduler(runner.name))


def lean_dask(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Make the catalogue's Dask task runner, on a cluster of the run."""
    address = started.dask_scheduler(runner.name)
    made: TaskRunner[Any] = _pattern(runner).LeanDaskTaskRunner(address=address)
    return made


def _pool_options(runner: Runner, started: StartedRunners) -> dict[str, Any]:
    from prefect.task_runners import ProcessPoolTaskRunner

    if "initializer" not in inspect.signature(ProcessPoolTaskRunner).parameters:
        raise RunnerError(
            f"{runner.name}: before Prefect 3.8 its workers start servers of their own"
        )
    return {"max_workers": started.workers, "initializer": started.prepare_worker}


def _pattern(runner: Runner) -> Any:
    """Import the pattern of a task runner."""
    try:
        return importlib.import_module(f"flowgauge.patterns.{runner.pattern.replace('/', '.')}")
    except ImportError as error:
        raise RunnerError(str(error)) from None
