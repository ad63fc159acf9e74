# SPDX-License-Identifier: Apache-2.0
"""What a test holds in hand: says which fault strikes which task at which point."""

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
        """Begin without any.

        Args:
            folder: In which the plan goes to other processes; it must exist.
            seed: What decides where chance does.
            api_url: The address of the Prefect API.
        """
        self._folder = folder
        self._plan = Plan(seed, api_url, f"{uuid.uuid4()}.jsonl")
        self._journal = Journal(folder / self._plan.journal)
        self._journal.create()

    @property
    def seed(self) -> int:
        """What decides where chance does: `--flow-fault-seed`, or random for each pytest run."""
        return self._plan.seed

    def on(self, task: str, *, at: FaultPoint | None = None) -> FaultsOn:
        """Choose tasks and a point.

        Args:
            task: The name of a task, or a pattern of names, for instance `"load*"`.
            at: Where in the task run: "before the body" (if it is left out), "after the
                effect", "before the result is stored" or "after completion".

        Returns:
            What to call for a fault there.
        """
        if at is not None and at not in FAULT_POINTS:
            points = ", ".join(f'"{point}"' for point in FAULT_POINTS)
            _refuse(f"faults.on({task!r}, at={at!r}): there is no such point; choose from {points}")
        return FaultsOn(self, task, at)

    def add(self, task: str, at: Moment, effect: FaultEffect, call: str) -> None:
        """Let a fault strike from now on; see `FaultsOn` for its arguments."""
        fault = Fault(len(self._plan.faults), task, at, effect, call)
        self._plan = dataclasses.replace(self._plan, faults=(*self._plan.faults, fault))
        self._plan.write(self._folder)

    def end(self) -> None:
        """Let no more fault strike."""
        plan_path(self._folder).unlink(missing_ok=True)

    def unmet(self) -> list[str]:
        """Return one line for each fault whose task never got to its point."""
        self._journal.catch_up()
        return [self._why(fault) for fault in self._plan.faults if not self._reached(fault)]

    def refused(self) -> list[str]:
        """Return one line for each fault that could not strike where its task ran."""
        self._journal.catch_up()
        return list(dict.fromkeys(self._journal.refused))

    def _reached(self, fault: Fault) -> bool:
        return self._journal.reached[fault.number] > 0

    def _why(self, fault: Fault) -> str:
        ran = sorted(self._journal.tasks)
        meant = [name for name in ran if fault.concerns(name)]
        if not ran:
            return f"{fault.call}: no task ran at all"
        if not meant:
            names = ", ".join(map(repr, ran))
            return f"{fault.call}: no task of that name ran; those that ran are {names}"
        who = " and ".join(map(repr, meant))
        if "stored" in fault.at:
            return f"{fault.call}: {who} ran and stored no result; persist_result=True stores it"
        return f"{fault.call}: {who} ran and never got to the point {fault.at!r}"


