# SPDX-License-Identifier: Apache-2.0
"""A pytest run's hold on a zygote, and on the server that the zygote forked for it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowgauge.server.forked import ServerRequest
from flowgauge.server.identity import code_identity

ZYGOTE = "FLOWGAUGE_ZYGOTE"
"""Where processes that a run starts (those of pytest-xdist, for instance) find its zygote."""
_END_SECONDS = 20
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Lease:
    """A connection to a zygote; when it closes, its server ends.

    When it closes because this process was killed, the run's folder is removed, too.

    Attributes:
        connection: To the supervisor of this run.
        socket_path: Where the zygote listens.
        log: What the zygote prints.
        zygote: The zygote's process, where it ends with this run.
    """

    connection: socket.socket
    socket_path: Path
    log: Path
    zygote: subprocess.Popen[bytes] | None = None
    _spoke: bool = False
    _unread: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, **message: Any) -> None:
        """Tell the supervisor something; where it is gone, `receive` says so."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> list[dict[str, int]] | None:
        """Return what the supervisor tells, at the latest after so many seconds.

        Returns:
            Messages; None if the supervisor is gone.
        """
        with self._lock:
            if not select.select([self.connection], [], [], timeout)[0]:
                return []
            try:
                data = self.connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                return None
            self._spoke = True
            *lines, self._unread = (self._unread + data).split(b"\n")
            return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End what was leased, and wait for the zygote where it ends with this run.

        The folder of the run stays: this process is there to remove it.
        """
        self.send(home="")
        if self.zygote is None:
            self.connection.close()
            return
        if not self._spoke and not self.receive(0):
            # It is importing, and would notice only later that the run has gone.
            self.zygote.terminate()
        self.connection.close()
        try:
            self.zygote.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.zygote.kill()
            self.zygote.wait()


def lease(home: Path) -> Lease:
    """Lease from the zygote of the run that this one is a part of, or from a new one.

    Args:
        home: The folder of the run.

    Returns:
        A lease; close it.
    """
    inherited = Path(os.environ.get(ZYGOTE, ""))
    if inherited.name == socket_name():
        with contextlib.suppress(OSError):
            return connected(inherited, home)
    path = home / socket_name()
    with listen(path) as listening:
        made = connected(path, home)
        made.zygote = start_zygote(listening)
    return made


def socket_name() -> str:
    """Return the name of the socket of a zygote that runs the same code as this process."""
    return f"{code_identity()}.sock"


def listen(path: Path) -> socket.socket:
    """Return a socket for a zygote that is yet to start: connections wait there for it."""
    # One is there where an earlier zygote was ended while it was importing.
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(128)
    return listening


def connected(path: Path, home: Path) -> Lease:
    """Return a connection to a zygote that listens, and answers or will.

    Args:
        path: Its socket.
        home: The folder to remove if this process ends without having closed the lease.

    Raises:
        OSError: If nobody listens.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    made = Lease(connection, path, path.with_suffix(".log"))
    made.send(home=str(home))
    return made


def start_zygote(listening: socket.socket, lock: int | None = None) -> subprocess.Popen[bytes]:
    """Start a zygote in a session of its own: no Ctrl-C for pytest is one for it.

    Args:
        listening: Where it is to listen, bound to a path.
        lock: The descriptor of a locked file, to hold as long as it lives; with one it stays
            when its last run has gone.

    Returns:
        The process.
    """
    path = Path(listening.getsockname())
    descriptor = listening.fileno()
    # A numeric library that starts threads when it is imported would forbid to fork.
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
    command = [sys.executable, "-m", "flowgauge.server.zygote", str(descriptor)]
    held = () if lock is None else (lock,)
    with path.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, str(-1 if lock is None else lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=path.parent,
            env=environment,
            pass_fds=(descriptor, *held),
            start_new_session=True,
        )


@dataclass
class ServerProcess:
    """A server that was asked for; like `subprocess.Popen`, as far as it is needed.

    Attributes:
        lease: Where it was asked for; no other server runs on it at the same time.
        request: What was asked for.
        pid: Its process id, None until it is known.
        port: Where it serves, None until it is known.
        returncode: Its exit code, None while it runs.
    """

    lease: Lease
    request: ServerRequest
    pid: int | None = None
    port: int | None = None
    returncode: int | None = None

    @classmethod
    def start(cls, lease: Lease, request: ServerRequest) -> ServerProcess:
        """Ask for a server, and go on without waiting for it."""
        lease.send(start=asdict(request))
        return cls(lease, request)

    def poll(self, timeout: float = 0) -> int | None:
        """Return the exit code, None while the server runs.

        Args:
            timeout: Seconds to wait for news of it.
        """
        if self.returncode is None:
            told = self.lease.receive(timeout)
            if told is None:
                # Without its supervisor a server ends.
                self.returncode = -signal.SIGKILL
            for message in told or ():
                self.pid = message.get("pid", self.pid)
                self.port = message.get("port", self.port)
                self.returncode = message.get("exited", self.returncode)
        return self.returncode

    def stop(self, patience: float) -> None:
        """End the server: politely, and after so many seconds in any case."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _END_SECONDS)):
            deadline = time.monotonic() + seconds
            if self.poll() is None:
                self.lease.send(send=number)
            while self.poll(0.1) is None and time.monotonic() < deadline:
                pass
