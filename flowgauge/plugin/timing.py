# SPDX-License-Identifier: Apache-2.0
"""The line that says what a test run spent its time on, and how much it skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

_LOADED = time.perf_counter()


@dataclass
class Times:
    """Seconds of one pytest run.

    Attributes:
        start_up: From loading the plugin to the end of collection.
        server: How long tests waited for the server to start.
        flows: In tests that use the server, without setting them up.
        skipped: Virtual seconds that nobody waited for.
    """

    start_up: float = 0
    server: float = 0
    flows: float = 0
    skipped: float = 0


TIMES = pytest.StashKey[Times]()


def times(config: pytest.Config) -> Times:
    """Return the times of a run, to add to."""
    return config.stash.setdefault(TIMES, Times())


def spelled(seconds: float) -> str:
    """Return a length of time as people say it: 0.4 s, 73 s, 26 h 40 min, 3 days.

    Args:
        seconds: How long.

    Returns:
        Two units at most.
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
    """Note when the tests are known."""
    times(session.config).start_up = time.perf_counter() - _LOADED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note how long a test that uses the server takes."""
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            times(item.config).flows += time.perf_counter() - start


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the times of a worker of pytest-xdist to where the line is written."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["flowgauge_times"] = vars(times(session.config))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add up the tests of all workers; they start at the same time."""
    sent = getattr(node, "workeroutput", {}).get("flowgauge_times")
    if sent is not None:
        all_of_them = times(node.config)
        all_of_them.server = max(all_of_them.server, sent["server"])
        all_of_them.flows += sent["flows"]
        all_of_them.skipped += sent["skipped"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the line, if a test used the server."""
    spent = times(terminalreporter.config)
    if spent.flows:
        terminalreporter.write_line(
            f"flowgauge: start-up {spelled(spent.start_up)}, server {spelled(spent.server)},"
            f" flows {spelled(spent.flows)}, skipped {spelled(spent.skipped)}"
        )
