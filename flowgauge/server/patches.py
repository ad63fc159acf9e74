# SPDX-License-Identifier: Apache-2.0
"""Changes inside the test server's process, made when uvicorn calls for an event loop."""

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
from flowgauge.compat.names import (
    CALLS_IN_LOOP,
    EVENTS_WHEN_AWAITED,
    QUEUED_TRANSACTIONS,
    REPOSSESSOR,
)
from flowgauge.observe.sent import Sent
from flowgauge.server.in_loop import call_dependencies_in_loop, call_sqlite_in_loop

LOOP_FACTORY = f"{__name__}:event_loop"
"""For uvicorn's `--loop` or `UVICORN_LOOP`, which is called before the server is imported."""
STOCK_LOOP_FACTORY = f"{__name__}:stock_event_loop"
"""The same for a server as Prefect ships it."""


def event_loop() -> asyncio.AbstractEventLoop:
    """Make transactions queue and short calls stay in the event loop, and return a new one."""
    home = Path(os.environ["PREFECT_HOME"])
    if usable(QUEUED_TRANSACTIONS, home):
        queue_for_sqlite()
    if usable(CALLS_IN_LOOP, home):
        call_sqlite_in_loop()
        call_dependencies_in_loop()
    if usable(EVENTS_WHEN_AWAITED, home):
        write_awaited_events(Sent(home))
    if usable(REPOSSESSOR, home):
        take_back_leases()
    # Sent by processes that find the server stuck; the stacks are printed to the server's log.
    faulthandler.register(signal.SIGUSR1)
    return _followed_event_loop(home=None)


def stock_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, in a process that cleans up if its pytest run is killed."""
    return _followed_event_loop(os.environ["PREFECT_HOME"])


def _followed_event_loop(home: str | None) -> asyncio.AbstractEventLoop:
    follow_time(os.environ["PREFECT_HOME"])
    threading.Thread(
        target=_end_with, args=(os.getppid(), home), name="flowgauge-parent", daemon=True
    ).start()
    return asyncio.new_event_loop()


def _end_with(parent: int, home: str | None) -> None:
    """End this process soon after its parent, and remove the folder of the run if given."""
    while os.getppid() == parent:
        time.sleep(1)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)
    os._exit(1)


def queue_for_sqlite() -> None:
    """Make every transaction wait for the previous one.

    Prefect begins a transaction that will write as a read transaction. If another one writes
    first, SQLite can't let it write any more (SQLITE_BUSY_SNAPSHOT); the request is answered with
    503, and the client waits two seconds before it retries (Prefect #18934).

    Transactions wait in the event loop, not in SQLite. A connection that waits in SQLite is
    locked, and a failed statement of it (such as a refused insert, which Prefect relies on) is
    reset when its exception is garbage collected: the event loop would wait for the connection,
    which waits for the transaction that only the event loop can end.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction
    locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
    in_transaction: set[asyncio.Task[Any] | None] = set()

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        if task in in_transaction:
            # A nested transaction can't wait until the outer one is over.
            async with stock(self, session, with_for_update=True) as transaction:
                yield transaction
            return
        async with locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            in_transaction.add(task)
            try:
                async with stock(self, session, with_for_update=True) as transaction:
                    yield transaction
            finally:
                in_transaction.remove(task)

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign]


def take_back_leases() -> None:
    """Run the service that takes slots back whose leases are over, every 15 seconds.

    In an ephemeral server it does not run, and the slot of a killed process stays taken.
    """
    from prefect.server.services import perpetual_services, repossessor

    for service in perpetual_services._PERPETUAL_SERVICES:
        if service.function is repossessor.monitor_expired_leases:
            service.run_in_ephemeral = True


def write_awaited_events(sent: Sent) -> None:
    """Write events to the database as they arrive while a test waits for them.

    Prefect writes them once there are hundreds, or after seconds.

    Args:
        sent: Says whether a test waits.
    """
    from prefect.server.events.services import event_persister

    stock = event_persister.create_handler

    class BatchSize(int):
        """The number of events to write at once; an int is first asked for its own comparison."""

        def __le__(self, number: int) -> bool:
            return sent.awaited or int(self) <= number

    def create_handler(*, batch_size: int, **settings: Any) -> Any:
        return stock(batch_size=BatchSize(batch_size), **settings)

    event_persister.create_handler = create_handler  # type: ignore[assignment]
