# SPDX-License-Identifier: Apache-2.0
"""The audit hook that records what this process writes, starts and connects to during a test."""

from __future__ import annotations

import socket
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from flowgauge.leftovers.writes import PATHS, Write, origin, write_to, written


@dataclass(frozen=True, eq=False)
class OpenedConnection:
    """A socket that was connected while a test ran."""

    socket: weakref.ref[socket.socket]
    address: object
    thread: threading.Thread
    origin: str


@dataclass
class Activity:
    """What this process has done since a test started.

    Attributes:
        written: The first write to each path.
        threads: Where each thread was started; Python 3.11 does not record that.
        connections: The sockets that were connected.
        processes: Whether a process was started.
    """

    written: dict[str, Write] = field(default_factory=dict)
    threads: weakref.WeakKeyDictionary[threading.Thread, str] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    connections: list[OpenedConnection] = field(default_factory=list)
    processes: bool = False

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """Record an audit event of Python."""
        match event, args:
            case "socket.connect", (connected, address):
                thread = threading.current_thread()
                self.connections.append(
                    OpenedConnection(weakref.ref(connected), address, thread, origin())
                )
            case (("_thread.start_new_thread" | "_thread.start_joinable_thread"), (function, *_)):
                owner = getattr(function, "__self__", None)
                if isinstance(owner, threading.Thread):
                    self.threads[owner] = origin()
            case (("os.fork" | "os.posix_spawn" | "os.system" | "subprocess.Popen"), _):
                self.processes = True
            case _:
                path = written(event, args)
                if path is not None and path not in self.written:
                    self.written[path] = write_to(path)


_EVENTS = {
    *PATHS,
    "_thread.start_joinable_thread",
    "_thread.start_new_thread",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "socket.connect",
    "subprocess.Popen",
}
_watching: Activity | None = None
_installed = False


def watch(sightings: Activity | None) -> None:
    """Record what this process does from now on; None stops that.

    Args:
        sightings: Where to record it.
    """
    global _watching, _installed
    _watching = sightings
    if sightings is not None and not _installed:
        # Permanently: Python has no way to remove an audit hook.
        sys.addaudithook(_hook)
        _installed = True


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _EVENTS and _watching is not None:
        try:
            _watching.note(event, args)
        except Exception:
            # An error here would surface in the code being watched.
            return
