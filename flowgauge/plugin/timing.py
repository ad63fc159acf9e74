# SPDX-License-Identifier: Apache-2.0
"""Prints one line on what a pytest run spent its time on, and how much it skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

_LOADED = time.perf_counter()


@dataclass
class Times:
    """Where the seconds of one pytest run went.

    Attributes:
        start_up: Seconds from loading the plugin to the end of collection.
        server: Seconds that tests waited for the server to start.
        flows: Seconds in tests that use the server, without their setup.
        skipped: Seconds that the virtual clock skipped.
    """

    start_up: float = 0
    server: float = 0
    flows: float = 0
    skipped: float = 0


TIMES = pytest.StashKey[Times]()


def times(config: pytest.Config) -> Times:
    """Return the times of a pytest run, to add to."""
    return config.stash.setdefault(TIMES, Times())


def format_duration(seconds: float) -> str:
    """Format a duration for people: 0.4 s, 73 s, 26 h 40 min, 3 days.

    Args:
        seconds: The duration.

    Returns:
        The duration in at most two units.
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    minutes, left = divmod(seconds, 60)
    if minutes < 120:
        return f"{minutes} min" + (f" {left} s" if left else "")
    hours, left = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {left} min" if left else "")
    days, left = divmod(hours, 24)
    return f"{days} days" + (f" {left} h" if left else "")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Record the start-up time, which ends when the tests are collected."""
    times(session.config).start_up = time.perf_counter() - _LOADED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Add the duration of a test that uses the server."""
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            times(item.config).flows += time.perf_counter() - start


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the times of a pytest-xdist worker to the controller."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["flowgauge_times"] = vars(times(session.config))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add up the times of all workers, except for the server's, which start concurrently."""
    sent = getattr(node, "workeroutput", {}).get("flowgauge_times")
    if sent is not None:
        total = times(node.config)
        total.server = max(total.server, sent["server"])
        total.flows += sent["flows"]
        total.skipped += sent["skipped"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the line, if a test used the server."""
    spent = times(terminalreporter.config)
    if spent.flows:
        terminalreporter.write_line(
            f"flowgauge: start-up {format_duration(spent.start_up)},"
            f" server {format_duration(spent.server)},"
            f" flows {format_duration(spent.flows)}, skipped {format_duration(spent.skipped)}"
        )
