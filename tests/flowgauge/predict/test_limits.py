# SPDX-License-Identifier: Apache-2.0
"""What limits large runs is computed from costs, and agrees with what is simulated."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.predict.advice import WORTH
from flowgauge.predict.errors import Spread
from flowgauge.predict.held_out import Timed
from flowgauge.predict.limit_rows import (
    BATCHES,
    STORED,
    TASKS,
    WORKERS,
    computed_rows,
    predicted_row,
)
from flowgauge.predict.limits import (
    MESSAGES,
    MOST_MESSAGES,
    Part,
    batches_below,
    cluster,
    compute,
    dropped_from,
    for_server,
    per_worker,
)
from flowgauge.predict.mapped import Mapped
from flowgauge.predict.prediction import Predictor
from flowgauge.predict.simulation import Costs, Machine
from flowgauge.results.interval import Interval
from flowgauge.workflows.shapes import shape

costs = st.builds(
    Costs,
    submit=st.floats(1e-4, 0.1),
    task=st.floats(1e-4, 0.1),
    dependency_latency=st.just(0.0),
    byte=st.just(0.0),
    background=st.just(0.0),
)
rates = st.floats(5, 1000).map(lambda rate: Interval(rate, rate * 0.9, rate * 1.1))
runner_names = st.sampled_from(["threads", "processes", "dask-processes"])


def predictor(runner: str, costs: Costs) -> Predictor:
    """Return a predictor whose costs vary by a tenth."""
    draws = np.random.default_rng(0).normal(0.0, 0.1, (1000, 5))
    return Predictor(
        runner=runner,
        costs=costs,
        machine=Machine(2, 2.0),
        start=0.0,
        knows_edges=True,
        most_bytes=0,
        most_tasks=100,
        draws=draws,
        spread=Spread(0.1, 0.05),
    )


@given(runner_names, costs, rates, st.sampled_from([1, 4, 32]), st.floats(0, 1))
def test_no_run_is_faster_than_its_slowest_part_nor_slower_than_all_in_turn(
    runner: str, costs: Costs, rate: Interval, workers: int, seconds: float
) -> None:
    """The time of a run is between that of the part that limits it, and that of all parts added."""
    mapped = Mapped(seconds, 1000, "native")
    computed = compute(mapped, workers, predictor(runner, costs), rate)
    others = {part: time for part, time in computed.parts.items() if part is not Part.SERVER}
    # The first tasks and the last ones don't keep all workers busy.
    edges = 1 + 4 * workers / 256
    assert max(others.values()) <= computed.makespan.median * edges
    assert computed.makespan.median <= sum(others.values()) * edges
    storing = 1000 / rate.median
    assert computed.stored.median == pytest.approx(max(computed.makespan.median, storing))
    assert computed.parts[computed.limit] == max(computed.parts.values())


@given(runner_names, costs, rates, st.sampled_from([1, 4, 32]))
def test_longer_tasks_than_a_part_needs_are_not_limited_by_it(
    runner: str, costs: Costs, rate: Interval, workers: int
) -> None:
    """The length is where a part takes as long as the work: below it limits, above the work."""
    found = predictor(runner, costs)
    lengths = {Part.SERVER: for_server(rate, workers)} | per_worker(found, workers)
    for part, length in lengths.items():
        shorter, longer = (
            compute(Mapped(seconds, 4 * workers, "native"), workers, found, rate).parts
            for seconds in (0.9 * length.median, 1.1 * length.median)
        )
        assert shorter[part] > shorter[Part.WORK]
        assert longer[part] < longer[Part.WORK]
        assert length.low < length.median < length.high


@given(runner_names, costs, rates, st.sampled_from([1, 4]))
def test_batches_pay_below_the_length_that_is_told(
    runner: str, costs: Costs, rate: Interval, workers: int
) -> None:
    """Below it, batches save a tenth of the time until all is stored; above it none does."""
    found = predictor(runner, costs).on(cluster(workers))
    below = batches_below(found, rate, workers)
    calls = 2000 * workers

    def saved(seconds: float) -> float:
        times = [
            max(
                Mapped(seconds, calls, "native").makespan(batch, found),
                calls / batch / rate.median,
            )
            for batch in (1, 10, 100, 400)
        ]
        return 1 - min(times) / times[0]

    assert saved(below / 1.3) > WORTH
    # Threads that take turns with the interpreter wait for each other, too.
    assert saved(below * (3 if runner == "threads" else 1.3)) < WORTH


@given(runner_names, costs, rates, st.sampled_from([1, 4]))
def test_states_are_dropped_once_too_many_wait(
    runner: str, costs: Costs, rate: Interval, workers: int
) -> None:
    """When so many tasks have run, about as many messages wait as a server keeps."""
    found = predictor(runner, costs)
    tasks = dropped_from(found, rate, workers)
    number = 100_000 if math.isinf(tasks) else round(tasks)
    makespan = compute(Mapped(0.0, number, "native"), workers, found, rate).makespan.median
    waiting = MESSAGES * (number - makespan * rate.median)
    # What is left is the difference of two numbers that may be much larger.
    uncertain = 0.05 * MESSAGES * number
    if math.isinf(tasks):
        assert waiting <= uncertain
    else:
        assert waiting == pytest.approx(MOST_MESSAGES, abs=uncertain)


def test_a_server_keeps_as_many_messages_as_it_is_taken_to() -> None:
    """Prefect's queues have that length."""
    from prefect.server.utilities.messaging.memory import Subscription, Topic

    assert Subscription(Topic("events"))._queue.maxsize == MOST_MESSAGES


