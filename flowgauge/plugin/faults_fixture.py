# SPDX-License-Identifier: Apache-2.0
"""The `faults` fixture, and the option that repeats a run's faults."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from flowgauge.compat.features import missing
from flowgauge.compat.names import FAULTS
from flowgauge.faults.errors import FaultRefused, Refusal
from flowgauge.plugin.preflight import check_runner_in_reach
from flowgauge.plugin.session import run_home
from flowgauge.runners import table

if TYPE_CHECKING:
    from flowgauge.faults.faults import Faults

_SEED = pytest.StashKey[int]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the seed."""
    group = parser.getgroup("flowgauge")
    group.addoption(
        "--flow-fault-seed",
        metavar="N",
        help="seed of the faults fixture, to replay a run in which a test failed"
        " (default: a new one for each run)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the seed option, or draw a seed."""
    text = config.getoption("flow_fault_seed")
    try:
        config.stash[_SEED] = random.SystemRandom().randrange(2**32) if text is None else int(text)
    except ValueError:
        raise pytest.UsageError(
            f"--flow-fault-seed {text}: not a seed; give a whole number"
        ) from None


@pytest.fixture
def faults(prefect_server: str, request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Make tasks fail, crash or run slowly on purpose; see `Faults`."""
    if line := missing(FAULTS):
        pytest.fail(line, pytrace=False)
    from flowgauge.faults.engine import hooks
    from flowgauge.faults.faults import wanted_faults
    from flowgauge.faults.process import FaultProcess, faults_folder

    check_runner_in_reach(request)
    config = request.config
    home = run_home(config)
    hooked = hooks(FaultProcess(home, expendable=False, crash_on=table.IN_OWN_PROCESSES))
    with (
        hooked,
        wanted_faults(faults_folder(home), config.stash[_SEED], prefect_server) as injected,
    ):
        yield injected
    lines = injected.unmet()
    if request.node.stash.get(_PASSED, False):
        lines += injected.refused()
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add how to replay the faults of a failed test to its report."""
    report = yield
    if "faults" in getattr(item, "fixturenames", ()):
        if report.when == "call":
            item.stash[_PASSED] = report.passed
        if call.excinfo and call.excinfo.errisinstance((FaultRefused, Refusal)):
            report.longrepr = str(call.excinfo.value)
        if report.failed:
            seed = item.config.stash[_SEED]
            report.sections.append(("faults", f"--flow-fault-seed {seed} replays it"))
    return report
