# SPDX-License-Identifier: Apache-2.0
"""The `virtual_clock` fixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from flowgauge.compat.features import missing
from flowgauge.compat.names import VIRTUAL_CLOCK
from flowgauge.plugin.preflight import check_runner_in_reach, check_server_in_use
from flowgauge.plugin.session import run_home
from flowgauge.plugin.timing import times

if TYPE_CHECKING:
    from flowgauge.clock.process import ClockProcess
    from flowgauge.clock.virtual_clock import VirtualClock


@pytest.fixture
def _clock_process(prefect_server: str, pytestconfig: pytest.Config) -> ClockProcess:
    """Return this process's side of the virtual clock of one test."""
    if line := missing(VIRTUAL_CLOCK):
        pytest.fail(line, pytrace=False)
    from flowgauge.clock.process import ClockProcess

    return ClockProcess(run_home(pytestconfig))


@pytest.fixture
def virtual_clock(
    prefect_server: str, _clock_process: ClockProcess, request: pytest.FixtureRequest
) -> Iterator[VirtualClock]:
    """Skip the waits of Prefect's engines in this test; see `VirtualClock`."""
    from flowgauge.clock.virtual_clock import virtual_clock

    check_server_in_use(prefect_server)
    check_runner_in_reach(request)
    with virtual_clock(_clock_process, run_home(request.config), prefect_server) as clock:
        yield clock
        times(request.config).skipped += clock.skipped
