# SPDX-License-Identifier: Apache-2.0
"""What a server does with task runs that come faster than it stores them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flowgauge.measure.intervals import median_interval
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit

_PARTS = 10
"""In so many parts of a burst, of equally many task runs, the rate of storing is read."""


@dataclass(frozen=True)
class Burst:
    """What a server did with task runs that were started as fast as clients could.

    Attributes:
        number: How many there were.
        sent: Task runs that clients started in a second.
        seconds: From the first start until the last state was stored.
        stored: Task runs whose last state was stored in a second, in each tenth of them but the
            first.
        lost: How many states, events of states and logs the server never stored, in this order.
    """

    number: int
    sent: float
    seconds: float
    stored: tuple[float, ...]
    lost: tuple[int, int, int]


def stored_rates(moments: Sequence[float]) -> tuple[float, ...]:
    """Return how many states a server stored in a second, in each tenth of them but the first.

    Args:
        moments: When each was stored, in seconds, in rising order.

    Returns:
        States per second; a part that was stored at one moment is left out.
    """
    ends = [round(len(moments) * part / _PARTS) for part in range(1, _PARTS + 1)]
    return tuple(
        (last - first) / (moments[last - 1] - moments[first - 1])
        for first, last in itertools.pairwise(ends)
        if first and moments[last - 1] > moments[first - 1]
    )


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
        value=median_interval(burst.stored),
        rounds=len(burst.stored),
        **labels,
    )
