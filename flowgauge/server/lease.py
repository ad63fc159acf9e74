# SPDX-License-Identifier: Apache-2.0
"""A pytest run's lease on a zygote, and on the server that the zygote forked for it."""

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
"""The environment variable with which processes that a pytest run starts (for instance those of
pytest-xdist) find its zygote."""
_END_SECONDS = 20
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Lease:
    """A connection to a zygote; when it closes, its server ends.

    If it closes because this process was killed, the folder of the run is removed too.

    Attributes:
        connection: The connection to the supervisor of this pytest run.
        socket_path: The socket on which the zygote listens.
        log: The file with the zygote's output.
        zygote: The zygote's process, if it ends with this pytest run.
    """

    connection: socket.socket
    socket_path: Path
    log: Path
    zygote: subprocess.Popen[bytes] | None = None
    _heard_from: bool = False
    _unread: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, **message: Any) -> None:
        """Send the supervisor a message; if it is gone, `receive` says so."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> list[dict[str, int]] | None:
        """Return the messages that the supervisor has sent.

        Args:
            timeout: Seconds to wait for messages at most.

        Returns:
            The messages, none if the time is up; None if the supervisor is gone.
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
            self._heard_from = True
            *lines, self._unread = (self._unread + data).split(b"\n")
            return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End what was leased, and wait for the zygote if it ends with this pytest run.

        The folder of the run stays: this process removes it itself.
        """
        self.send(home="")
        if self.zygote is None:
            self.connection.close()
            return
        if not self._heard_from and not self.receive(0):
            # It is still importing, and would notice only later that the run has gone.
            self.zygote.terminate()
        self.connection.close()
        try:
            self.zygote.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.zygote.kill()
            self.zygote.wait()


def lease(home: Path) -> Lease:
    """Lease from the zygote of the pytest run that this one is part of, or from a new one.

    Args:
        home: The folder of the pytest run.

    Returns:
        A lease, which the caller must close.
    """
    inherited = Path(os.environ.get(ZYGOTE, ""))
    if inherited.name == socket_name():
        with contextlib.suppress(OSError):
            return connected(inherited, home)
    path = home / socket_name()
    with listen(path) as listening:
        new_lease = connected(path, home)
        new_lease.zygote = start_zygote(listening)
    return new_lease


def socket_name() -> str:
    """Return the socket name of a zygote that runs the same code as this process."""
    return f"{code_identity()}.sock"


def listen(path: Path) -> socket.socket:
    """Return a socket for a zygote that has not started yet; connections wait there for it."""
    # An earlier zygote that was ended while it was importing leaves its socket.
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(128)
    return listening


def connected(path: Path, home: Path) -> Lease:
    """Return a connection to a zygote that listens, even if it cannot answer yet.

    Args:
        path: Its socket.
        home: The folder to remove if this process ends without closing the lease.

    Returns:
        A lease, which the caller must close.

    Raises:
        OSError: If nothing listens on the socket.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    new_lease = Lease(connection, path, path.with_suffix(".log"))
    new_lease.send(home=str(home))
    return new_lease


def start_zygote(listening: socket.socket, lock: int | None = None) -> subprocess.Popen[bytes]:
    """Start a zygote in its own session, so that Ctrl-C for pytest does not reach it.

    Args:
        listening: The socket to listen on, bound to a path.
        lock: The descriptor of a locked file, to hold as long as the zygote lives; with a lock, the
            zygote stays when its last pytest run has gone.

    Returns:
        The process.
    """
    path = Path(listening.getsockname())
    descriptor = listening.fileno()
    # A numeric library that starts threads on import would make forking impossible.
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
    command = [sys.executable, "-m", "flowgauge.server.zygote", str(descriptor)]
    lock_fds = () if lock is None else (lock,)
    with path.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, str(-1 if lock is None else lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=path.parent,
            env=environment,
            pass_fds=(descriptor, *lock_fds),
            start_new_session=True,
        )


@dataclass
class ServerProcess:
    """A server that was requested; like `subprocess.Popen`, as far as needed.

    Attributes:
        lease: The lease that it was requested on, which has no other server at the same time.
        request: The request.
        pid: Its process id, None until it is known.
        port: The port that it serves on, None until it is known.
        returncode: Its exit code, None while it runs.
    """

    lease: Lease
    request: ServerRequest
    pid: int | None = None
    port: int | None = None
    returncode: int | None = None

    @classmethod
    def start(cls, lease: Lease, request: ServerRequest) -> ServerProcess:
        """Request a server, without waiting for it."""
        lease.send(start=asdict(request))
        return cls(lease, request)

    def poll(self, timeout: float = 0) -> int | None:
        """Return the exit code, if the server has ended.

        Args:
            timeout: Seconds to wait for news of it.

        Returns:
            The exit code, None while the server runs.
        """
        if self.returncode is None:
            messages = self.lease.receive(timeout)
            if messages is None:
                # A server ends with its supervisor.
                self.returncode = -signal.SIGKILL
            for message in messages or ():
                self.pid = message.get("pid", self.pid)
                self.port = message.get("port", self.port)
                self.returncode = message.get("exited", self.returncode)
        return self.returncode

    def stop(self, patience: float) -> None:
        """End the server with SIGTERM, and if needed with SIGKILL after `patience` seconds."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _END_SECONDS)):
            deadline = time.monotonic() + seconds
            if self.poll() is None:
                self.lease.send(send=number)
            while self.poll(0.1) is None and time.monotonic() < deadline:
                pass
