# SPDX-License-Identifier: Apache-2.0
"""The cost of a deployment: from trigger to start, the runs of one worker, and each database."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgauge.measure.deployed import Site
from flowgauge.measure.pairs import Rounds, noise_of
from flowgauge.plugin.paired import Paired
from flowgauge.results.rows import Group
from patterns.deployments.push_on_one_machine import hand_over, serverless
from patterns.deployments.self_hosted_server import postgres, prefect_server

WAYS = ("push", "serve", "worker")
AGAIN = "push, again"
QUEUED = 4
TRIGGERS = 2
AT_ONCE = 6
"""Flow runs at once; on SQLite twenty may take a minute, waiting for each other."""
DEPLOYMENTS: dict[str, Any] = {"group": Group.DEPLOYMENTS, "runner": None}


# Slow: the services in these benchmarks look for work every ten seconds.
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the servers, and of the flow that is deployed on one."""
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture(scope="module")
def on_sqlite(folder: Path) -> Iterator[str]:
    """Yield the API address of a self-hosted server on SQLite."""
    with prefect_server(folder / "sqlite") as api:
        yield api


@pytest.fixture(scope="module")
def on_postgres(folder: Path) -> Iterator[str]:
    """Yield the API address of a self-hosted server on PostgreSQL."""
    with postgres(folder / "data") as url, prefect_server(folder / "postgres", url) as api:
        yield api


@pytest.fixture(scope="module")
def deployed(on_sqlite: str, folder: Path) -> Iterator[tuple[Site, dict[str, str]]]:
    """Yield a flow on a server, and the ids of its deployments by what starts their runs."""
    token = secrets.token_urlsafe()
    with ExitStack() as stack:
        site = stack.enter_context(Site(on_sqlite, folder / "site"))
        home = {"PREFECT_HOME": str(folder / "site" / "home")}
        url = stack.enter_context(serverless(on_sqlite, token, settings=home))
        ids = {"push": site.deploy("pushed"), "worker": site.deploy("pulled", pool="process-pool")}
        with temporary_settings({PREFECT_API_URL: on_sqlite}):
            asyncio.run(hand_over(UUID(ids["push"]), url, token))
        stack.enter_context(site.running("flows.py"))
        stack.enter_context(site.running("-m", "prefect", "worker", "start", "-p", "process-pool"))
        ids["serve"] = site.find("served")
        # The first run pays for cold disk caches; when it has ended, all three are ready for runs.
        site.seconds_to_start(ids["push"])
        yield site, ids


def test_databases(paired: Paired, on_sqlite: str, on_postgres: str, folder: Path) -> None:
    """The cost of a flow run on PostgreSQL and on SQLite while others run at the same time."""
    at_once = paired.size(AT_ONCE)
    rounds = paired.size(paired.recorder.budget.min_rounds)
    with ExitStack() as stack:
        of_sqlite, of_postgres = (
            stack.enter_context(Site(api, folder / name))
            for api, name in ((on_sqlite, "on_sqlite"), (on_postgres, "on_postgres"))
        )
        seconds = [
            (of_postgres.seconds_at_once(at_once), of_sqlite.seconds_at_once(at_once))
            for _ in range(max(1, rounds // 16))
        ]
    ours, theirs = zip(*seconds, strict=True)
    paired.benchmark.pedantic(lambda: None)
    burst: dict[str, Any] = {
        "per": at_once,
        "figure": f"time per flow run where {at_once} run at once",
        "params": {"tasks": 1},
        **DEPLOYMENTS,
    }
    paired.keep(Rounds(theirs, ()), id="burst-sqlite", reference=None, **burst)
    paired.keep(Rounds(ours, theirs), id="burst-postgres", reference="the same on SQLite", **burst)


def test_trigger(paired: Paired, deployed: tuple[Site, dict[str, str]]) -> None:
    """The time from the trigger to the start of a flow run: pushed, served, pulled by a worker."""
    site, ids = deployed
    started = {**ids, AGAIN: ids["push"]}
    seconds: dict[str, list[float]] = {way: [] for way in (*WAYS, AGAIN)}
    for _ in range(TRIGGERS):
        for way, times in seconds.items():
            times.append(site.seconds_to_start(started[way]))
    paired.benchmark.pedantic(lambda: None)
    figure = "time from the trigger until the flow runs"
    pushed = tuple(seconds["push"])
    noise = Rounds(tuple(seconds[AGAIN]), pushed)
    paired.keep(noise, id="trigger-push", runner=None, figure=figure, **noise_of(Group.DEPLOYMENTS))
    for way in WAYS:
        reference = () if way == "push" else pushed
        paired.keep(
            Rounds(tuple(seconds[way]), reference),
            id=f"trigger-{way}",
            figure=figure,
            reference="the same pushed" if reference else None,
            params={},
            **DEPLOYMENTS,
        )


def test_runs_of_a_worker(paired: Paired, deployed: tuple[Site, dict[str, str]]) -> None:
    """The number of flow runs that one worker completes in a minute, when some are queued."""
    site, ids = deployed
    queued = paired.size(QUEUED)
    start = time.perf_counter()
    site.runs(ids["worker"], queued)
    seconds = time.perf_counter() - start
    paired.benchmark.pedantic(lambda: None)
    paired.keep(
        Rounds((seconds,), ()),
        per=queued,
        rate=True,
        id="runs-of-a-worker",
        figure="flow runs of one worker, from the trigger to the last end",
        reference=None,
        params={"runs": queued},
        **DEPLOYMENTS,
    )
