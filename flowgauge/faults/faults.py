# SPDX-License-Identifier: Apache-2.0
"""The object behind the `faults` fixture: says which fault strikes which task, and where."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from flowgauge.faults.errors import InjectedFault
from flowgauge.faults.journal import Journal
from flowgauge.faults.plan import (
    FAULT_POINTS,
    CorruptResult,
    Crash,
    Fail,
    FailSometimes,
    Fault,
    FaultEffect,
    FaultPoint,
    LoseConnection,
    Moment,
    Plan,
    Slow,
    plan_path,
)

if TYPE_CHECKING:
    from typing import Any

Error = Exception | type[Exception]


class Faults:
    """The faults of one test; they strike on every task runner, in all its processes."""

    def __init__(self, folder: Path, seed: int, api_url: str) -> None:
        """Start without any faults.

        Args:
            folder: The folder through which other processes get the plan; it must exist.
            seed: The seed for everything that is random.
            api_url: The address of the Prefect API.
        """
        self._folder = folder
        self._plan = Plan(seed, api_url, f"{uuid.uuid4()}.jsonl")
        self._journal = Journal(folder / self._plan.journal)
        self._journal.create()

    @property
    def seed(self) -> int:
        """The seed for everything random: `--flow-fault-seed`, or a new one for each pytest run."""
        return self._plan.seed

    def on(self, task: str, *, at: FaultPoint | None = None) -> FaultsOn:
        """Select tasks and a point in their runs.

        Args:
            task: The name of a task, or a pattern such as `"load*"`.
            at: The point in the task run: "before the body" (the default), "after the effect",
                "before the result is stored" or "after completion".

        Returns:
            An object with one method for each kind of fault.
        """
        if at is not None and at not in FAULT_POINTS:
            points = ", ".join(f'"{point}"' for point in FAULT_POINTS)
            _refuse(f"faults.on({task!r}, at={at!r}): there is no such point; choose from {points}")
        return FaultsOn(self, task, at)

    def add(self, task: str, at: Moment, effect: FaultEffect, call: str) -> None:
        """Add a fault, active from now on; `FaultsOn` has a method for each kind.

        Args:
            task: The name of a task, or a pattern of names.
            at: The point at which the fault strikes.
            effect: What it does.
            call: How the test asked for it, for messages.
        """
        fault = Fault(len(self._plan.faults), task, at, effect, call)
        self._plan = dataclasses.replace(self._plan, faults=(*self._plan.faults, fault))
        self._plan.write(self._folder)

    def end(self) -> None:
        """Stop all faults."""
        plan_path(self._folder).unlink(missing_ok=True)

    def unmet(self) -> list[str]:
        """Return one line for each fault whose task never reached its point."""
        self._journal.catch_up()
        return [self._why(fault) for fault in self._plan.faults if not self._reached(fault)]

    def refused(self) -> list[str]:
        """Return one line for each fault that could not strike where its task ran."""
        self._journal.catch_up()
        return list(dict.fromkeys(self._journal.refused))

    def _reached(self, fault: Fault) -> bool:
        return self._journal.reached[fault.number] > 0

    def _why(self, fault: Fault) -> str:
        names = sorted(self._journal.tasks)
        matching = [name for name in names if fault.concerns(name)]
        if not names:
            return f"{fault.call}: no task ran at all"
        if not matching:
            listed = ", ".join(map(repr, names))
            return f"{fault.call}: no task of that name ran; those that ran are {listed}"
        who = " and ".join(map(repr, matching))
        if "stored" in fault.at:
            return f"{fault.call}: {who} ran but stored no result; persist_result=True stores it"
        return f"{fault.call}: {who} ran but never reached the point {fault.at!r}"


@dataclasses.dataclass(frozen=True)
class FaultsOn:
    """Tasks and a point, for which each method adds a fault; see `Faults.on`."""

    faults: Faults
    task: str
    at: FaultPoint | None

    def fail_times(self, n: int, error: Error = InjectedFault, *, in_all: bool = False) -> None:
        """Raise an error in the first attempts of each task run.

        Args:
            n: The number of attempts; only those that reach the point count.
            error: An exception or its class.
            in_all: Count the first attempts over all task runs together, not for each task run.
        """
        call = self._call("fail_times", n, in_all=in_all)
        if not _is_count(n):
            _refuse(f"{call}: n is a number of attempts; give 1 or more")
        self._add(Fail(_packed(call, error), n, in_all), call)

    def fail_with_probability(self, p: float, error: Error = InjectedFault) -> None:
        """Raise an error in attempts that the seed chooses.

        With the same seed, the same attempts of the same tasks with the same arguments fail, on
        every task runner and in whatever order they run. Task runs whose arguments have no
        distinctive `repr` are distinguished by their `task_run_name`.

        Args:
            p: The probability that an attempt fails.
            error: An exception or its class.
        """
        call = self._call("fail_with_probability", p)
        if not _is_number(p) or not 0 <= p <= 1:
            _refuse(f"{call}: p is a probability; give a number from 0 to 1")
        self._add(FailSometimes(_packed(call, error), p), call)

    def slow(self, seconds: float) -> None:
        """Make every attempt wait, in real time.

        Args:
            seconds: How long it waits.
        """
        call = self._call("slow", seconds)
        if not _is_number(seconds) or not 0 <= seconds < math.inf:
            _refuse(f"{call}: give the seconds to wait, 0 or more")
        self._add(Slow(seconds), call)

    def crash_process(self, *, times: int = 1) -> None:
        """Kill the process that runs the task, once Prefect has sent its pending events.

        For the task runners processes and dask-processes: if a task runs in pytest's own process,
        the test fails instead.

        Args:
            times: In how many attempts of each task run; when Dask restarts a task run on another
                worker, that is its next attempt.
        """
        call = self._call("crash_process", times=times)
        if not _is_count(times):
            _refuse(f"{call}: times is a number of attempts; give 1 or more")
        self._add(Crash(times), call)

    def corrupt_result(self) -> None:
        """Truncate the stored result of the task to half, as an interrupted write would.

        Code that already holds the value keeps it; code that reads it later finds the damage.
        """
        call = self._call("corrupt_result")
        if self.at is not None:
            _refuse(f"{call}: a result can be damaged only after it is stored; leave out at=")
        self.faults.add(self.task, "after the result is stored", CorruptResult(), call)

    def lose_connection(self, requests: int = 1) -> None:
        """Lose the connection of the task's process to the Prefect server, once per task run.

        Requests fail as if the server were gone, below Prefect's client, which retries (or not)
        as usual, in real time. The websocket that carries the states of task runs breaks too. On
        the task runner processes, states go through pytest's process and are not affected.

        Args:
            requests: How many HTTP requests fail, and how often the websocket breaks or can't be
                opened.
        """
        call = self._call("lose_connection", requests)
        if not _is_count(requests):
            _refuse(f"{call}: give a number of requests, 1 or more")
        self._add(LoseConnection(requests), call)

    def _add(self, effect: FaultEffect, call: str) -> None:
        self.faults.add(self.task, self.at or "before the body", effect, call)

    def _call(self, method: str, *args: object, **kwargs: object) -> str:
        """Return the call as the test wrote it, for messages."""
        at = "" if self.at is None else f", at={self.at!r}"
        reprs = {name: repr(value) for name, value in kwargs.items()}
        keywords = [
            f"{name}={value}" for name, value in reprs.items() if value not in ("False", "1")
        ]
        arguments = ", ".join([*map(repr, args), *keywords])
        return f"faults.on({self.task!r}{at}).{method}({arguments})"


@contextlib.contextmanager
def wanted_faults(folder: Path, seed: int, api_url: str) -> Iterator[Faults]:
    """Provide the faults of one test.

    Args:
        folder: The folder through which other processes get the plan; created if missing.
        seed: The seed for everything that is random.
        api_url: The address of the Prefect API.

    Yields:
        The faults; they are active until the context ends.
    """
    folder.mkdir(exist_ok=True)
    faults = Faults(folder, seed, api_url)
    try:
        yield faults
    finally:
        faults.end()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _packed(call: str, error: Any) -> bytes:
    """Return an exception pickled for other processes, after checking that it can be unpickled."""
    import cloudpickle

    try:
        instance = error() if isinstance(error, type) else error
        packed: bytes = cloudpickle.dumps(instance)
        unpickled = pickle.loads(packed)
    except Exception as cause:
        _refuse(
            f"{call}: {error!r} can't be sent to other processes"
            f" ({type(cause).__name__}: {' '.join(str(cause).split())})"
        )
    if not isinstance(unpickled, Exception):
        _refuse(f"{call}: {error!r} is not an exception; give one, or its class")
    return packed


def _refuse(line: str) -> NoReturn:
    pytest.fail(line, pytrace=False)
