# SPDX-License-Identifier: Apache-2.0
"""Shows what the server was doing when pytest-timeout ends a test that hangs."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from flowgauge.plugin.session import what_the_server_does


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Ask the server for its stacks before pytest-timeout shows this process' and ends it.

    Args:
        item: The test.
        settings: Of pytest-timeout for this test.

    Returns:
        None where pytest-timeout ends the test in another way.
    """
    if settings.method != "thread":
        return None

    def end() -> None:
        import pytest_timeout

        if settings.disable_debugger_detection or not pytest_timeout.is_debugging():
            _tell(item)
        pytest_timeout.timeout_timer(item, settings)

    timer = threading.Timer(settings.timeout, end)

    def cancel() -> None:
        timer.cancel()
        timer.join()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    timer.start()
    return True


def _tell(item: pytest.Item) -> None:
    """Say what the server was doing, and let all that follows be seen."""
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.suspend_global_capture(item)
    if hasattr(item.config, "workerinput"):
        # A worker of pytest-xdist has no standard output; what it said would be lost.
        os.dup2(2, 1)
    terminal = item.config.get_terminal_writer()
    terminal.line()
    terminal.line(f"{item.nodeid} hangs")
    terminal.line(what_the_server_does(item.config))
    terminal.flush()