def test_workers_that_share_an_interpreter_take_turns() -> None:
    """More threads don't make the costs of tasks less, more processes do."""
    costs = Costs(0.001, 0.004, 0.0, 0.0)
    assert per_worker(predictor("threads", costs), 10)[Part.RUNNER].median == pytest.approx(0.05)
    of_processes = per_worker(predictor("processes", costs), 10)
    assert of_processes[Part.RUNNER].median == pytest.approx(0.004)
    assert of_processes[Part.SCHEDULER].median == pytest.approx(0.01)


@functools.cache
def rows() -> dict[tuple[object, ...], float]:
    """Return the computed rows of one task runner."""
    found = predictor("processes", Costs(0.002, 0.008, 0.0, 0.0))
    return {
        (row.id, *row.params.values()): row.value.median
        for row in computed_rows([found], {"SQLite": Interval(50, 45, 55)})
        if row.is_computed
    }


def test_each_number_of_workers_and_tasks_has_its_rows() -> None:
    """A run of a million tasks on a thousand workers waits for the server, not for the work."""
    assert {(id, workers) for id, workers, *_ in rows() if id in list(Part)} == {
        (part, workers) for part in ("server", "scheduler", "runner") for workers in WORKERS
    }
    assert rows()["server", 1000, "SQLite"] == pytest.approx(20)
    assert rows()["scheduler", 100] == pytest.approx(0.2)
    assert rows()[BATCHES, 1000, "SQLite"] == pytest.approx(18)
    assert rows()[STORED, 10**6, 1000, "SQLite", 1.0] == pytest.approx(20_000)
    assert rows()[STORED, 10**6, 1, "SQLite", 1.0] == pytest.approx(1.008e6, rel=0.01)
    stored = [key for key in rows() if key[0] == STORED]
    assert len(stored) == len(TASKS) * len(WORKERS)


def test_a_row_says_what_limits_a_run() -> None:
    """It is relative to the part that limits it, which here takes all of the time."""
    found = predictor("processes", Costs(0.002, 0.008, 0.0, 0.0))
    stored = {
        row.params["workers"]: row
        for row in computed_rows([found], {"SQLite": Interval(50, 45, 55)})
        if row.id == STORED and row.params["tasks"] == 10**6
    }
    assert stored[1].reference == "the work alone"
    assert stored[1000].reference == "the server alone"
    ratio = stored[1000].ratio
    assert ratio is not None
    assert ratio.median == 1


def test_a_measured_run_is_compared_with_what_was_computed() -> None:
    """The row has the measured time, and what was computed relative to it."""
    found = predictor("processes", Costs(0.002, 0.008, 0.0, 0.0))
    mapped = Mapped(0.1, 1000, "native")
    timed = Timed(shape("trivial", 1000, 1, seconds=0.1), (50.0,), (1.0,))
    row = predicted_row(mapped, timed, found)
    assert row.value.median == 50
    assert not row.is_computed
    assert row.ratio is not None
    assert row.ratio.median == pytest.approx(mapped.makespan(1, found) / 50)
    slow = replace(timed, paces=(0.5,))
    twice = predicted_row(mapped, slow, found)
    assert twice.ratio is not None
    assert twice.ratio.median > 1.5 * row.ratio.median
