# SPDX-License-Identifier: Apache-2.0
"""Gives back, or tells, the slots of concurrency limits that a test leaves taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowgauge.waiting import patience

if TYPE_CHECKING:
    from flowgauge.server.made import Things

_LEFT = "flowgauge_slots_left"
"""The user property with a line for each limit; it reaches the xdist controller."""
_PATIENCE = 10.0
"""Seconds that what a test started has to give a slot back; `FLOWGAUGE_PATIENCE` scales them."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the note at the end of the run."""
    config.pluginmanager.register(_SlotsLeft(), "flowgauge-slots-left")


class _SlotsLeft:
    """Lists the slots that nobody gave back; no test fails because of them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the slots that a test left taken."""
        if report.when == "teardown":
            self._lines += [
                f"note: {report.nodeid} left {what}"
                for name, what in report.user_properties
                if name == _LEFT
            ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the slots, each with the test that took it."""
        for line in self._lines:
            terminalreporter.write_line(line)


def give_back_or_tell(
    item: pytest.Item, home: Path, since: float, before: Things, now: Callable[[], Things]
) -> None:
    """Give back the slots of dead processes, and tell those that the test took and nobody holds.

    Args:
        item: The test that has ended; what it made on the server is removed.
        home: The folder of the pytest run.
        since: When the test began, in seconds since the epoch.
        before: What was on the server before the test.
        now: Returns what is there now.
    """
    from flowgauge.server.made import taken_slots

    if not taken_slots(now()):
        return
    from prefect.settings import PREFECT_API_URL

    from flowgauge.clock.leases import give_back_of_dead

    taken_before = taken_slots(before)
    deadline = time.monotonic() + patience(_PATIENCE)
    while not give_back_of_dead(home, PREFECT_API_URL.value(), since):
        more = {name: n - taken_before.get(name, 0) for name, n in taken_slots(now()).items()}
        more = {name: number for name, number in more.items() if number > 0}
        if not more or time.monotonic() > deadline:
            item.user_properties += [(_LEFT, _told(*each)) for each in more.items()]
            return
        time.sleep(0.02)


def _told(limit: str, number: int) -> str:
    slots = f"{number} slots" if number > 1 else "1 slot"
    return (
        f"{slots} of the concurrency limit {limit!r} taken;"
        " release what the test takes, or no later test gets it"
    )