@dataclasses.dataclass(frozen=True)
class FaultsOn:
    """A task and a point, for which each method adds a fault; see `Faults.on`."""

    faults: Faults
    task: str
    at: FaultPoint | None

    def fail_times(self, n: int, error: Error = InjectedFault, *, in_all: bool = False) -> None:
        """Raise an error in the first attempts of each task run.

        Args:
            n: In how many; those count that get to the point.
            error: An exception or its class.
            in_all: Count over all task runs together, whichever come first, and not for each.
        """
        call = self._call("fail_times", n, in_all=in_all)
        if not _is_count(n):
            _refuse(f"{call}: n is a number of attempts; give 1 or more")
        self._add(Fail(_packed(call, error), n, in_all), call)

    def fail_with_probability(self, p: float, error: Error = InjectedFault) -> None:
        """Raise an error in attempts that the seed chooses.

        With the same seed the same attempts of the same tasks with the same arguments fail, on
        every runner, in whatever order they run. A task whose arguments have no telling `repr`
        is told apart by its `task_run_name`.

        Args:
            p: How likely each attempt is to fail.
            error: An exception or its class.
        """
        call = self._call("fail_with_probability", p)
        if not _is_number(p) or not 0 <= p <= 1:
            _refuse(f"{call}: p is a probability; give a number from 0 to 1")
        self._add(FailSometimes(_packed(call, error), p), call)

    def slow(self, seconds: float) -> None:
        """Let every attempt wait, in real time.

        Args:
            seconds: How long.
        """
        call = self._call("slow", seconds)
        if not _is_number(seconds) or not 0 <= seconds < math.inf:
            _refuse(f"{call}: give the seconds to wait, 0 or more")
        self._add(Slow(seconds), call)

    def crash_process(self, *, times: int = 1) -> None:
        """Kill the process that runs the task, once Prefect has sent off what it knows.

        That is for the runners processes and dask-processes: where a task runs in pytest's own
        process, the test fails instead.

        Args:
            times: In how many attempts of each task run; a run that Dask starts anew on another
                worker is the next attempt of the same one.
        """
        call = self._call("crash_process", times=times)
        if not _is_count(times):
            _refuse(f"{call}: times is a number of attempts; give 1 or more")
        self._add(Crash(times), call)

    def corrupt_result(self) -> None:
        """Cut the stored result of the task in half, as a write that broke off would.

        Whoever has the value in hand keeps it; whoever reads it later finds the damage.
        """
        call = self._call("corrupt_result")
        if self.at is not None:
            _refuse(f"{call}: a result can be damaged once it is stored; leave out at=")
        self.faults.add(self.task, "after the result is stored", CorruptResult(), call)

    def lose_connection(self, requests: int = 1) -> None:
        """Lose the connection of the task's process to the Prefect server, once per task run.

        Requests fail as if the server were gone, below Prefect's client, which retries (or not)
        as it always does, in real time. The websocket that takes the states of task runs breaks
        too. On the runner processes states go through pytest's process, and are not concerned.

        Args:
            requests: How many HTTP requests fail, and how often the websocket breaks or can't
                be opened.
        """
        call = self._call("lose_connection", requests)
        if not _is_count(requests):
            _refuse(f"{call}: give a number of requests, 1 or more")
        self._add(LoseConnection(requests), call)

    def _add(self, effect: FaultEffect, call: str) -> None:
        self.faults.add(self.task, self.at or "before the body", effect, call)

    def _call(self, method: str, *args: object, **kwargs: object) -> str:
        """Return the call as the test has it, for messages."""
        at = "" if self.at is None else f", at={self.at!r}"
        given = {name: repr(value) for name, value in kwargs.items()}
        named = [f"{name}={value}" for name, value in given.items() if value not in ("False", "1")]
        arguments = ", ".join([*map(repr, args), *named])
        return f"faults.on({self.task!r}{at}).{method}({arguments})"


@contextlib.contextmanager
def wanted_faults(folder: Path, seed: int, api_url: str) -> Iterator[Faults]:
    """Give one test its faults.

    Args:
        folder: In which the plan goes to other processes.
        seed: What decides where chance does.
        api_url: The address of the Prefect API.

    Yields:
        The faults; they strike until the end.
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
    """Return an exception as it travels to other processes, and make sure that it arrives."""
    import cloudpickle

    try:
        raised = error() if isinstance(error, type) else error
        packed: bytes = cloudpickle.dumps(raised)
        arrived = pickle.loads(packed)
    except Exception as why:
        _refuse(
            f"{call}: {error!r} can't travel to other processes"
            f" ({type(why).__name__}: {' '.join(str(why).split())})"
        )
    if not isinstance(arrived, Exception):
        _refuse(f"{call}: {error!r} is no exception; give one, or its class")
    return packed


def _refuse(line: str) -> NoReturn:
    pytest.fail(line, pytrace=False)
