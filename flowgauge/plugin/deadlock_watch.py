# SPDX-License-Identifier: Apache-2.0
"""Ends a test that waits for ever, and says for what."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from flowgauge.compat.features import usable
from flowgauge.compat.names import DEADLOCK_WATCH, STUCK_SLOTS, VAIN_WAITS
from flowgauge.plugin.session import existing_api, is_stock, measures, run_home

DEADLOCKS = pytest.StashKey[list[str]]()
"""One line for each deadlock of a test, while it runs."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Watch the flows that fixtures run."""
    # The server may not have been started yet.
    return (yield from _watched(item, knows_server=False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Watch the flows of the test."""
    return (yield from _watched(item, knows_server=True))


def _watched(item: pytest.Item, *, knows_server: bool) -> Generator[None]:
    names = getattr(item, "fixturenames", ())
    is_timed = "benchmark" in names and measures(item.config)
    if "prefect_server" not in names or is_timed or is_stock(item.config):
        return (yield)
    home = run_home(item.config)
    if not usable(DEADLOCK_WATCH, home):
        return (yield)
    from prefect.settings import PREFECT_API_URL

    from flowgauge.deadlocks.watch import watched

    # Anybody may execute the runs of a server that exists.
    knows_all = knows_server and not existing_api(item.config)
    api_url = PREFECT_API_URL.value() if knows_all and usable(VAIN_WAITS, home) else None
    slots_of = home if knows_server and usable(STUCK_SLOTS, home) else None
    with watched(slots_of=slots_of, api_url=api_url) as deadlocks:
        item.stash[DEADLOCKS] = deadlocks
        try:
            outcome = yield
        except Exception:
            if not deadlocks:
                raise
    if deadlocks:
        pytest.fail(deadlocks[0], pytrace=False)
    return outcome
