# SPDX-License-Identifier: Apache-2.0
"""The faults that a test requests, as plain data sent to the processes that run its tasks."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

FaultPoint = Literal[
    "before the body", "after the effect", "before the result is stored", "after completion"
]
"""Moments in a task run at which a test can place a fault.

- before the body: the run is Running, and its arguments are available;
- after the effect: the body has returned, but Prefect has recorded nothing of it yet;
- before the result is stored: Prefect sets Completed first and then stores the result; tasks
  that store none never get here;
- after completion: Completed is set and the result stored (or left to an enclosing transaction),
  and no hook has been called yet.

A run that finds its result in the cache executes no body and reaches none of them. A stub runs in
place of the body, and so between the first two.
"""
FAULT_POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)
Moment = FaultPoint | Literal["in place of the body", "after the result is stored"]


@dataclass(frozen=True)
class Fail:
    """The first attempts of each task run, of one, or over all together, raise an error."""

    error: bytes
    times: int
    in_all: bool = False
    in_run: int | None = None


@dataclass(frozen=True)
class FailSometimes:
    """Attempts chosen by the seed raise an error."""

    error: bytes
    probability: float


@dataclass(frozen=True)
class Slow:
    """Every attempt waits."""

    seconds: float


@dataclass(frozen=True)
class Crash:
    """The process that runs the task is killed in the first attempts of each task run."""

    times: int


@dataclass(frozen=True)
class CorruptResult:
    """Half of the stored result is lost, as after an interrupted write."""


@dataclass(frozen=True)
class LoseConnection:
    """The process can't reach the Prefect server for a number of requests."""

    requests: int


@dataclass(frozen=True)
class Return:
    """The task's own code does not run; its result is a value, or what a function returns."""

    content: bytes


FaultEffect = Fail | FailSometimes | Slow | Crash | CorruptResult | LoseConnection | Return


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        number: Its index among the faults of the test.
        task: The name of a task, or a pattern (`fnmatch`) of names.
        at: The moment at which it strikes.
        effect: What it does.
        call: The call with which the test requested it, for messages.
        drawn: Whether it was drawn, and so may miss.
    """

    number: int
    task: str
    at: Moment
    effect: FaultEffect
    call: str
    drawn: bool = False

    def concerns(self, task: str) -> bool:
        """Return whether the fault is for tasks of this name."""
        return fnmatchcase(task, self.task)

    def overlaps(self, tasks: str) -> bool:
        """Return whether the fault is for some of the tasks that a pattern stands for."""
        return self.task == tasks or self.concerns(tasks) or fnmatchcase(self.task, tasks)

    @property
    def ends_attempt(self) -> bool:
        """Whether nothing after this fault happens in the same attempt."""
        return isinstance(self.effect, Fail | FailSometimes | Crash)

    def contradicts(self, other: Fault) -> bool:
        """Return whether of this fault and another one of the same tasks only one makes sense."""

        def fails(fault: Fault) -> bool:
            failing = isinstance(fault.effect, Fail | FailSometimes)
            return failing and fault.at == "before the body"

        pairs = ((self, other), (other, self))
        return self.task == other.task and any(
            isinstance(one.effect, Return) and fails(another) for one, another in pairs
        )

    def strikes(self, seed: int, subject: str, attempt: int, struck: int, run: int = 1) -> bool:
        """Decide whether the fault strikes.

        Args:
            seed: The seed of the test.
            subject: A name of the task run that is the same on every task runner.
            attempt: The number of times that it has reached the point, from 1.
            struck: How often the fault has struck so far, over all task runs.
            run: The number of the task run among those that reached the point, from 1.

        Returns:
            Whether it strikes: the same for the same arguments in every process.
        """
        match self.effect:
            case Fail(times=times, in_all=True):
                return struck < times
            case Fail(times=times, in_run=int(only)):
                return run == only and attempt <= times
            case Fail(times=times) | Crash(times=times):
                return attempt <= times
            case FailSometimes(probability=probability):
                return draw(seed, self.number, self.at, subject, attempt) < probability
            case LoseConnection():
                return attempt == 1
        return True


def draw(*key: object) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on the arguments."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def describe(value: Any) -> str:
    """Return a description that is the same for equal values in every process.

    Args:
        value: An argument of a task.

    Returns:
        Its `repr` without memory addresses, with the items of sets and mappings sorted.
    """
    match value:
        case Mapping():
            pairs = sorted(f"{describe(key)}: {describe(item)}" for key, item in value.items())
            return "{" + ", ".join(pairs) + "}"
        case set() | frozenset():
            return "{" + ", ".join(sorted(map(describe, value))) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(describe, value)) + "]"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


@dataclass(frozen=True)
class Plan:
    """The faults of one test.

    Attributes:
        seed: The seed for everything that is random.
        api_url: The address of the Prefect API that connections are lost to.
        journal: The name of the file in which processes record the points they reach.
        faults: The faults, in the order in which they strike.
    """

    seed: int
    api_url: str
    journal: str
    faults: tuple[Fault, ...] = ()

    def write(self, folder: Path) -> None:
        """Make this the plan that every process of the pytest run follows from now on."""
        unfinished = folder / f".plan.{os.getpid()}"
        unfinished.write_bytes(pickle.dumps(self))
        unfinished.replace(plan_path(folder))


def plan_path(folder: Path) -> Path:
    """Return the path of the plan, which exists only while a test has faults."""
    return folder / "plan.pickle"
