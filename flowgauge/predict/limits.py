# SPDX-License-Identifier: Apache-2.0
"""Which part limits a large run: the work, the task runner, the flow that submits, or the server.

Computed from measured costs, for equal tasks without edges, on more workers than were measured. Of
each part it is known how long it takes if all others took no time; the part that takes longest
limits the run. The work is the only part that grows with the length of tasks, so of tasks that are
long enough it is always the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from enum import StrEnum

from flowgauge.predict.advice import WORTH
from flowgauge.predict.mapped import Mapped
from flowgauge.predict.prediction import Predictor, around
from flowgauge.predict.simulation import Machine
from flowgauge.results.interval import Interval
from flowgauge.runners.table import RUNNERS

MESSAGES, MOST_MESSAGES = 3, 10_000
"""The messages of a task run, one for each state, and how many each service of a server keeps until
it has stored them. It drops those that come next (`prefect.server.utilities.messaging.memory`)."""


class Part(StrEnum):
    """What a run passes through."""

    SERVER = "server"
    """Stores the states of each task run, one after the other."""
    SCHEDULER = "scheduler"
    """The flow's own thread, which submits one task after the other."""
    RUNNER = "runner"
    """The workers, apart from the work: what each task costs them."""
    WORK = "work"


@dataclass(frozen=True)
class Computed:
    """What was computed for a large run.

    Attributes:
        parts: Seconds that each part would take if all others took no time.
        makespan: Seconds from the first submission to the end of the last task.
        stored: Seconds until the server has stored the state of each task run.
    """

    parts: Mapping[Part, float]
    makespan: Interval
    stored: Interval

    @property
    def limit(self) -> Part:
        """The part that takes longest."""
        return max(self.parts, key=lambda part: self.parts[part])


def compute(mapped: Mapped, workers: int, predictor: Predictor, server: Interval) -> Computed:
    """Compute how long a large run takes, and each part of it.

    Args:
        mapped: What is run, each call in a task run of its own.
        workers: How many tasks run at once.
        predictor: That of the task runner.
        server: The task runs that the server stores in a second.

    Returns:
        What was computed. The server stores states while tasks run, and does not slow them down.
    """
    makespan, _ = mapped.makespan_interval(1, predictor.on(cluster(workers)))
    lengths = {Part.SERVER: for_server(server, workers)} | per_worker(predictor, workers)
    parts = {part: mapped.tasks * length.median / workers for part, length in lengths.items()}
    storing = lengths[Part.SERVER].scaled(mapped.tasks / workers)
    ends = zip(astuple(makespan), astuple(storing), strict=True)
    return Computed(
        parts=parts | {Part.WORK: math.ceil(mapped.tasks / workers) * mapped.seconds},
        makespan=makespan,
        stored=Interval(*(max(pair) for pair in ends)),
    )


def cluster(workers: int) -> Machine:
    """Return machines on which each worker, the flow and the server have a core of their own."""
    return Machine(workers, workers + 2.0)


def per_worker(predictor: Predictor, workers: int) -> dict[Part, Interval]:
    """Return for how long each worker must work on each task so that a part does not limit a run.

    Args:
        predictor: That of the task runner.
        workers: How many tasks run at once.

    Returns:
        Seconds of work, with their 95 % intervals, for the scheduler and the task runner. Where the
        workers share the flow's interpreter, they take turns with it, and the task runner's part
        has the costs of both.
    """
    import numpy as np

    costs = predictor.costs
    submit, task, *_ = (np.array(astuple(costs)) * np.exp(predictor.draws)).T
    if RUNNERS[predictor.runner].execution.one_interpreter:
        return {
            Part.RUNNER: around(workers * (costs.submit + costs.task), workers * (submit + task))
        }
    return {
        Part.SCHEDULER: around(workers * costs.submit, workers * submit),
        Part.RUNNER: around(costs.task, task),
    }


def for_server(server: Interval, workers: int) -> Interval:
    """Return for how long each worker must work on each task so that the server keeps up.

    Args:
        server: The task runs that the server stores in a second.
        workers: How many tasks run at once.

    Returns:
        Seconds of work.
    """
    return Interval(*(workers / rate for rate in (server.median, server.high, server.low)))


def batches_below(predictor: Predictor, server: Interval, workers: int) -> float:
    """Return below which length of calls it pays to put several of them into one task run.

    It pays if it saves a tenth of the time until all states are stored, of many more calls than
    there are workers. On threads it pays a little longer, because they wait for each other's turn.

    Args:
        predictor: That of the task runner.
        server: The task runs that the server stores in a second.
        workers: How many tasks run at once.

    Returns:
        Seconds of work in a call.
    """
    lengths = {Part.SERVER: for_server(server, workers)} | per_worker(predictor, workers)
    beside = max(length.median for length in lengths.values())
    # What a worker pays for a task comes on top of the work, all else goes on beside it.
    return (1 - WORTH) * max(beside, predictor.costs.task / WORTH)


def dropped_from(predictor: Predictor, server: Interval, workers: int) -> float:
    """Return from how many tasks without work on a server drops states, because it is far behind.

    Args:
        predictor: That of the task runner.
        server: The task runs that the server stores in a second.
        workers: How many tasks run at once.

    Returns:
        The number of tasks; infinite if the server is faster than the task runner.
    """
    each = max(length.median for length in per_worker(predictor, workers).values()) / workers
    kept_up = each * server.median
    return MOST_MESSAGES / MESSAGES / (1 - kept_up) if kept_up < 1 else math.inf
