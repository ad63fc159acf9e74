# SPDX-License-Identifier: Apache-2.0
"""Times a pytest run, in a subprocess, of a small project of flow tests."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flowgauge.server.lease import ZYGOTE

_TESTS = """
import os, sys, time
import pytest
from prefect import flow

@flow
def nothing(number):
    return number + 1

@pytest.mark.leaves("files", reason="the times")
@pytest.mark.parametrize("number", range({flows}))
def test_flow(prefect_server, number):
    start = time.time()
    assert nothing(number) == number + 1
    with open("../times", "a") as file:
        print(start, time.time(), file=file)
"""


@dataclass(frozen=True)
class SuiteTimes:
    """The times of one pytest run of the project, in seconds.

    Attributes:
        first_flow: From the start of pytest until the first flow run has finished.
        flow: The median flow run, without the first, which also pays for imports.
        suite: The whole pytest run.
    """

    first_flow: float
    flow: float
    suite: float


def time_suite(folder: Path, flows: int, *options: str) -> SuiteTimes:
    """Run the project's tests.

    Args:
        folder: Where the project is created, as `project`; an existing one is reused.
        flows: How many tests the project has; each runs a flow that does nothing.
        *options: Options for pytest.

    Returns:
        The times.

    Raises:
        subprocess.CalledProcessError: If a test failed.
    """
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "pytest.ini").write_text("[pytest]\nflowgauge = true\n")
    (project / "test_flows.py").write_text(_TESTS.format(flows=flows))
    times = folder / "times"
    times.unlink(missing_ok=True)
    # With this variable the inner pytest run would share this run's zygote.
    environment = {name: text for name, text in os.environ.items() if name != ZYGOTE}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    begun, start = time.time(), time.perf_counter()
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
    suite = time.perf_counter() - start
    flow_runs = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    return SuiteTimes(
        first_flow=flow_runs[0][1] - begun,
        flow=statistics.median(end - start for start, end in flow_runs[1:] or flow_runs),
        suite=suite,
    )
