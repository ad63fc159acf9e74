# SPDX-License-Identifier: Apache-2.0
"""Servers that fail or hang are reported in a few lines, and ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flowgauge.server import watch
from flowgauge.server.forked import ServerRequest
from flowgauge.server.harness import early_request
from flowgauge.server.lease import Lease, ServerProcess, lease
from flowgauge.server.watch import ServerError, ServerWatch, wait_until_healthy
from flowgauge.waiting import patience, wait_until

# While this run's server is up, its zygote starts others immediately.
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[Lease]:
    """Yield a lease from the zygote of this run."""
    (tmp_path / "home").mkdir()
    leased = lease(tmp_path / "home")
    yield leased
    leased.close()


@pytest.fixture
def asked(leased: Lease, tmp_path: Path) -> ServerRequest:
    """Return a request for a server with its own home folder."""
    request = early_request(tmp_path / "home")
    return replace(request, environment=request.environment | {"PREFECT_HOME": request.folder})


def started(leased: Lease, request: ServerRequest) -> tuple[ServerProcess, int]:
    """Return a server that is starting, and its process id."""
    server = ServerProcess.start(leased, request)
    while server.pid is None:
        assert server.poll(1) is None
    return server, server.pid


def test_a_server_that_fails_to_start_is_reported_with_its_log(
    leased: Lease, asked: ServerRequest
) -> None:
    """If the server can't start, the error has its exit status and the end of its log."""
    asked.environment["PREFECT_SERVER_API_DEFAULT_LIMIT"] = "no number"
    server = ServerProcess.start(leased, asked)
    with pytest.raises(ServerError, match="ended with status 1 before it answered") as caught:
        wait_until_healthy(server)
    assert "no number" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 20


def test_a_server_that_hangs_at_the_start_is_ended(
    leased: Lease, asked: ServerRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that uses no CPU for `IDLE_START_SECONDS` while it starts is ended."""
    monkeypatch.setattr(watch, "IDLE_START_SECONDS", 0.5)
    monkeypatch.setattr(watch, "_DUMP_SECONDS", 0.5)
    server, pid = started(leased, asked)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ServerError, match="has not answered in"):
        wait_until_healthy(server)
    assert not psutil.pid_exists(pid)


def watched(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> ServerWatch:
    """Return a watch that notices a silent server within seconds."""
    monkeypatch.setattr(watch, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(watch, "SILENT_PROBES", 3)
    return ServerWatch(server, told.append)


def test_a_stopped_server_is_ended_with_its_stack(
    leased: Lease, asked: ServerRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs in mid-run is ended, and the stacks of its threads are reported."""
    server, pid = started(leased, asked)
    wait_until_healthy(server)
    told: list[str] = []
    watching = watched(server, monkeypatch, told)
    os.kill(pid, signal.SIGSTOP)
    wait_for(told)
    watching.stop()
    assert "has not answered in" in told[0]
    _, *stacks = told[0].partition("it was doing:")[2].split("hread 0x")
    assert len(stacks) > 1
    # The thread that serves is the oldest, and is reported last.
    assert 'File "' in stacks[-1]
    assert not psutil.pid_exists(pid)


def test_a_server_that_was_killed_is_reported(
    leased: Lease, asked: ServerRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies in mid-run is distinguished from one that hangs."""
    server, pid = started(leased, asked)
    wait_until_healthy(server)
    told: list[str] = []
    watching = watched(server, monkeypatch, told)
    os.kill(pid, signal.SIGKILL)
    wait_for(told)
    watching.stop()
    assert "ended with status -9 while tests were running" in told[0]


def test_a_server_that_answers_now_and_then_is_left_alone(
    leased: Lease, asked: ServerRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that misses some probes, because the machine is slow, is not reported."""
    server, _ = started(leased, asked)
    wait_until_healthy(server)
    answered = iter([False, False, True] * 5)
    over = threading.Event()

    def answers(server: ServerProcess, timeout: float) -> bool:
        if (answer := next(answered, None)) is None:
            over.set()
        return answer is not False

    monkeypatch.setattr(watch, "answers", answers)
    told: list[str] = []
    watching = watched(server, monkeypatch, told)
    assert over.wait(patience())
    watching.stop()
    assert told == []


def wait_for(told: list[str]) -> None:
    """Wait until something is reported."""
    wait_until(lambda: told)
