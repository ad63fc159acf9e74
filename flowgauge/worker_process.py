# SPDX-License-Identifier: Apache-2.0
"""What changes inside a worker process that runs tasks for a test run."""

from __future__ import annotations

from flowgauge.clock.engine import join_clock
from flowgauge.isolation import forget_user_settings


def prepare_worker(home: str) -> None:
    """Make this process part of a test run: a worker of a process pool or of a Dask cluster.

    Args:
        home: The folder of the run.
    """
    forget_user_settings()
    join_clock(home)
