# SPDX-License-Identifier: Apache-2.0
"""What the warm server saves: a project of flow tests relative to Prefect's own harness."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowgauge.measure.pairs import Rounds, noise_of
from flowgauge.measure.suite import Suites, time_suites
from flowgauge.plugin.paired import Paired
from flowgauge.plugin.session import measures
from flowgauge.results.rows import Group

FLOWS = 8
ROUNDS = {"quick": 1, "full": 2}
FIGURES = {
    "first_flow": "time from pytest's start to the end of the first flow run",
    "flow": "time per flow run that does nothing",
    "suite": f"time of a pytest run with {FLOWS} flow runs",
}


# Each runs pytest in a process of its own, several times.
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Suites:
    """Return the times of all runs; the one with the stock harness is the reference of all."""
    flows = FLOWS if measures(pytestconfig) else 1
    folder: Path = tmp_path_factory.mktemp("suite")
    rounds = ROUNDS["full" if pytestconfig.getoption("flow_full") else "quick"]
    return time_suites(folder, flows, rounds)


@pytest.mark.parametrize("server", ["cold", "kept"])
@pytest.mark.parametrize("figure", FIGURES)
def test_harness(paired: Paired, suites: Suites, figure: str, server: str) -> None:
    """The time of a small project's tests, from a cold start and with a kept server."""
    ours = [getattr(times, figure) for times in getattr(suites, server)]
    labels: dict[str, Any] = {
        "id": f"{figure.replace('_', '-')}-{server}",
        "figure": FIGURES[figure],
        "runner": None,
    }
    paired.benchmark.pedantic(lambda: None)
    if server == "kept":
        again = tuple(getattr(times, figure) for times in suites.again)
        paired.keep(Rounds(again, tuple(ours)), **labels, **noise_of(Group.HARNESS))
    paired.keep(
        Rounds(tuple(ours), (getattr(suites.stock, figure),) * len(ours)),
        group=Group.HARNESS,
        reference="Prefect's own test harness",
        params={},
        **labels,
    )


def test_loading_the_plugin(paired: Paired, tmp_path: Path) -> None:
    """What an installed Flowgauge costs a project whose tests do not use it."""
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    pass\n")

    def run(*options: str) -> Callable[[], int]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        return lambda: subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode

    paired(
        run(),
        run("-p", "no:flowgauge"),
        check=lambda status: status == 0,
        id="plugin-load",
        group=Group.STARTUP,
        figure="time of a pytest run whose tests need no Prefect",
        against="the same without Flowgauge's plugin",
    )
