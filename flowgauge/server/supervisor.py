# SPDX-License-Identifier: Apache-2.0
"""The supervisor: a process for each pytest run that starts its server, ends it, and cleans up."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

from flowgauge.server.forked import ServerRequest, become_server

STOP_SECONDS = 5
"""Seconds that a server has to end by itself, as in Prefect's own harness."""
_REMOVE_SECONDS = 10


def supervise(connection: socket.socket) -> None:
    """Serve one pytest run until its connection closes, and remove everything it leaves.

    Args:
        connection: A stream of JSON lines. The pytest run sends a folder to remove at the end
            (`home`), the server to start (`start`), and signals for it (`send`). This process
            sends its own id when it is up (`supervisor`), the server's `pid` and `port`, and the
            server's exit code (`exited`).
    """
    _Supervisor(connection).run()


def forked(
    task: Callable[[socket.socket], None],
    argument: socket.socket,
    close: tuple[int, ...],
) -> int:
    """Run a function in a fork of this process.

    Args:
        task: The function; the fork ends when it returns.
        argument: The argument of the function.
        close: Descriptors that only this process needs.

    Returns:
        The process id of the fork.
    """
    if pid := os.fork():
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in close:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        task(argument)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    _exit(status)


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass
class _Supervisor:
    """One pytest run: its connection, its folder, and its server while there is one."""

    connection: socket.socket
    home: str = ""
    server: int = 0
    ended: socket.socket | None = None
    unread: bytes = b""

    def run(self) -> None:
        self._tell(supervisor=os.getpid())
        try:
            while self._wait():
                pass
        finally:
            self._stop_server()
            if self.home:
                _remove(self.home)

    def _wait(self) -> bool:
        """Wait for the next message or the end of the server, and handle it.

        Returns:
            Whether the pytest run continues.
        """
        sockets = [s for s in (self.connection, self.ended) if s is not None]
        ready, _, _ = select.select(sockets, [], [])
        if self.ended in ready:
            self._reap()
        if self.connection in ready:
            return self._read()
        return True

    def _read(self) -> bool:
        is_gone = False
        with contextlib.suppress(ConnectionError):
            while not is_gone and select.select([self.connection], [], [], 0)[0]:
                data = self.connection.recv(1 << 16)
                self.unread += data
                is_gone = not data
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if is_gone:
                # A run that was killed while the zygote was importing needs no server any more.
                message.pop("start", None)
            self._obey(**message)
        return not is_gone

    def _obey(
        self,
        home: str | None = None,
        start: dict[str, Any] | None = None,
        send: int | None = None,
    ) -> None:
        if home is not None:
            self.home = home
        if start is not None:
            self._start_server(ServerRequest(**start))
        if send is not None and self.server:
            os.kill(self.server, send)

    def _start_server(self, request: ServerRequest) -> None:
        self._stop_server()
        # asyncio disables Nagle's algorithm only on sockets whose protocol says TCP.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
            # For the stand-in that answers on this port if the server is killed.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Bound here, so that no other process can take the port before the server does.
            listening.bind(("127.0.0.1", 0))
            listening.listen(2048)
            self.ended, alive = socket.socketpair()
            port = listening.getsockname()[1]

            def serve(listening: socket.socket) -> None:
                become_server(request, listening)

            others = (self.connection.fileno(), self.ended.fileno())
            self.server = forked(serve, listening, close=others)
            # Now only the server holds it, so it closes when the server ends.
            alive.close()
        self._tell(pid=self.server, port=port)

    def _reap(self) -> None:
        _, status = os.waitpid(self.server, 0)
        # The server leads a process group; whatever it started ends with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.server, signal.SIGKILL)
        self.server, self.ended = 0, None
        self._tell(exited=os.waitstatus_to_exitcode(status))

    def _stop_server(self) -> None:
        if self.ended is not None:
            os.kill(self.server, signal.SIGTERM)
            if not select.select([self.ended], [], [], STOP_SECONDS)[0]:
                os.kill(self.server, signal.SIGKILL)
            self._reap()

    def _tell(self, **message: int) -> None:
        # If the run has gone, the next read says so.
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")


def _remove(folder: str) -> None:
    """Remove a run's folder; until orphaned workers end, they may write to it or recreate it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < deadline:
        orphaned = _has_orphans(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if not orphaned and not Path(folder).exists():
            return
        time.sleep(0.2)


def _has_orphans(folder: str) -> bool:
    """Return whether processes of a pytest run are left, as far as can be seen."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Zygotes and supervisors have the environment of some run too.
            another = os.getsid(process.pid) != os.getsid(0)
            if another and process.environ().get("PREFECT_HOME") == folder:
                return True
    return False
