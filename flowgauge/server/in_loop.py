# SPDX-License-Identifier: Apache-2.0
"""Short calls that the server makes in its event loop instead of in other threads.

Each SQL statement is four calls of SQLite, which aiosqlite makes in a thread, and fastapi calls
functions that are not async in a pool of threads. To hand over a call takes longer than the call.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any

LOCKED_SECONDS = 60.0
"""How long a statement waits for a lock; Prefect tells SQLite to wait as long."""


def call_sqlite_in_loop() -> None:
    """Execute the statements of the server's SQLite connections in its event loop.

    The loop must not wait inside SQLite: what it waits for may need the loop to end. Statements
    that find the database locked are therefore repeated, and others run meanwhile.
    """
    from aiosqlite.core import Connection

    async def execute(
        self: Connection, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> object:
        if not self._running or not self._connection:
            raise ValueError("Connection closed")
        if args and str(args[0]).startswith("PRAGMA busy_timeout"):
            args = ("PRAGMA busy_timeout = 0", *args[1:])
        deadline = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                return call(*args, **kwargs)
            except sqlite3.OperationalError as error:
                # Not SQLITE_BUSY_SNAPSHOT, which stays however long one waits; errors that Python's
                # own module finds have no code.
                busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.002)

    Connection._execute = execute  # type: ignore[method-assign, assignment]


def call_dependencies_in_loop() -> None:
    """Call the functions that requests depend on in the event loop; none of Prefect's is slow."""
    from fastapi.dependencies import utils

    async def call(function: Callable[..., Any], **arguments: Any) -> object:
        return function(**arguments)

    utils.run_in_threadpool = call  # type: ignore[attr-defined, assignment]
