# SPDX-License-Identifier: Apache-2.0
"""The rate of task runs up to which a server stores their states in time, found in a few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit

LATEST = 1.0
"""Seconds after which a state should be stored."""
_SENT = 0.9
"""The share of the offered task runs that clients must manage to start."""
_REFINEMENTS = 2


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


def limit_row(limit: Limit, database: str, clients: int) -> Row:
    """Return a limit as a row of the results.

    Args:
        limit: The limit.
        database: The name of the server's database.
        clients: How many started task runs.

    Returns:
        The row, between the rate that was taken and the one that was not.
    """
    is_open = math.isinf(limit.refused)
    refused = limit.taken if is_open else limit.refused
    return Row(
        id="at-least" if is_open else "taken",
        group=Group.LOAD,
        params={"database": database, "clients": clients},
        figure="task runs started in a second whose states are stored within a second",
        unit=Unit.TASK_RUNS_PER_SECOND,
        value=Interval(math.sqrt(limit.taken * refused), limit.taken, refused),
        rounds=len(limit.steps),
    )
