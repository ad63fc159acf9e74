# SPDX-License-Identifier: Apache-2.0
"""What a server does with task runs that come faster than it stores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit


@dataclass(frozen=True)
class Burst:
    """What a server did with task runs that were started as fast as clients could.

    Attributes:
        number: How many there were.
        sent: Task runs that clients started in a second.
        seconds: From the first start until the last state was stored.
        lost: How many states, events of states and logs the server never stored, in this order.
    """

    number: int
    sent: float
    seconds: float
    lost: tuple[int, int, int]

    @property
    def stored(self) -> float:
        """Task runs whose last state the server stored, per second of the burst."""
        return (self.number - self.lost[0]) / self.seconds


def burst_rows(burst: Burst, database: str) -> Iterator[Row]:
    """Yield how fast a server stored a burst, and what it lost of it.

    Args:
        burst: What it did.
        database: The name of its database.

    Yields:
        The rows of group `load`.
    """
    labels: dict[str, Any] = {
        "group": Group.LOAD,
        "params": {"database": database, "tasks": burst.number},
    }
    for what, lost in zip(("states", "events", "logs"), burst.lost, strict=True):
        yield Row(
            id=f"lost-{what}",
            figure=f"{what} of a burst that the server never stored",
            unit=what,
            value=Interval.exact(lost),
            rounds=1,
            **labels,
        )
    yield Row(
        id="stored",
        figure="task runs of a burst whose states are stored in a second",
        unit=Unit.TASK_RUNS_PER_SECOND,
        value=Interval.exact(burst.stored),
        rounds=1,
        **labels,
    )
