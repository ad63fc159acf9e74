# SPDX-License-Identifier: Apache-2.0
"""What the harness works around is still so: where a test here fails, its workaround can go."""

from __future__ import annotations

import asyncio
import ssl
import time
import types
from pathlib import Path
from typing import Any, ClassVar

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


@task
def nothing() -> None:
    """Do nothing."""


def test_a_flow_run_with_heartbeats_ends_by_waiting_in_steps(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow run's heartbeats are sent by a thread that sleeps a second at a time (#19641).

    So the test server's flow runs have none (`flowgauge/server/harness.py`).
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


def test_a_client_asks_for_a_token_that_there_is_not(prefect_server: str) -> None:
    """Each client asks for a CSRF token first, also of a server that has none.

    So the test run's clients are told not to (`flowgauge/server/harness.py`).
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


def test_each_client_reads_whom_it_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client makes a TLS context of its own, in some 20 ms (#19106 would share one).

    So clients of a test run share one (`flowgauge/compat/repeated_work.py`).
    """
    read: list[object] = []
    stock = ssl.create_default_context

    def create(*given: Any, **named: Any) -> ssl.SSLContext:
        read.append(named)
        return stock(*given, **named)

    # The test run's own clients may share one already.
    module = types.SimpleNamespace(**vars(ssl) | {"create_default_context": create})
    monkeypatch.setattr(prefect.client.orchestration, "ssl", module)
    for _ in range(2):
        SyncPrefectClient("http://127.0.0.1/api")
    assert len(read) == 2


def test_unchanged_settings_are_written_again(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All settings are written for each flow run, and from 3.9 on for each task that it submits.

    That takes some 20 ms. So a test run writes them again only where they changed
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


def test_a_transaction_that_will_write_begins_as_one_that_reads(tmp_path: Path) -> None:
    """One that read before another wrote can't write any more: "database is locked" (#18934).

    So transactions of the test server wait for each other (`flowgauge/server/patches.py`).
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


class Server:
    """What Prefect's harness takes for its server, and how often it was stopped."""

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


def test_a_harness_that_is_broken_off_leaves_its_server_and_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prefect's harness has no `finally`, and removes its folder when the process ends.

    So a test run stops the server and gives a folder of its own (`flowgauge/server/harness.py`).
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
