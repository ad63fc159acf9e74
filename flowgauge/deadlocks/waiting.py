# SPDX-License-Identifier: Apache-2.0
"""Which task runs wait for each other for ever, judging from who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Awaited:
    """A task run that another one waits for.

    Attributes:
        key: What tells it from other task runs.
        name: The name of its task.
    """

    key: str
    name: str


@dataclass(frozen=True)
class Waiting:
    """A task run that waits for others, without a time limit, in a place of a pool.

    Attributes:
        name: The name of its task.
        awaited: Task runs; it goes on when one of them ends.
        where: File and line of the code that waits.
    """

    name: str
    awaited: tuple[Awaited, ...]
    where: str


@dataclass(frozen=True)
class Pool:
    """What executes task runs.

    Attributes:
        name: What people call it.
        width: How many task runs it executes at once.
        waiting: The task runs that take a place and wait, by their keys.
        submitted: The keys of task runs that wait for a place.
    """

    name: str
    width: int
    waiting: Mapping[str, Waiting]
    submitted: frozenset[str]


def deadlocked(pools: list[Pool]) -> list[Pool]:
    """Return the pools in which nothing can go on: each place is taken by who waits for a place.

    Nothing else is assumed of what is not known: a task run that computes, sleeps, waits with a
    time limit or waits for anything else may go on, and so may one that waits for it.

    Args:
        pools: All pools, each as it was seen at one moment.

    Returns:
        Those pools.
    """
    waiting = {key: each for pool in pools for key, each in pool.waiting.items()}
    pool_of = {key: pool for pool in pools for key in pool.submitted}
    stuck = set(waiting)

    def is_full(pool: Pool) -> bool:
        return 0 < pool.width <= len(stuck & pool.waiting.keys())

    def can_go_on(key: str) -> bool:
        return any(
            each.key not in stuck and not (each.key in pool_of and is_full(pool_of[each.key]))
            for each in waiting[key].awaited
        )

    while free := {key for key in stuck if can_go_on(key)}:
        stuck -= free
    return [pool for pool in pools if is_full(pool)]


def told(pool: Pool) -> str:
    """Return one line that says what waits for what, and what to do.

    Args:
        pool: A pool in which nothing can go on.

    Returns:
        The line.
    """
    places = f"all {pool.width} places are" if pool.width > 1 else "its only place is"
    waits = sorted(
        {
            f"{each.name!r} waits for {' or '.join(sorted({repr(a.name) for a in each.awaited}))}"
            f" ({each.where})"
            for each in pool.waiting.values()
        }
    )
    return (
        f"deadlock in {pool.name}: {places} taken by tasks that wait for tasks without a place:"
        f" {'; '.join(waits)}. Call those tasks directly, wait for them in the flow, or use more"
        " workers than tasks that wait (Prefect #17060, #14143)"
    )
