# SPDX-License-Identifier: Apache-2.0
"""What flowgauge patches in the process of the server."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect import flow, get_client, task
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from flowgauge.server.patches import queue_for_sqlite, take_back_leases
from flowgauge.waiting import wait_until

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration

LOCKED_SECONDS = 120


@task
def note(number: int) -> int:
    """Return a number."""
    return number


@flow
def notes() -> list[int]:
    """Run tasks whose events the server writes while the next flow run is created."""
    return list(note.map(range(5)).result())


def test_requests_queue_for_the_database(
    prefect_server: str, caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config
) -> None:
    """A server that is writing never answers the next flow run with "503, try again"."""
    if pytestconfig.getoption("flow_stock_harness"):
        pytest.skip("the stock harness's server does answer that, now and then")
    with caplog.at_level(logging.DEBUG, logger="prefect.client"):
        for _ in range(8):
            assert notes() == list(range(5))
    refused = [record.message for record in caplog.records if "retryable" in record.message]
    assert refused == []


@pytest.fixture
def queueing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AioSqliteConfiguration:
    """Return a separate database, with transactions as in the test server."""
    # Imported here, because it takes a second, which each collection of tests would spend.
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", stock)
    queue_for_sqlite()
    return AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/queueing.db", timeout=20)


async def failed_inserts(engine: AsyncEngine) -> list[object]:
    """Return cursors of two connections whose inserts were refused."""
    async with engine.connect() as one, engine.connect() as two:
        await one.execute(text("CREATE TABLE t (x UNIQUE)"))
        await one.execute(text("INSERT INTO t VALUES (1)"))
        await one.commit()
        cursors: list[object] = []
        for connection in (one, two):
            # This is how long the event loop would be blocked.
            await connection.execute(text(f"PRAGMA busy_timeout = {1000 * LOCKED_SECONDS}"))
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            cursor = await driver.cursor()
            with pytest.raises(sqlite3.IntegrityError):
                await cursor.execute("INSERT INTO t VALUES (1)")
            cursors.append(cursor)
    return cursors


def test_the_event_loop_never_waits_for_a_transaction(queueing: AioSqliteConfiguration) -> None:
    """A queued transaction gets its turn, even if a refused insert is garbage-collected first."""

    async def write(began: asyncio.Event) -> None:
        async with await queueing.session(await queueing.engine()) as session:
            began.set()
            async with queueing.begin_transaction(session):
                await session.execute(text("INSERT INTO t VALUES (2)"))

    async def written_after_a_collection() -> object:
        engine = await queueing.engine()
        cursors = await failed_inserts(engine)
        began = asyncio.Event()
        async with (
            await queueing.session(engine) as session,
            queueing.begin_transaction(session),
        ):
            await session.execute(text("SELECT 1"))
            waiting = asyncio.create_task(write(began))
            await began.wait()
            # Give it time to begin, if anything lets it.
            await asyncio.wait([waiting], timeout=0.3)
            # If it waits inside SQLite, this waits for it, and nothing can end the transaction.
            cursors.clear()
            gc.collect()
        await waiting
        async with await queueing.session(engine) as session:
            return await session.scalar(text("SELECT max(x) FROM t"))

    assert asyncio.run(written_after_a_collection()) == 2


def test_a_transaction_inside_another_does_not_wait_for_it(
    queueing: AioSqliteConfiguration,
) -> None:
    """A transaction may begin inside another one that has not executed a statement yet."""

    async def read() -> object:
        engine = await queueing.engine()
        async with (
            await queueing.session(engine) as one,
            queueing.begin_transaction(one),
            await queueing.session(engine) as two,
            queueing.begin_transaction(two),
        ):
            return await two.scalar(text("SELECT 1"))

    assert asyncio.run(asyncio.wait_for(read(), 60)) == 1


def test_leases_are_looked_at_in_an_ephemeral_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service that takes back expired leases runs, which it does not in stock Prefect."""
    from prefect.server.services import perpetual_services, repossessor

    [service] = [
        service
        for service in perpetual_services._PERPETUAL_SERVICES
        if service.function is repossessor.monitor_expired_leases
    ]
    assert service not in perpetual_services.get_enabled_perpetual_services(ephemeral=True)
    monkeypatch.setattr(service, "run_in_ephemeral", False)
    take_back_leases()
    assert service in perpetual_services.get_enabled_perpetual_services(ephemeral=True)


@pytest.mark.nightly
def test_a_lease_that_nobody_renews_is_taken_back(prefect_server: str) -> None:
    """A slot is free soon after its lease, here of a minute, in a test server, too."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("left", 1)
        client.increment_concurrency_slots_with_lease(["left"], 1, "concurrency", lease_duration=60)

        def taken() -> int:
            return client.read_global_concurrency_limit_by_name("left").active_slots

        assert taken() == 1
        wait_until(lambda: taken() == 0)
