# SPDX-License-Identifier: Apache-2.0
"""The process of a flow run: Prefect's, following the virtual clock and the faults of a test."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from flowgauge.clock.process import current_run
from flowgauge.runners.reached_workers import reached_workers
from flowgauge.runners.worker_setup import take_part
from flowgauge.services.in_processes import HOME, PARENT

if __name__ == "__main__":
    home = os.environ[HOME]
    take_part(home, expendable=True)
    current_run.set(os.environ[PARENT])
    with reached_workers(Path(home), as_shipped=False):
        runpy.run_module("prefect.engine", run_name="__main__")
