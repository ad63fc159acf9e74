# SPDX-License-Identifier: Apache-2.0
"""A flow in a separate process that a test ends: `python -m ... RUNNER FOLDER DASK`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowgauge.patterns.task_runners.lean_dask import LeanDaskTaskRunner
from flowgauge.patterns.task_runners.lean_process_pool import LeanProcessPoolTaskRunner
from prefect import flow, task
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flowgauge.waiting import wait_until

TASKS = 20


@task
def wait(folder: str, number: int) -> None:
    """Leave a file to show that it runs, and wait for the file `go`."""
    Path(folder, str(number)).touch()
    wait_until(Path(folder, "go").exists)


@flow
def wait_in_all(folder: str) -> None:
    """Wait in many task runs."""
    futures = wait.map([folder] * TASKS, range(TASKS))
    Path(folder, "waiting").touch()
    futures.wait()


def main(name: str, folder: str, address: str) -> None:
    """Run the flow on a task runner with two workers, or on a Dask cluster."""
    runners: dict[str, Callable[[], TaskRunner[Any]]] = {
        "processes": lambda: ProcessPoolTaskRunner(2),
        "lean-processes": lambda: LeanProcessPoolTaskRunner(2),
        "dask-processes": lambda: DaskTaskRunner(address=address),
        "lean-dask": lambda: LeanDaskTaskRunner(address=address),
    }
    wait_in_all.with_options(task_runner=runners[name]())(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
