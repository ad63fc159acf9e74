# SPDX-License-Identifier: Apache-2.0
"""What the harness works around still exists: if a test here fails, its workaround can go."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite
import httpx
import prefect.client.orchestration
import prefect.flow_engine
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import SettingsContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

# Like facts about Prefect, they change with its version, which is pinned in all other suites.
pytestmark = pytest.mark.nightly


@task
def nothing() -> None:
    """Do nothing."""


def test_the_heartbeats_of_a_flow_run_come_from_a_thread_that_sleeps_in_steps(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow run's heartbeats are sent by a thread that sleeps a second at a time (#19641).

    Therefore flow runs on the test server send none (`flowgauge/server/harness.py`).
    """
    slept: list[float] = []

    class Clock(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    clock = Clock("time")
    clock.sleep = slept.append  # type: ignore[attr-defined]
    monkeypatch.setattr(prefect.flow_engine, "time", clock)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        flow(nothing.fn)()
    assert set(slept) == {1}


def test_each_client_asks_for_a_csrf_token(prefect_server: str) -> None:
    """Each client asks for a CSRF token, even if the server has none.

    Therefore the clients of a pytest run are configured not to (`flowgauge/server/harness.py`).
    """
    asked: list[str] = []

    class Recorded(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return super().handle_request(request)

    with temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True}):
        for _ in range(2):
            with SyncPrefectClient(
                PREFECT_API_URL.value(), httpx_settings={"transport": Recorded()}
            ) as client:
                client.create_flow_from_name("asked")
    assert [path for path in asked if path.endswith("csrf-token")] == ["/api/csrf-token"] * 2


def test_each_client_reads_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client makes its own TLS context, which takes about 20 ms (#19106 would share one).

    Therefore the clients of a pytest run share one (`flowgauge/compat/repeated_work.py`).
    """
    read: list[object] = []
    stock = ssl.create_default_context

    def create(*given: Any, **named: Any) -> ssl.SSLContext:
        read.append(named)
        return stock(*given, **named)

    # The clients of the pytest run itself may already share one.
    module = types.SimpleNamespace(**vars(ssl) | {"create_default_context": create})
    monkeypatch.setattr(prefect.client.orchestration, "ssl", module)
    for _ in range(2):
        SyncPrefectClient("http://127.0.0.1/api")
    assert len(read) == 2


def test_unchanged_settings_are_serialized_again(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All settings are serialized for each flow run, and from 3.9 on for each task it submits.

    That takes about 20 ms. Therefore a pytest run serializes them again only if they changed
    (`flowgauge/compat/repeated_work.py`).
    """
    written: list[object] = []
    stock = SettingsContext.serialize

    def serialize(self: SettingsContext, *given: Any, **named: Any) -> dict[str, Any]:
        written.append(self)
        return stock(self, *given, **named)

    monkeypatch.setattr(SettingsContext, "serialize", serialize)

    pool: TaskRunner[Any] = ProcessPoolTaskRunner(max_workers=1)

    @flow(task_runner=pool)
    def one_task() -> None:
        nothing.submit().wait()

    for _ in range(2):
        one_task()
    assert len(written) == 2


def test_a_transaction_cannot_write_after_another_one_wrote(tmp_path: Path) -> None:
    """A transaction that read before another one wrote can't write: "database is locked" (#18934).

    Therefore transactions of the test server wait for each other (`flowgauge/server/patches.py`).
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    async def write_after_another() -> None:
        database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/locked.db", timeout=0)
        engine = await database.engine()
        one, two = await database.session(engine), await database.session(engine)
        async with one, two:
            async with database.begin_transaction(two, with_for_update=True):
                await two.execute(text("CREATE TABLE t (x)"))
            async with database.begin_transaction(one):
                await one.execute(text("SELECT * FROM t"))
                async with database.begin_transaction(two):
                    await two.execute(text("INSERT INTO t VALUES (2)"))
                await one.execute(text("INSERT INTO t VALUES (1)"))

    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(write_after_another())


def test_sqlite_is_called_in_another_thread(tmp_path: Path) -> None:
    """Each statement of the server's database is handed over to a thread of its connection.

    Therefore the test server calls SQLite in its event loop (`flowgauge/server/in_loop.py`).
    """

    async def by_another_thread() -> bool:
        async with aiosqlite.connect(tmp_path / "test.db") as connection:
            await connection.create_function("thread", 0, threading.get_ident)
            async with connection.execute("SELECT thread()") as cursor:
                row = await cursor.fetchone()
        return row != (threading.get_ident(),)

    assert asyncio.run(by_another_thread())


class Server:
    """A stand-in for the server of Prefect's harness, which counts how often it was stopped."""

    _instances: ClassVar[dict[object, object]] = {}
    api_url = "http://127.0.0.1/api"

    def __init__(self, port: int) -> None:
        self.stopped = 0
        made.append(self)

    def start(self, timeout: float) -> None:
        """Start."""

    def stop(self) -> None:
        """Stop."""
        self.stopped += 1


made: list[Server] = []


def test_an_interrupted_harness_leaves_its_server_and_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prefect's harness has no `finally`, and removes its folder when the process ends.

    Therefore a pytest run stops the server and uses its own folder (`flowgauge/server/harness.py`).
    """
    from prefect.testing import utilities

    folder, at_the_end = tmp_path / "prefect", []
    folder.mkdir()
    monkeypatch.setattr(utilities, "SubprocessASGIServer", Server)
    monkeypatch.setattr(utilities, "mkdtemp", lambda: str(folder))
    register = types.SimpleNamespace(register=lambda *call: at_the_end.append(call))
    monkeypatch.setattr(utilities, "atexit", register)
    with pytest.raises(ZeroDivisionError), utilities.prefect_test_harness():
        raise ZeroDivisionError
    assert [server.stopped for server in made] == [0]
    assert folder.exists()
    assert [call[1:] for call in at_the_end] == [(str(folder),)]
