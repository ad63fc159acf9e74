# SPDX-License-Identifier: Apache-2.0
"""The object behind the `faults` fixture: says which fault strikes which task, and where."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import uuid
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from flowgauge.faults.checks import (
    called,
    is_count,
    is_number,
    packed_error,
    packed_value,
    refuse,
    selected,
    shown,
)
from flowgauge.faults.errors import InjectedFault
from flowgauge.faults.examples import Examples
from flowgauge.faults.journal import Journal
from flowgauge.faults.plan import (
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
    Return,
    Slow,
    plan_path,
)

if TYPE_CHECKING:
    from typing import Any

    from prefect.tasks import Task

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
        self._plan = Plan(seed, api_url, "")
        self._lasting: tuple[Fault, ...] | None = None
        self._earlier = Examples()
        self._begin_journal()

    def _begin_journal(self) -> None:
        self._plan = dataclasses.replace(self._plan, journal=f"{uuid.uuid4()}.jsonl")
        self._journal = Journal(self._folder / self._plan.journal)
        self._journal.create()

    def begin_example(self) -> None:
        """Begin with an example of Hypothesis: what struck and what earlier ones placed is over.

        The faults that were placed before the first example stay, with new counts.
        """
        self._journal.catch_up()
        if self._lasting is None:
            self._lasting = self._plan.faults
        self._earlier.add(self._plan, self._journal)
        self._plan = dataclasses.replace(self._plan, faults=self._lasting)
        self._begin_journal()
        # Even without faults, so that the names of the tasks that run are known.
        self._plan.write(self._folder)

    @property
    def seed(self) -> int:
        """The seed for everything random: `--flow-fault-seed`, or a new one for each pytest run."""
        return self._plan.seed

    def on(self, task: str | Task[..., Any], *, at: FaultPoint | None = None) -> FaultsOn:
        """Select tasks and a point in their runs.

        Args:
            task: A task or its name, or a pattern such as `"load*"`; all tasks of that name are
                selected.
            at: The point in the task run: "before the body" (the default), "after the effect",
                "before the result is stored" or "after completion".

        Returns:
            An object with one method for each kind of fault.
        """
        return FaultsOn(self, selected("on", task, at), at)

    def struck(self, task: str | Task[..., Any], *, at: FaultPoint | None = None) -> int:
        """Count how often faults have struck so far, in all processes.

        Args:
            task: A task or its name, or a pattern; the test must have placed a fault on it.
            at: Count only faults at this point.

        Returns:
            The number of strikes of all faults on it; each use of a stub (`returns`) counts.
        """
        name = selected("struck", task, at)
        faults = {f.number: f for f in self._plan.faults if at is None or f.at == at}
        # In an example, a drawn plan may have none.
        if self._lasting is None and not any(f.overlaps(name) for f in faults.values()):
            calls = ", ".join(f.call for f in self._plan.faults) or "none"
            call = called("struck", name, at)
            refuse(f"{call}: the test has placed no such fault; those it has placed: {calls}")
        self._journal.catch_up()
        return sum(
            times
            for (number, struck), times in self._journal.struck.items()
            if number in faults and fnmatchcase(struck, name)
        )

    def add(
        self, task: str, at: Moment, effect: FaultEffect, call: str, *, drawn: bool = False
    ) -> None:
        """Add a fault, active from now on; `FaultsOn` has a method for each kind.

        Args:
            task: The name of a task, or a pattern of names.
            at: The point at which the fault strikes.
            effect: What it does.
            call: How the test asked for it, for messages.
            drawn: Whether it was drawn, and so may miss.
        """
        fault = Fault(len(self._plan.faults), task, at, effect, call, drawn)
        for other in self._plan.faults:
            if fault.contradicts(other):
                refuse(
                    f"{call}: the test has {other.call} as well; let a function given to returns"
                    ' raise the error, or let the task fail at="after the effect"'
                )
        self._plan = dataclasses.replace(self._plan, faults=(*self._plan.faults, fault))
        self._plan.write(self._folder)

    def end(self) -> None:
        """Stop all faults."""
        plan_path(self._folder).unlink(missing_ok=True)

    def unmet(self) -> list[str]:
        """Return one line for each fault whose task never reached its point."""
        return self._all().unmet()

    def refused(self) -> list[str]:
        """Return one line for each fault that could not strike where its task ran."""
        return list(dict.fromkeys(self._all().refused))

    def _all(self) -> Examples:
        self._journal.catch_up()
        everything = copy.deepcopy(self._earlier)
        everything.add(self._plan, self._journal)
        return everything


@dataclasses.dataclass(frozen=True)
class FaultsOn:
    """Tasks and a point, for which each method adds a fault; see `Faults.on`."""

    faults: Faults
    task: str
    at: FaultPoint | None
    drawn: bool = False

    def fail_times(
        self,
        n: int,
        error: Error = InjectedFault,
        *,
        in_all: bool = False,
        in_run: int | None = None,
    ) -> None:
        """Raise an error in the first attempts of each task run.

        Args:
            n: The number of attempts; only those that reach the point count.
            error: An exception or its class.
            in_all: Count the first attempts over all task runs together, not for each task run.
            in_run: Fail in one task run only: the one that is the first, second … to reach the
                point. Which one that is may vary where task runs are concurrent.
        """
        call = self._call("fail_times", n, in_all=in_all, in_run=in_run)
        if in_run is not None and (in_all or not is_count(in_run)):
            refuse(f"{call}: in_run is the number of one task run, 1 or more; leave out in_all")
        if not is_count(n):
            refuse(f"{call}: n is a number of attempts; give 1 or more")
        self._add(Fail(packed_error(call, error), n, in_all, in_run), call)

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
        if not is_number(p) or not 0 <= p <= 1:
            refuse(f"{call}: p is a probability; give a number from 0 to 1")
        self._add(FailSometimes(packed_error(call, error), p), call)

    def returns(self, value: Any) -> None:
        """Run this in place of the task's own code; all else is as usual, such as retries.

        It is copied to the process of each attempt: what a function changes in its surroundings,
        the test does not see. Of several on one task the last counts. A generator task yields the
        items of the result.

        Args:
            value: The result, or a function that returns it. The function is called with the
                task's arguments in the order of its parameters, defaults included; for an async
                task it may be async. What it raises is the task's failure.
        """
        call = self._call("returns", value)
        if self.at is not None:
            refuse(f"{call}: it runs in place of the task's own code; leave out at=")
        effect = Return(packed_value(call, value))
        self._add(effect, call, "in place of the body")

    def slow(self, seconds: float) -> None:
        """Make every attempt wait, in real time.

        Args:
            seconds: How long it waits.
        """
        call = self._call("slow", seconds)
        if not is_number(seconds) or not 0 <= seconds < math.inf:
            refuse(f"{call}: give the seconds to wait, 0 or more")
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
        if not is_count(times):
            refuse(f"{call}: times is a number of attempts; give 1 or more")
        self._add(Crash(times), call)

    def corrupt_result(self) -> None:
        """Truncate the stored result of the task to half, as an interrupted write would.

        Code that already holds the value keeps it; code that reads it later finds the damage.
        """
        call = self._call("corrupt_result")
        if self.at is not None:
            refuse(f"{call}: a result can be damaged only after it is stored; leave out at=")
        self._add(CorruptResult(), call, "after the result is stored")

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
        if not is_count(requests):
            refuse(f"{call}: give a number of requests, 1 or more")
        self._add(LoseConnection(requests), call)

    def _add(self, effect: FaultEffect, call: str, at: Moment = "before the body") -> None:
        self.faults.add(self.task, self.at or at, effect, call, drawn=self.drawn)

    def _call(self, method: str, *args: object, **kwargs: object) -> str:
        """Return the call as the test wrote it, for messages."""
        defaults = ("in_all=False", "in_run=None", "times=1")
        given = [f"{name}={value!r}" for name, value in kwargs.items()]
        keywords = [keyword for keyword in given if keyword not in defaults]
        arguments = ", ".join([*map(shown, args), *keywords])
        return f"{called('on', self.task, self.at)}.{method}({arguments})"


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
