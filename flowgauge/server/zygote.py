# SPDX-License-Identifier: Apache-2.0
"""The zygote: a process that preloads Prefect's server and forks one for each pytest run.

A pytest run holds a connection to it. For each connection the zygote forks a supervisor, which
forks the server and waits. When the connection closes, however pytest ended, the supervisor ends
the server and removes the run's folder.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from flowgauge.server.supervisor import forked, supervise

IDLE_SECONDS = 8 * 3600
"""How long a kept zygote waits for the next pytest run."""


def main() -> None:
    """Run a zygote; the arguments are the descriptors of its socket and its lock, -1 for no lock.

    A zygote with a lock stays when its last pytest run has gone.
    """
    descriptor, lock = map(int, sys.argv[1:3])
    listening = socket.socket(fileno=descriptor)
    import_server()
    gc.collect()
    # Objects that are never collected are never written to, so that forks share their memory.
    gc.freeze()
    keep_serving(listening, lock)


def import_server() -> None:
    """Import all that a server needs; exit if that starts a thread, as forking would be unsafe."""
    import prefect.server.api.server  # noqa: F401
    import uvicorn.lifespan.on
    import uvicorn.protocols.http.auto
    import uvicorn.protocols.websockets.auto  # noqa: F401

    import flowgauge.server.patches  # noqa: F401

    if _threads() > 1:
        sys.exit("flowgauge: importing Prefect's server started a thread; it can't be forked")


def _threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def keep_serving(listening: socket.socket, lock: int) -> None:
    """Fork a supervisor for each connection until there is nothing left to serve.

    Args:
        listening: The socket that pytest runs connect to.
        lock: The descriptor of a lock, held as long as this process lives: it then waits for the
            next run when the last has gone. -1 to end with the last run.
    """
    path = Path(listening.getsockname())
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    others = (listening.fileno(), woken.fileno(), wake.fileno(), lock)
    supervisors: set[int] = set()
    last_used = time.monotonic()
    while True:
        ready, _, _ = select.select([listening, woken], [], [], min(60, IDLE_SECONDS))
        if woken in ready:
            woken.recv(4096)
        supervisors -= _ended(supervisors)
        if listening in ready:
            connection, _ = listening.accept()
            supervisors.add(forked(supervise, connection, close=others))
            connection.close()
        elif not supervisors and (lock < 0 or time.monotonic() - last_used > IDLE_SECONDS):
            break
        elif not path.exists():
            # Nothing can connect any more.
            break
        if supervisors:
            last_used = time.monotonic()
    for leftover in (path, path.with_suffix(".pid"), path.with_suffix(".log")):
        leftover.unlink(missing_ok=True)
    if lock >= 0:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _ended(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0]}


if __name__ == "__main__":
    main()
