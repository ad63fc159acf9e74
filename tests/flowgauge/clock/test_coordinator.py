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
from flowgauge.waiting import patience

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
