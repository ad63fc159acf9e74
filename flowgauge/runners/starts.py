# SPDX-License-Identifier: Apache-2.0
"""The functions that create each task runner for a flow, using what the pytest run has started."""

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
    """A task runner that is unavailable here; the one-line message says what to do."""


def sequential(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create the catalogue's task runner that calls each task immediately."""
    task_runner: TaskRunner[Any] = _pattern(runner).SequentialTaskRunner()
    return task_runner


def threads(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create Prefect's thread pool task runner."""
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=started.workers)


def processes(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create Prefect's process pool task runner, with workers that start with Prefect imported."""
    from prefect.task_runners import ProcessPoolTaskRunner

    pool_class = ProcessPoolTaskRunner
    if usable(PRELOADED_POOL, started.home):
        from flowgauge.runners.process_pool import PreloadedProcessPoolTaskRunner

        pool_class = PreloadedProcessPoolTaskRunner
    return pool_class(**_pool_options(runner, started))


def lean_processes(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create the catalogue's process pool task runner."""
    pattern, options = _pattern(runner), _pool_options(runner, started)
    task_runner: TaskRunner[Any] = pattern.LeanProcessPoolTaskRunner(**options)
    return task_runner


def dask(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create the Dask task runner, on a cluster of the pytest run."""
    from prefect_dask.task_runners import DaskTaskRunner

    return DaskTaskRunner(address=started.dask_scheduler(runner.name))


def lean_dask(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create the catalogue's Dask task runner, on a cluster of the pytest run."""
    address = started.dask_scheduler(runner.name)
    task_runner: TaskRunner[Any] = _pattern(runner).LeanDaskTaskRunner(address=address)
    return task_runner


def ray(runner: Runner, started: StartedRunners) -> TaskRunner[Any]:
    """Create the Ray task runner, on the cluster of the pytest run."""
    from prefect_ray.task_runners import RayTaskRunner

    task_runner: TaskRunner[Any] = RayTaskRunner(address=started.ray_address(runner.name))
    return task_runner


def _pool_options(runner: Runner, started: StartedRunners) -> dict[str, Any]:
    from prefect.task_runners import ProcessPoolTaskRunner

    if "initializer" not in inspect.signature(ProcessPoolTaskRunner).parameters:
        raise RunnerError(
            f"{runner.name}: before Prefect 3.8 each of its workers starts its own server"
        )
    return {"max_workers": started.workers, "initializer": started.prepare_worker}


def _pattern(runner: Runner) -> Any:
    """Import the pattern of a task runner."""
    try:
        return importlib.import_module(f"flowgauge.patterns.{runner.pattern.replace('/', '.')}")
    except ImportError as error:
        raise RunnerError(str(error)) from None
