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

from flowgauge.server.kept import stop_kept
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


@dataclass(frozen=True)
class Suites:
    """The pytest runs of the project on each harness.

    Attributes:
        stock: On Prefect's own harness.
        cold: With a server that starts with pytest.
        kept: With a server that an earlier run left running.
        again: The same once more, each right after the one before it in `kept`.
    """

    stock: SuiteTimes
    cold: list[SuiteTimes]
    kept: list[SuiteTimes]
    again: list[SuiteTimes]


def time_suites(folder: Path, flows: int, rounds: int) -> Suites:
    """Run the project's tests on each harness.

    Args:
        folder: Where the project is created.
        flows: How many tests the project has.
        rounds: How often the tests run with Flowgauge's server; they run once on Prefect's own
            harness.

    Returns:
        The times; no server is left running.

    Raises:
        subprocess.CalledProcessError: If a test failed.
    """
    stock = time_suite(folder, flows, "--flow-stock-harness")
    cold = [time_suite(folder, flows) for _ in range(rounds - 1)]
    try:
        # Nothing is kept yet, so this run is as cold; it pays for the next one.
        cold.append(time_suite(folder, flows, "--flow-keep-server"))
        runs = [time_suite(folder, flows, "--flow-keep-server") for _ in range(2 * rounds)]
    finally:
        stop_kept(folder / "project")
    return Suites(stock, cold, kept=runs[::2], again=runs[1::2])
