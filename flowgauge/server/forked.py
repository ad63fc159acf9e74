# SPDX-License-Identifier: Apache-2.0
"""What a process forked from the zygote does to become a server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flowgauge.compat.features import usable
from flowgauge.compat.names import DATABASE_TEMPLATE
from flowgauge.server.template import cache_folder, copy_template

DATABASE_URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_SQLITE = "sqlite+aiosqlite:///"


@dataclass(frozen=True)
class ServerRequest:
    """A pytest run's request for a server.

    Attributes:
        environment: All environment variables of the server's process.
        folder: Its working directory.
        log: The file that its output goes to.
        database: Its SQLite file, which does not exist yet.
    """

    environment: dict[str, str]
    folder: str
    log: str
    database: str


def become_server(request: ServerRequest, listening: socket.socket) -> None:
    """Serve Prefect's API from a new database, as the command that Prefect runs would.

    Args:
        request: The server to become.
        listening: The socket to serve on; requests wait there until the server is up.
    """
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    _print_to(Path(request.log))
    os.chdir(request.folder)
    # The zygote's cache: pytest runs that share a zygote share a template too.
    cache = cache_folder()
    os.environ.clear()
    os.environ.update(request.environment)
    os.environ[DATABASE_URL] = _SQLITE + request.database
    time.tzset()
    Path(request.database).parent.mkdir(exist_ok=True)
    _start_from_template(cache, Path(request.database))
    from flowgauge.server.isolation import forget_user_settings

    # The zygote read its own settings when it imported Prefect.
    forget_user_settings()
    _serve(listening)


def _serve(listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=listening.getsockname()[1],
        loop=os.environ["UVICORN_LOOP"],
        log_level="error",
        lifespan="on",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    if not server.started:
        raise SystemExit(3)


def _print_to(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _start_from_template(cache: Path, database: Path) -> None:
    home = Path(os.environ["PREFECT_HOME"])
    if usable(DATABASE_TEMPLATE, home) and copy_template(cache, database, _migrate_in_a_fork):
        os.environ["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = "false"
        # Blocks are registered in the template already; it would take most of a second.
        os.environ["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"
        os.environ["PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION"] = "false"


def _migrate_in_a_fork(database: Path) -> None:
    """Migrate a new database as a server does, in a fork so that this process is unaffected."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _migrate(database)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, wait_status = os.waitpid(pid, 0)
    if wait_status:
        raise OSError(f"{database}: the migrations failed (status {wait_status})")


def _migrate(database: Path) -> None:
    os.environ[DATABASE_URL] = _SQLITE + str(database)
    from flowgauge.server.isolation import forget_user_settings

    forget_user_settings()
    import prefect.plugins
    from prefect.server.database import provide_database_interface
    from prefect.server.models.block_registration import run_block_auto_registration

    async def fill() -> None:
        interface = provide_database_interface()
        await interface.create_db()
        session = await interface.session()
        async with session:
            await run_block_auto_registration(session=session)

    prefect.plugins.load_prefect_collections()
    asyncio.run(fill())
