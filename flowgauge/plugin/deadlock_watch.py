# SPDX-License-Identifier: Apache-2.0
"""Ends a test whose tasks wait for each other for ever, and says which."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from flowgauge.compat.features import usable
from flowgauge.compat.names import DEADLOCK_WATCH
from flowgauge.plugin.session import is_stock, measures, run_home

DEADLOCKS = pytest.StashKey[list[str]]()
"""One line for each deadlock of a test, while it runs."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Watch the flows that fixtures run."""
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Watch the flows of the test."""
    return (yield from _watched(item))


def _watched(item: pytest.Item) -> Generator[None]:
    names = getattr(item, "fixturenames", ())
    is_timed = "benchmark" in names and measures(item.config)
    if "prefect_server" not in names or is_timed or is_stock(item.config):
        return (yield)
    if not usable(DEADLOCK_WATCH, run_home(item.config)):
        return (yield)
    from flowgauge.deadlocks.watch import watched

    with watched() as deadlocks:
        item.stash[DEADLOCKS] = deadlocks
        try:
            outcome = yield
        except Exception:
            if not deadlocks:
                raise
    if deadlocks:
        pytest.fail(deadlocks[0], pytrace=False)
    return outcome
