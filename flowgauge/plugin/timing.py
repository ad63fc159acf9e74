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
        from flowgauge.report.model.formats import duration

        terminalreporter.write_line(
            f"flowgauge: start-up {duration(spent.start_up)}, server {duration(spent.server)},"
            f" flows {duration(spent.flows)}, skipped {duration(spent.skipped)}"
        )
