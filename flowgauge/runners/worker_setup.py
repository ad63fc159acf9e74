# SPDX-License-Identifier: Apache-2.0
"""What changes inside a worker process that runs tasks for a test run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flowgauge.clock.engine import clock_hooks
from flowgauge.clock.process import ClockProcess
from flowgauge.compat.features import missing, usable
from flowgauge.compat.names import FAULTS, SAVED_WORK, VIRTUAL_CLOCK
from flowgauge.compat.repeated_work import saved_work
from flowgauge.faults.process import FaultProcess
from flowgauge.leftovers.writes import report_writes
from flowgauge.runners.parent_process import end_with_parent
from flowgauge.server.isolation import forget_user_settings


def prepare_worker(home: str, as_shipped: bool) -> None:
    """Make this process part of a test run: a worker of a process pool or of a Dask cluster.

    Args:
        home: The folder of the run.
        as_shipped: Whether this process does all that Prefect does, to be measured.
    """
    end_with_parent()
    forget_user_settings()
    part = take_part(home, expendable=True)
    if not as_shipped and usable(SAVED_WORK, Path(home)):
        part.enter_context(saved_work())
    report_writes(home)


def take_part(home: str, *, expendable: bool) -> contextlib.ExitStack:
    """Let task runs in this process follow the virtual clock and the faults of a test run.

    What does not work with this Prefect is left out: a test that asks for it has been failed.

    Args:
        home: The folder of the run.
        expendable: Whether a test may kill this process.

    Returns:
        What ends that when it is closed.
    """
    stack = contextlib.ExitStack()
    if not missing(VIRTUAL_CLOCK):
        stack.enter_context(clock_hooks(ClockProcess(Path(home))))
    if not missing(FAULTS):
        from flowgauge.faults.engine import hooks

        stack.enter_context(hooks(FaultProcess(Path(home), expendable=expendable)))
    return stack
