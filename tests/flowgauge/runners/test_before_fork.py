# SPDX-License-Identifier: Apache-2.0
"""A pool's workers are forked with everything loaded that each would load for itself."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from prefect import flow, get_run_logger, task
from prefect.task_runners import TaskRunner

from flowgauge.clock.waits import TIME_NAME
from flowgauge.runners.process_pool import preloaded_context


@task
def loaded_in_task() -> frozenset[str]:
    """Log something, and return the names of the modules that this worker has loaded."""
    get_run_logger().info("%s", "a worker logs")
    return frozenset(sys.modules)


@pytest.mark.runners("processes")
def test_a_task_finds_everything_loaded(task_runner: TaskRunner[Any]) -> None:
    """A worker that has run a task and logged has loaded no module that it did not start with.

    Except for those that Prefect looks for when they are needed.
    """

    @flow(task_runner=task_runner)
    def one_after_another() -> frozenset[str]:
        loaded_in_task.submit().wait()
        return loaded_in_task.submit().result()

    later = one_after_another()
    with ProcessPoolExecutor(1, mp_context=preloaded_context()) as pool:
        # No function of this file, which a worker would import with all that it imports.
        first = pool.submit(eval, "frozenset(__import__('sys').modules)").result()
    own = {__name__, TIME_NAME}
    assert {name for name in later - first if not name.startswith("prefect.")} <= own


LOAD = """
import threading
from flowgauge.runners.before_fork import load
load()
print(threading.active_count())
"""


def test_nothing_is_started() -> None:
    """Loading starts no thread, which forked workers would believe to have."""
    shown = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert shown.stdout == "1\n"
