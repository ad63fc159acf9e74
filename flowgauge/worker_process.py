# SPDX-License-Identifier: Apache-2.0
"""What changes inside a worker process that runs tasks for a test run."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import threading

from flowgauge.clock.engine import join_clock
from flowgauge.faults.process import install
from flowgauge.isolation import forget_user_settings
from flowgauge.leftovers.writes import report_writes


def prepare_worker(home: str) -> None:
    """Make this process part of a test run: a worker of a process pool or of a Dask cluster.

    Args:
        home: The folder of the run.
    """
    _end_with_parent()
    forget_user_settings()
    join_clock(home)
    install(home)
    report_writes(home)


@functools.cache
def _end_with_parent() -> None:
    """End this process when its parent has ended, be it by SIGKILL.

    An idle worker of a process pool would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        name = "flowgauge-parent"
        threading.Thread(
            target=_exit_after, args=(parent.sentinel,), name=name, daemon=True
        ).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
