# SPDX-License-Identifier: Apache-2.0
"""What changes inside the test server's process; uvicorn calls it for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

LOOP_FACTORY = f"{__name__}:event_loop"
"""For uvicorn's `--loop` or `UVICORN_LOOP`: it is called before the server is imported."""


def event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, once the server's transactions queue for SQLite."""
    _queue_for_sqlite()
    return asyncio.new_event_loop()


def _queue_for_sqlite() -> None:
    """Let every transaction wait for the one before it.

    Prefect begins a transaction that will write as one that only reads. If another one writes
    before it does, SQLite can't let it write any more (SQLITE_BUSY_SNAPSHOT); the request is
    answered 503, and the client waits two seconds before it tries again (Prefect #18934).
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AsyncIterator[Any]:
        async with stock(self, session, with_for_update=True) as transaction:
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign]
