# SPDX-License-Identifier: Apache-2.0
"""The coordinator skips time to the right deadline, no matter when it learns of it."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from flowgauge.clock import coordinator as module
from flowgauge.clock.coordinator import Coordinator, socket_path
from flowgauge.clock.shared_time import SharedTime
from flowgauge.waiting import patience, wait_until

RECHECK_AFTER = 0.4
DAY = 86_400.0
MINUTE = 60.0


class Process:
    """A stand-in for a process with runs, which sends its messages to the coordinator by hand."""

    def __init__(self, home: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience())
        self._socket.connect(socket_path(home))
        self._lines = self._socket.makefile("rb")

    def close(self) -> None:
        """Disconnect."""
        self._lines.close()
        self._socket.close()

    def tell(self, **message: Any) -> None:
        """Send a message."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def begin(self, key: str, kind: str, parent: str | None) -> None:
        """Report that a run begins."""
        self.tell(about="begin", key=key, name=key, kind=kind, parent=parent)

    def wait(self, number: int, deadline: float, run: str) -> None:
        """Report that a run waits for a deadline."""
        self.tell(about="wait", id=number, deadline=deadline, run=run)

    def hears(self) -> dict[str, Any]:
        """Return the coordinator's next message."""
        return dict(json.loads(self._lines.readline()))

    def see_nothing_going_on(self, question: int) -> None:
        """Answer that the flow only waits, as it does while it starts a thread."""
        self.tell(
            about="sightings",
            question=question,
            requests=0,
            runs=[["flow", "waits", [], ""]],
            outside="",
        )


def test_a_deadline_that_comes_between_two_checks_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that begins and waits between two checks wakes before one that waits for longer."""
    monkeypatch.setattr(module, "RECHECK_AFTER", RECHECK_AFTER)
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shared = SharedTime(home)
        with (
            contextlib.closing(Coordinator(home, shared, "http://127.0.0.1:9/api")),
            contextlib.closing(Process(home)) as process,
        ):
            start = shared.now()
            process.begin("flow", "flow", None)
            process.begin("long", "task", "flow")
            process.wait(1, start + DAY, "long")

            def begin_and_wait() -> None:
                process.begin("short", "task", "flow")
                process.wait(2, start + MINUTE, "short")

            later: list[threading.Timer] = []
            while (heard := process.hears())["about"] == "look":
                process.see_nothing_going_on(heard["question"])
                if not later:
                    later.append(threading.Timer(RECHECK_AFTER / 4, begin_and_wait))
                    later[0].start()
            later[0].join()
            assert heard == {"about": "wake", "id": 2}
            assert shared.now() - start < DAY


@pytest.mark.parametrize("steps", range(8))
def test_the_clock_ends_though_news_arrive_at_that_moment(steps: int) -> None:
    """News that come some steps of the event loop after the end do not keep the clock's thread."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shared = SharedTime(home)
        coordinator = Coordinator(home, shared, "http://127.0.0.1:9/api")
        loop = coordinator._loop

        def news_after(left: int) -> None:
            if left:
                loop.call_soon(news_after, left - 1)
            else:
                coordinator._changed.set()

        def end() -> None:
            coordinator._stop.set()
            news_after(steps)

        with contextlib.closing(Process(home)) as process:
            # A wait with a deadline that time is not skipped to.
            process.tell(about="wait", id=1, deadline=shared.now() + DAY, poller=1, idle=True)
            wait_until(lambda: bool(coordinator._runs.waits), "the wait is known")
            loop.call_soon_threadsafe(end)
            coordinator._thread.join(patience())
            assert not coordinator._thread.is_alive()


def test_who_polls_while_a_service_executes_a_run_does_not_wait_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That no other run does what is waited for is told only once no service executes any."""
    monkeypatch.setattr(module, "REPORT_AFTER", 0.2)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shared = SharedTime(home)
        with (
            contextlib.closing(Coordinator(home, shared, "http://127.0.0.1:9/api")) as coordinator,
            contextlib.closing(Process(home)) as process,
        ):
            process.begin("executes", "service", None)
            for number in range(8):
                process.tell(about="wait", id=number, deadline=shared.now() + 0.1, poller=7)
                while process.hears()["about"] != "wake":
                    pass
            assert coordinator.unskipped == {}
            process.tell(about="end", key="executes")
            for number in range(8, 100):
                process.tell(about="wait", id=number, deadline=shared.now() + 0.1, poller=7)
                while process.hears()["about"] != "wake":
                    pass
                if coordinator.unskipped:
                    break
            assert list(coordinator.unskipped) == [
                "a wait waited in real time for something that no other run does"
            ]
