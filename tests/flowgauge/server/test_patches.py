# SPDX-License-Identifier: Apache-2.0
"""The server's own process."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect import flow, task
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from flowgauge.server.patches import queue_for_sqlite

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
    """Flow runs in a row are never answered "503, try again" by a server that is writing."""
    if pytestconfig.getoption("flow_stock_harness"):
        pytest.skip("the stock harness's server does answer that, now and then")
    with caplog.at_level(logging.DEBUG, logger="prefect.client"):
        for _ in range(8):
            assert notes() == list(range(5))
    refused = [record.message for record in caplog.records if "retryable" in record.message]
    assert refused == []


@pytest.fixture
def queueing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AioSqliteConfiguration:
    """Give a database of its own, with transactions as in the test server."""
    # A second of imports, which would be spent wherever tests are collected.
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", stock)
    queue_for_sqlite()
    return AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/queueing.db", timeout=20)


async def failed_inserts(engine: AsyncEngine) -> list[object]:
    """Return cursors, each of another connection, whose inserts were refused."""
    async with engine.connect() as one, engine.connect() as two:
        await one.execute(text("CREATE TABLE t (x UNIQUE)"))
        await one.execute(text("INSERT INTO t VALUES (1)"))
        await one.commit()
        cursors: list[object] = []
        for connection in (one, two):
            # So long would the event loop stand still.
            await connection.execute(text(f"PRAGMA busy_timeout = {1000 * LOCKED_SECONDS}"))
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            cursor = await driver.cursor()
            with pytest.raises(sqlite3.IntegrityError):
                await cursor.execute("INSERT INTO t VALUES (1)")
            cursors.append(cursor)
    return cursors


def test_the_event_loop_never_waits_for_a_transaction(queueing: AioSqliteConfiguration) -> None:
    """A transaction in line is let in, though a refused insert is collected while it waits."""

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
            # It has the time to begin, if anything lets it.
            await asyncio.wait([waiting], timeout=0.3)
            # If one waits in SQLite, this waits for it, and nobody can end the transaction.
            cursors.clear()
            gc.collect()
        await waiting
        async with await queueing.session(engine) as session:
            return await session.scalar(text("SELECT max(x) FROM t"))

    assert asyncio.run(written_after_a_collection()) == 2


def test_a_transaction_inside_another_does_not_wait_for_it(
    queueing: AioSqliteConfiguration,
) -> None:
    """A second session that begins before the first one has asked for anything is let in."""

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
