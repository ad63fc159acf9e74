# SPDX-License-Identifier: Apache-2.0
"""Prints what the server was doing when pytest-timeout ends a test that hangs."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from flowgauge.plugin.session import what_the_server_does


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Print the server's stacks before pytest-timeout prints this process's and ends it.

    Args:
        item: The test.
        settings: pytest-timeout's settings for this test.

    Returns:
        True if the timer was set here; None leaves it to pytest-timeout.
    """
    if settings.method != "thread":
        return None

    def end() -> None:
        import pytest_timeout

        if settings.disable_debugger_detection or not pytest_timeout.is_debugging():
            _print_stacks(item)
        pytest_timeout.timeout_timer(item, settings)

    timer = threading.Timer(settings.timeout, end)

    def cancel() -> None:
        timer.cancel()
        timer.join()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    timer.start()
    return True


def _print_stacks(item: pytest.Item) -> None:
    """Print what the server is doing, and let all later output through."""
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.suspend_global_capture(item)
    if hasattr(item.config, "workerinput"):
        # A worker of pytest-xdist has no standard output, so the text would be lost.
        os.dup2(2, 1)
    terminal = item.config.get_terminal_writer()
    terminal.line()
    terminal.line(f"{item.nodeid} hangs")
    terminal.line(what_the_server_does(item.config))
    terminal.flush()
