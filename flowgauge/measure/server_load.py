# SPDX-License-Identifier: Apache-2.0
"""How many task runs a second one Prefect server takes, before their states are stored too late.

Clients in processes of their own start task runs at a steady rate, whether the server keeps up or
not. Afterwards all that they sent is counted on the server, and when it was stored is read there.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from flowgauge.measure.deployed import Site
from flowgauge.waiting import patience

LATEST = 1.0
"""Seconds after which a state should be stored."""
STATES, LOGS = 3, 1
"""Events of states, and logs, of one task run of a client."""
_SHARE = 0.95
"""The share of states that must be stored in time."""
_SENT = 0.9
"""The share of the offered task runs that clients must manage to start."""
_REFINEMENTS = 2
_PAGE = 200
_LOOK = 0.2
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
def offer(rate: float, seconds: float) -> tuple[str, int, float]:
    begin, number = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        time.sleep(max(number / rate - elapsed, 0.0))
        nothing()
        number += 1
    return flow_run.id, number, time.perf_counter() - begin


print(*offer(10, 0.3), flush=True)
for line in sys.stdin:
    print(*offer(*map(float, line.split())), flush=True)
"""


class LoadError(RuntimeError):
    """A client ended or did not answer."""


@dataclass(frozen=True)
class Step:
    """What a server did with the task runs that were offered at one rate.

    Attributes:
        offered: Task runs that should start in a second.
        sent: Task runs that clients did start in a second.
        delay: Seconds after which nineteen of twenty last states were stored.
        lost: Events of states, states and logs that the server never stored.
    """

    offered: float
    sent: float
    delay: float
    lost: int

    @property
    def is_taken(self) -> bool:
        """Whether the server took it: all is stored, and in time."""
        return self.delay <= LATEST and not self.lost

    @property
    def is_sent(self) -> bool:
        """Whether the clients were fast enough."""
        return self.sent >= _SENT * self.offered


@dataclass(frozen=True)
class Limit:
    """The rate up to which a server takes task runs.

    Attributes:
        taken: The highest rate that it took, in task runs per second; 0 if it took none.
        refused: The lowest rate that it did not take; infinite if the clients gave up before.
        steps: All that was tried.
    """

    taken: float
    refused: float
    steps: tuple[Step, ...]


def find_limit(offer: Callable[[float], Step], first: float) -> Limit:
    """Double the rate until a server or its clients don't keep up, then look in between.

    Args:
        offer: Offers task runs at a rate, in task runs per second.
        first: The rate to begin with.

    Returns:
        The limit.
    """
    steps = [offer(first)]
    while steps[-1].is_taken and steps[-1].is_sent:
        steps.append(offer(2 * steps[-1].offered))
    for _ in range(_REFINEMENTS):
        taken, refused = _between(steps)
        if not taken or math.isinf(refused):
            break
        steps.append(offer(math.sqrt(taken * refused)))
    return Limit(*_between(steps), tuple(steps))


def _between(steps: Sequence[Step]) -> tuple[float, float]:
    """Return the highest rate below all that were refused, and the lowest that was."""
    refused = min((step.sent for step in steps if not step.is_taken), default=math.inf)
    taken = max((s.sent for s in steps if s.is_taken and s.sent < refused), default=0.0)
    return taken, refused


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
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{rate / self.number} {seconds}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes]
        flow_runs = [str(answer[0]) for answer in answers]
        number = sum(int(answer[1]) for answer in answers)
        sent = sum(int(answer[1]) / float(answer[2]) for answer in answers)
        done = self._settled(lambda: self._completed(flow_runs), number)
        events = self._settled(lambda: self._events(flow_runs), STATES * number)
        logs = self._settled(lambda: self._logs(flow_runs), LOGS * number)
        lost = (1 + STATES + LOGS) * number - done - events - logs
        delays = sorted(self._delays(flow_runs)) or [math.inf]
        return Step(rate, sent, delays[math.ceil(_SHARE * len(delays)) - 1], lost)

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
        named = {"event": {"prefix": ["prefect.task-run."]}}
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

    def _delays(self, flow_runs: list[str]) -> list[float]:
        runs = self._pages("/task_runs/filter", _of(flow_runs))
        return [
            (_time(run["updated"]) - _time(run["end_time"])).total_seconds()
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


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
