# SPDX-License-Identifier: Apache-2.0
"""Health checks of the server, which distinguish a stuck server from a slow one and end it."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil

from flowgauge.server.lease import ServerProcess

START_SECONDS = 120
"""Seconds that a server has to start: on a machine busy with other tests, it starts slowly."""
IDLE_START_SECONDS = 40
"""Seconds for which a starting server may use no CPU: others may be making the template."""
PROBE_SECONDS = 5.0
"""Seconds between health checks of a server; also the time that it has to answer one."""
SILENT_PROBES = 18
"""Unanswered probes in a row after which a server that uses no CPU is considered stuck: SQLite
waits up to a minute for a lock."""
BUSY_PROBES = 36
"""The same for a server that uses CPU."""
_IDLE_SHARE = 0.002
_TAIL_LINES = 15
_STACK_LINES = 40
"""Lines of each thread's stack that are kept; the innermost frames come first."""
_DUMP_SECONDS = 5


class ServerError(RuntimeError):
    """The server did not start or is no longer usable; the message says why in a few lines."""


@dataclass
class _CpuUse:
    """Measures for how long a process has used no CPU, where the system reports that."""

    pid: int | None = None
    used: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def idle_seconds(self, pid: int | None) -> float:
        used, now = _cpu_seconds(pid), time.monotonic()
        share = (used - self.used) / max(now - self.since, 0.001) if used is not None else 1
        if pid != self.pid or share > _IDLE_SHARE:
            self.pid, self.used, self.since = pid, used or 0.0, now
        return now - self.since


def _cpu_seconds(pid: int | None) -> float | None:
    if pid is None:
        return None
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def wait_until_healthy(server: ServerProcess) -> None:
    """Wait until a server answers.

    Args:
        server: A server that was just requested.

    Raises:
        ServerError: If it ended or got stuck before it answered; it is ended.
    """
    cpu, start = _CpuUse(), time.monotonic()
    while not answers(server, timeout=1):
        waited = time.monotonic() - start
        if server.poll() is not None:
            why = f"ended with status {server.returncode} before it answered"
        elif cpu.idle_seconds(server.pid) > IDLE_START_SECONDS or waited > START_SECONDS:
            why = f"has not answered in {waited:.0f} s"
        else:
            continue
        raise ServerError(_ended(server, why))


def answers(server: ServerProcess, timeout: float) -> bool:
    """Return whether a server is healthy, checking it once.

    Args:
        server: The server.
        timeout: Seconds that it has to answer.

    Returns:
        Whether it answered that it is healthy.
    """
    if server.port is None:
        server.poll(timeout)
        return False
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except ConnectionError:
        server.poll(timeout)
        return False
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class ServerWatch:
    """A thread that checks the health of a server until it is stopped."""

    def __init__(self, server: ServerProcess, report: Callable[[str], None]) -> None:
        """Start the thread.

        Args:
            server: A server that answers.
            report: Called with the reason, in a few lines, if the server has to be ended.
        """
        self._server = server
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flowgauge-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        # A probe in progress takes no longer than this.
        self._thread.join(PROBE_SECONDS + 1)

    def _watch(self) -> None:
        cpu, silent = _CpuUse(), 0
        while not self._stop.wait(0 if silent else PROBE_SECONDS):
            silent = 0 if answers(self._server, PROBE_SECONDS) else silent + 1
            idle = cpu.idle_seconds(self._server.pid)
            if self._stop.is_set() or not silent:
                continue
            if self._server.poll() is not None:
                why = f"ended with status {self._server.returncode} while tests were running"
            elif silent >= (SILENT_PROBES if idle >= PROBE_SECONDS * 2 else BUSY_PROBES):
                why = f"has not answered in {silent * PROBE_SECONDS:.0f} s"
            else:
                continue
            self._report(_ended(self._server, why))
            self._refuse()
            return

    def _refuse(self) -> None:
        """Answer in place of the server, so that clients don't retry for minutes."""
        assert self._server.port is not None
        with HTTPServer(("127.0.0.1", self._server.port), _Gone) as stand_in:
            stand_in.timeout = 0.2
            while not self._stop.is_set():
                stand_in.handle_request()


class _Gone(BaseHTTPRequestHandler):
    """Answers that the server is gone, which Prefect's clients treat as final."""

    def handle(self) -> None:
        self.close_connection = True
        if self.rfile.readline():
            text = b'{"detail": "flowgauge ended the test server: it no longer answered"}'
            self.wfile.write(b"HTTP/1.1 410 Gone\r\nContent-Type: application/json\r\n")
            self.wfile.write(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)


def _ended(server: ServerProcess, why: str) -> str:
    """End a server, and return why, with the end of its log and what it was doing."""
    log = _text(Path(server.request.log))
    doing = what_it_does(server)
    server.stop(patience=0)
    # The zygote's log says why a server could not start.
    lines = (log or _text(server.lease.log)).splitlines()[-_TAIL_LINES:]
    log_end = ("its log ends:", *lines) if lines else ("its log is empty",)
    return "\n".join((f"the Prefect server of this run {why}", *log_end, *doing))


def what_it_does(server: ServerProcess) -> tuple[str, ...]:
    """Return the innermost calls of each of a server's threads, as lines; none if it has ended."""
    log = Path(server.request.log)
    printed, stacks = _text(log), ""
    if server.poll() is None:
        # Every thread's stack is printed to the log, for which a stopped process must continue.
        server.lease.send(send=signal.SIGUSR1)
        server.lease.send(send=signal.SIGCONT)
        deadline, before = time.monotonic() + _DUMP_SECONDS, None
        while time.monotonic() < deadline and (not stacks or stacks != before):
            time.sleep(0.05)
            before, stacks = stacks, _text(log)[len(printed) :]
    return ("it was doing:", *_innermost(stacks)) if stacks else ()


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _innermost(stacks: str) -> list[str]:
    """Return the innermost frames of each thread, from faulthandler's output."""
    lines: list[str] = []
    depth = 0
    for line in stacks.splitlines():
        depth = depth + 1 if line.startswith("  ") else 0
        if depth <= _STACK_LINES:
            lines.append(line)
    return lines
