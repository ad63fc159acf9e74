# SPDX-License-Identifier: Apache-2.0
"""How many task runs a second one server takes, on each database and with more and more clients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flowgauge.measure.server_load import Clients, find_limit
from flowgauge.plugin.paired import Paired
from flowgauge.plugin.session import measures
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row
from patterns.deployments.self_hosted_server import postgres, prefect_server

FIRST = 10.0
"""The rate to begin with, in task runs per second."""
SECONDS, BRIEFLY = 3.0, 0.3
"""For how long each rate is offered."""
CLIENTS = (1, 2, 4, 8)

pytestmark = pytest.mark.full


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Measure only in a full run, because it takes minutes; one client if nothing is timed."""
    timed = measures(metafunc.config)
    numbers = CLIENTS if timed else CLIENTS[:1]
    is_full = metafunc.config.getoption("flow_full") or not timed
    metafunc.parametrize("clients", numbers if is_full else ())


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Yield the name of a database, and the API address of a self-hosted server on it."""
    folder = tmp_path_factory.mktemp("load")
    with ExitStack() as stack:
        is_postgres = request.param == "PostgreSQL"
        url = stack.enter_context(postgres(folder / "data")) if is_postgres else None
        yield request.param, stack.enter_context(prefect_server(folder / "server", url))


def test_load(paired: Paired, server: tuple[str, str], clients: int, tmp_path: Path) -> None:
    """The rate up to which states are stored within a second and nothing is lost."""
    database, api = server
    paired.benchmark.group = Group.LOAD
    with Clients(api, tmp_path, clients) as running:
        if paired.benchmark.disabled:
            assert paired.benchmark.pedantic(running.offer, args=(FIRST, BRIEFLY)).lost == 0
            return
        paired.benchmark.pedantic(lambda: None)
        limit = find_limit(lambda rate: running.offer(rate, SECONDS), FIRST)
    is_open = math.isinf(limit.refused)
    refused = limit.taken if is_open else limit.refused
    labels: dict[str, Any] = {
        "group": Group.LOAD,
        "params": {"database": database, "clients": clients},
        "rounds": len(limit.steps),
    }
    paired.add(
        [
            Row(
                id="lost",
                figure="events, logs and states that were lost at the highest rate",
                unit="lost",
                value=Interval.exact(max(limit.steps, key=lambda step: step.sent).lost),
                **labels,
            ),
            Row(
                id="at-least" if is_open else "taken",
                figure="task runs per second whose states are stored within a second",
                unit="task runs/s",
                value=Interval(math.sqrt(limit.taken * refused), limit.taken, refused),
                **labels,
            ),
        ]
    )
