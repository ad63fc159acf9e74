# SPDX-License-Identifier: Apache-2.0
"""Setup of a worker process that runs tasks for a pytest run."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from flowgauge.clock.engine import clock_hooks
from flowgauge.clock.leases import noted_leases
from flowgauge.clock.process import ClockProcess
from flowgauge.clock.slot_waits import noted_slot_waits
from flowgauge.compat.features import missing, usable
from flowgauge.compat.names import FAULTS, LEASES, SAVED_WORK, SENT, STUCK_SLOTS, VIRTUAL_CLOCK
from flowgauge.compat.repeated_work import saved_work
from flowgauge.faults.process import FaultProcess
from flowgauge.leftovers.writes import report_writes
from flowgauge.runners.parent_process import end_with_parent
from flowgauge.server.isolation import forget_user_settings


@functools.cache
def prepare_worker(home: str, as_shipped: bool) -> None:
    """Make this process, a worker of a process pool or Dask cluster, part of a pytest run, once.

    Args:
        home: The folder of the pytest run.
        as_shipped: Whether this process does all the work that stock Prefect does, for benchmarks.
    """
    end_with_parent()
    forget_user_settings()
    part = take_part(home, expendable=True)
    if not as_shipped and usable(SAVED_WORK, Path(home)):
        part.enter_context(saved_work())
    report_writes(home)


def take_part(home: str, *, expendable: bool) -> contextlib.ExitStack:
    """Make task runs in this process follow the virtual clock and the faults of a pytest run.

    Their logs and events are noted when a test reads them.

    A feature that is off with this Prefect is skipped: tests that request it have failed already.

    Args:
        home: The folder of the pytest run.
        expendable: Whether a test may kill this process.

    Returns:
        A stack that ends that when closed.
    """
    stack = contextlib.ExitStack()
    process = ClockProcess(Path(home))
    if not missing(VIRTUAL_CLOCK):
        stack.enter_context(clock_hooks(process))
    if usable(LEASES, process.home):
        stack.enter_context(noted_leases(process, expendable=expendable))
    if usable(STUCK_SLOTS, process.home):
        stack.enter_context(noted_slot_waits(process.home))
    if not missing(FAULTS):
        from flowgauge.faults.engine import hooks

        stack.enter_context(hooks(FaultProcess(Path(home), expendable=expendable)))
    if not missing(SENT):
        from flowgauge.observe.sending import sending_hooks
        from flowgauge.observe.sent import Sent

        stack.enter_context(sending_hooks(Sent(Path(home))))
    return stack
