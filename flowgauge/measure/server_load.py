# SPDX-License-Identifier: Apache-2.0
"""How many task runs a second one Prefect server takes, before their states are stored too late.

Clients in processes of their own start task runs at a steady rate, or as fast as they can, whether
the server keeps up or not. Afterwards all that they sent is counted on the server, and when it was
stored is read there.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from flowgauge.measure.deployed import Site
from flowgauge.measure.server_burst import Burst
from flowgauge.measure.server_limit import Step
from flowgauge.waiting import patience

STATES, LOGS = 3, 1
"""Events of states, and logs, of one task run of a client."""
_SHARE = 0.95
"""The share of states that must be stored in time."""
_PAGE = 200
_LOOK = 1.0
_GIVE_UP = 10.0
"""Seconds without anything new on the server after which what is missing is lost."""

CLIENT = """\
import sys
import time

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run


@task(cache_policy=NO_CACHE)
def nothing() -> None:
    get_run_logger().info("nothing to do")


@flow
def offer(rate: float, number: int) -> tuple[str, int, float]:
    begin = time.perf_counter()
    for started in range(number):
        time.sleep(max(started / rate - (time.perf_counter() - begin), 0.0))
        nothing()
    return flow_run.id, number, time.perf_counter() - begin


print(*offer(10.0, 3), flush=True)
for line in sys.stdin:
    rate, number = line.split()
    print(*offer(float(rate), int(number)), flush=True)
"""


class LoadError(RuntimeError):
    """A client ended or did not answer."""


@dataclass(frozen=True)
class _Sent:
    """What clients have sent.

    Attributes:
        flow_runs: The ids of their flow runs.
        number: How many task runs they started.
        rate: How many they started in a second.
    """

    flow_runs: list[str]
    number: int
    rate: float


@dataclass
class Clients:
    """Processes that start task runs on a server.

    Attributes:
        api: The address of the server's API.
        folder: Holds the flow, and the logs and the Prefect homes of the clients.
        number: How many clients there are.
    """

    api: str
    folder: Path
    number: int
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Start the clients; each has run a flow when this returns."""
        script = self.folder / "client.py"
        with ExitStack() as stack:
            self._site = stack.enter_context(Site(self.api, self.folder))
            self._begun = datetime.now(UTC).isoformat()
            script.write_text(CLIENT)
            log = stack.enter_context((self.folder / "clients.log").open("ab"))
            for number in range(self.number):
                process = subprocess.Popen(
                    [sys.executable, str(script)],
                    cwd=self.folder,
                    env=self._site.environment(f"home-{number}"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                stack.callback(_end, process)
                self._processes.append(process)
            for process in self._processes:
                self._answer(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the clients."""
        self._stack.close()

    def offer(self, rate: float, seconds: float) -> Step:
        """Start task runs at a rate, and wait until the server has stored what it will store.

        Args:
            rate: Task runs in a second, of all clients together.
            seconds: For how long.

        Returns:
            What the server did with them.

        Raises:
            LoadError: If a client ended.
        """
        sent = self._send(rate, math.ceil(rate * seconds / self.number))
        lost = sum(self._lost(sent))
        delays = sorted(stored - ended for _, ended, stored in self._times(sent)) or [math.inf]
        return Step(rate, sent.rate, delays[math.ceil(_SHARE * len(delays)) - 1], lost)

    def burst(self, number: int) -> Burst:
        """Start task runs without a pause, and wait until the server has stored what it will store.

        Args:
            number: How many each client starts.

        Returns:
            What the server did with them.

        Raises:
            LoadError: If a client ended, or nothing was stored.
        """
        sent = self._send(math.inf, number)
        lost = self._lost(sent)
        times = self._times(sent)
        if not times:
            raise LoadError(f"the server stored none of {sent.number} task runs")
        starts, _, stored = zip(*times, strict=True)
        return Burst(sent.number, sent.rate, max(stored) - min(starts), lost)

    def _send(self, rate: float, number: int) -> _Sent:
        """Let each client start a number of task runs, at a rate of all clients together."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{rate / self.number} {number}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes]
        return _Sent(
            [flow_run for flow_run, *_ in answers],
            sum(int(started) for _, started, _ in answers),
            sum(int(started) / float(seconds) for _, started, seconds in answers),
        )

    def _lost(self, sent: _Sent) -> tuple[int, int, int]:
        """Wait until the server has stored what it will store, and return how much is missing."""
        of_all = (
            (self._completed, 1),
            (self._events, STATES),
            (self._logs, LOGS),
        )
        states, events, logs = (
            each * sent.number - self._settled(partial(count, sent.flow_runs), each * sent.number)
            for count, each in of_all
        )
        return states, events, logs

    def _answer(self, process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if not words:
            log = (self.folder / "clients.log").read_text(errors="replace")
            raise LoadError(f"a client of the load ended: {log[-500:]}")
        return words

    def _settled(self, count: Callable[[], int], wanted: int) -> int:
        """Wait until the server has as much as is wanted, or nothing new for a while."""
        found, changed = count(), time.monotonic()
        while found < wanted and time.monotonic() - changed < patience(_GIVE_UP):
            time.sleep(_LOOK)
            if (now := count()) != found:
                found, changed = now, time.monotonic()
        return found

    def _completed(self, flow_runs: list[str]) -> int:
        body = _of(flow_runs) | {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        return int(self._site.request("POST", "/task_runs/count", **body))

    def _events(self, flow_runs: list[str]) -> int:
        # Without a beginning, the server would search all events of half a year.
        named = {"event": {"prefix": ["prefect.task-run."]}, "occurred": {"since": self._begun}}
        related = {
            "related": {
                "resources_in_roles": [],
                "id": [f"prefect.flow-run.{id}" for id in flow_runs],
            }
        }
        found = self._site.request("POST", "/events/filter", filter=named | related, limit=1)
        return int(found["total"])

    def _logs(self, flow_runs: list[str]) -> int:
        wanted = {"logs": {"flow_run_id": {"any_": flow_runs}, "level": {"ge_": 20}}}
        return sum("nothing to do" in log["message"] for log in self._pages("/logs/filter", wanted))

    def _times(self, sent: _Sent) -> list[tuple[float, float, float]]:
        """Return when each task run started, when it ended, and when that was stored."""
        runs = self._pages("/task_runs/filter", _of(sent.flow_runs))
        return [
            (_time(run["start_time"]), _time(run["end_time"]), _time(run["updated"]))
            for run in runs
            if run["end_time"]
        ]

    def _pages(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._site.request("POST", path, **body, limit=_PAGE, offset=len(found))
            found.extend(page)
            if len(page) < _PAGE:
                return found


def _of(flow_runs: list[str]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": flow_runs}}}


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _end(process: subprocess.Popen[str]) -> None:
    """End a client: without more to read it ends by itself."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=patience(30))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
