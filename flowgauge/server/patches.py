# SPDX-License-Identifier: Apache-2.0
"""What changes inside the test server's process; uvicorn calls it for an event loop."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flowgauge.clock.engine import follow_time
from flowgauge.compat.features import usable
from flowgauge.compat.names import QUEUED_TRANSACTIONS

LOOP_FACTORY = f"{__name__}:event_loop"
"""For uvicorn's `--loop` or `UVICORN_LOOP`: it is called before the server is imported."""
STOCK_LOOP_FACTORY = f"{__name__}:stock_event_loop"
"""The same for a server that is to be as Prefect ships it."""


def event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, once the server's transactions queue for SQLite."""
    if usable(QUEUED_TRANSACTIONS, Path(os.environ["PREFECT_HOME"])):
        queue_for_sqlite()
    # Asked for by whoever finds the server wedged; what it prints goes to the server's log.
    faulthandler.register(signal.SIGUSR1)
    return _followed_event_loop(home=None)


def stock_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop in a process that clears up when its test run was killed."""
    return _followed_event_loop(os.environ["PREFECT_HOME"])


def _followed_event_loop(home: str | None) -> asyncio.AbstractEventLoop:
    follow_time(os.environ["PREFECT_HOME"])
    threading.Thread(
        target=_end_with, args=(os.getppid(), home), name="flowgauge-parent", daemon=True
    ).start()
    return asyncio.new_event_loop()


def _end_with(parent: int, home: str | None) -> None:
    """End this process soon after its parent, and remove the run's folder if there is one."""
    while os.getppid() == parent:
        time.sleep(1)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)
    os._exit(1)


def queue_for_sqlite() -> None:
    """Let every transaction wait for the one before it.

    Prefect begins a transaction that will write as one that only reads. If another one writes
    before it does, SQLite can't let it write any more (SQLITE_BUSY_SNAPSHOT); the request is
    answered 503, and the client waits two seconds before it tries again (Prefect #18934).

    They wait in the event loop. A connection that waits in SQLite is locked, and a statement of
    it that had failed (an insert that was refused, which Prefect counts on) is reset when its
    exception is garbage collected: the event loop would wait for the connection, which waits for
    the transaction that only the event loop can end.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction
    turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
    inside: set[asyncio.Task[Any] | None] = set()

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AsyncIterator[Any]:
        this = asyncio.current_task()
        if this in inside:
            # One inside another can't wait until that one is over.
            async with stock(self, session, with_for_update=True) as transaction:
                yield transaction
            return
        async with turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            inside.add(this)
            try:
                async with stock(self, session, with_for_update=True) as transaction:
                    yield transaction
            finally:
                inside.remove(this)

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign]
