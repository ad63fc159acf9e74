# SPDX-License-Identifier: Apache-2.0
"""Calls that the test server makes in its event loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies import utils

from flowgauge.server import in_loop
from flowgauge.waiting import patience

INSERT = "INSERT INTO t VALUES (1)"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a database with a table; statements are executed as in the test server."""
    monkeypatch.setattr(aiosqlite.core.Connection, "_execute", aiosqlite.core.Connection._execute)
    in_loop.call_sqlite_in_loop()
    path = tmp_path / "test.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return path


@asynccontextmanager
async def two_connections(
    path: Path,
) -> AsyncIterator[tuple[aiosqlite.Connection, aiosqlite.Connection]]:
    """Connect twice as Prefect does, which begins its transactions itself."""
    async with (
        aiosqlite.connect(path, check_same_thread=False, isolation_level=None) as one,
        aiosqlite.connect(path, check_same_thread=False, isolation_level=None) as two,
    ):
        for connection in (one, two):
            await connection.execute(f"PRAGMA busy_timeout = {1000 * patience():.0f};")
        yield one, two


async def number(connection: aiosqlite.Connection) -> object:
    """Return the number of rows."""
    async with connection.execute("SELECT count(*) FROM t") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


def test_statements_are_executed_in_the_event_loop(path: Path) -> None:
    """A statement is executed by the thread of the event loop, and its rows are read there."""

    async def threads() -> tuple[object, int]:
        async with aiosqlite.connect(path, check_same_thread=False) as connection:
            await connection.create_function("thread", 0, threading.get_ident)
            async with connection.execute("SELECT thread()") as cursor:
                row = await cursor.fetchone()
        assert row is not None
        return row[0], threading.get_ident()

    executed_by, loop = asyncio.run(threads())
    assert executed_by == loop


def test_a_locked_database_is_waited_for_outside_sqlite(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement waits for the transaction of another connection, and the event loop goes on."""
    # Over if it has once waited inside SQLite.
    monkeypatch.setattr(in_loop, "LOCKED_SECONDS", patience() / 2)

    async def written() -> object:
        async with two_connections(path) as (one, two):
            await one.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(two.execute(INSERT))
            # Several of its attempts fail, unless it blocks the loop.
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
            await one.execute(INSERT)
            await one.execute("COMMIT")
            await asyncio.wait_for(waiting, patience())
            return await number(one)

    assert asyncio.run(written()) == 2


def test_a_lock_that_stays_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that still finds the database locked in the end raises SQLite's error."""
    monkeypatch.setattr(in_loop, "LOCKED_SECONDS", 0)

    async def refused() -> None:
        async with two_connections(path) as (one, two):
            await one.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match=r"^database is locked$"):
                await asyncio.wait_for(two.execute(INSERT), patience())

    asyncio.run(refused())


def test_a_snapshot_that_is_out_of_date_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that has read what is no longer so raises at once: it can never write."""
    monkeypatch.setattr(in_loop, "LOCKED_SECONDS", 10 * patience())

    async def refused() -> int:
        async with two_connections(path) as (one, two):
            await one.execute("BEGIN DEFERRED")
            await number(one)
            await two.execute(INSERT)
            with pytest.raises(sqlite3.OperationalError) as error:
                await asyncio.wait_for(one.execute(INSERT), patience())
        return error.value.sqlite_errorcode

    assert asyncio.run(refused()) == sqlite3.SQLITE_BUSY_SNAPSHOT


def test_an_error_of_python_is_raised_as_it_is(path: Path) -> None:
    """An error that Python's module finds itself, and that has no code of SQLite, is unchanged."""

    async def refused() -> None:
        async with (
            aiosqlite.connect(path, check_same_thread=False) as connection,
            connection.execute("SELECT CAST(x'ff' AS TEXT)") as cursor,
        ):
            with pytest.raises(sqlite3.OperationalError, match="Could not decode to UTF-8"):
                await cursor.fetchone()

    asyncio.run(refused())


def test_a_closed_connection_is_an_error(path: Path) -> None:
    """A cursor of a closed connection raises aiosqlite's error, which SQLAlchemy expects."""

    async def refused() -> None:
        async with aiosqlite.connect(path, check_same_thread=False) as connection:
            cursor = await connection.cursor()
        with pytest.raises(ValueError, match=r"^Connection closed$"):
            await cursor.execute(INSERT)

    asyncio.run(refused())


def test_dependencies_are_called_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that a request depends on is called by the event loop's thread."""
    # Restored afterwards.
    monkeypatch.setattr(utils, "run_in_threadpool", utils.__dict__["run_in_threadpool"])
    in_loop.call_dependencies_in_loop()
    app = FastAPI()

    def called_by(offset: int = 0) -> int:
        return threading.get_ident() + offset

    @app.get("/")
    async def differ(thread: int = Depends(called_by)) -> int:
        return thread - threading.get_ident()

    async def answer() -> object:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test"
        ) as client:
            return (await client.get("/?offset=3")).json()

    assert asyncio.run(answer()) == 3


PRINT = """
import aiosqlite.core, fastapi.dependencies.utils
from flowgauge.server import patches
for event_loop in (patches.stock_event_loop, patches.event_loop):
    event_loop()
    print(aiosqlite.core.Connection._execute.__module__)
    print(fastapi.dependencies.utils.run_in_threadpool.__module__)
"""


def test_only_the_test_server_is_changed(tmp_path: Path) -> None:
    """The server of tests makes both kinds of calls in its loop, that of benchmarks neither."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=patience(),
    )
    stock, ours = ["aiosqlite.core", "starlette.concurrency"], ["flowgauge.server.in_loop"] * 2
    assert done.stdout.split() == [*stock, *ours], done.stderr
