# SPDX-License-Identifier: Apache-2.0
"""The cost of the lean task runners relative to the stock ones and to the baseline of both.

The rounds of all three are interleaved.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import pytest
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.measure.host import inside_flow
from flowgauge.measure.intervals import median_interval
from flowgauge.measure.pairs import Rounds, noise_of
from flowgauge.measure.process_use import processor_seconds, resident_mib
from flowgauge.plugin.paired import Paired
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import LEAN, RUNNERS, BaselineKind, names_where
from flowgauge.workflows.kernels import Speeds, expected, work
from patterns.task_runners.chunked_map import chunked_map, values

TASKS = 100, 10
"""Tasks of a map on a lean runner and on a stock one, which takes ten times as long per task."""
MAPS = {"quick": (1, 2), "full": (5, 4)}
"""Flow runs, and maps that each of them times: its start takes longer than one of them."""
FLOW_RUNS = 50
SETTLED_RUNS = 10
"""Flow runs after which the memory of a worker must not grow any more."""
TASKS_OF_A_RUN = 10
TIMED_TASKS = {0.0: 300, 0.02: 150}
"""How many tasks processor time is measured with, by the seconds that each waits."""
SPENT_ROUNDS = 2
ITEMS = 5_000
ITEM_SECONDS = 0.001
CHUNKED_ROUNDS = 2
BARE_PART = 4
"""The bare pool does one item in this many, which is enough to measure its pace."""

on_lean = pytest.mark.runners(*LEAN)
on_lean_dask = pytest.mark.runners(
    *names_where(lambda runner: runner.lean and bool(runner.cluster))
)
with_workers = pytest.mark.runners(
    *names_where(lambda runner: runner.common and not runner.execution.inline)
)
on_lean_and_threads = pytest.mark.runners(
    *names_where(lambda r: r.lean or r.baseline is BaselineKind.THREADS)
)


@task(cache_policy=NO_CACHE)
def add_one(number: int) -> int:
    """Return the next number."""
    return number + 1


@task(cache_policy=NO_CACHE)
def add_one_later(number: int, seconds: float) -> int:
    """Return the next number after some seconds."""
    time.sleep(seconds)
    return number + 1


def next_number(number: int) -> int:
    """Return the next number, without Prefect."""
    return number + 1


def seconds_inside(
    task_runner: TaskRunner[Any], body: Callable[[], None], times: int = 1
) -> list[float]:
    """Return the seconds of each call of a function inside a running flow whose workers are up."""
    seconds = []

    def measure() -> None:
        assert add_one.map(range(8)).result() == list(range(1, 9))
        for _ in range(times):
            start = time.perf_counter()
            body()
            seconds.append(time.perf_counter() - start)

    inside_flow(task_runner, measure)
    return seconds


def seconds_of_task(task_runner: TaskRunner[Any], number: int, times: int = 1) -> list[float]:
    """Return the seconds per task of each of some maps in one flow run."""

    def body() -> None:
        assert add_one.map(range(number)).result() == list(range(1, number + 1))

    return [seconds / number for seconds in seconds_inside(task_runner, body, times)]


def plain_row(
    id: str,
    runner: str,
    figure: str,
    unit: Unit,
    value: Interval,
    params: dict[str, Any],
    rounds: int = 1,
) -> Row:
    """Return a row without a reference."""
    return Row(
        id=id,
        group=Group.LEAN,
        runner=runner,
        params=params,
        figure=figure,
        unit=unit,
        value=value,
        rounds=rounds,
    )


def work_of_item(iterations: int, item: int) -> int:
    """Do the work of an item, the same for each."""
    return work("native", iterations)


@with_workers
@pytest.mark.full
def test_chunked_map(
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    bare_pool: Executor,
    speeds: Speeds,
    started_runners: StartedRunners,
) -> None:
    """The share of the workers' time that goes into items of a millisecond, mapped in chunks."""
    number = paired.size(ITEMS)
    iterations = speeds.iterations("native", ITEM_SECONDS)
    do = functools.partial(work_of_item, iterations)
    bare_number = math.ceil(number / BARE_PART)
    chunk = math.ceil(bare_number / started_runners.workers)
    answer = expected("native", iterations)
    shares: list[float] = []

    def bare_seconds() -> float:
        start = time.perf_counter()
        answers = list(bare_pool.map(do, range(bare_number), chunksize=chunk))
        assert answers == [answer] * bare_number
        return (time.perf_counter() - start) * number / bare_number

    def mapped() -> None:
        assert values(chunked_map(do, range(number))) == [answer] * number

    paired.benchmark.group = Group.LEAN
    paired.benchmark.pedantic(lambda: None)
    before = bare_seconds()
    for _ in range(paired.size(CHUNKED_ROUNDS)):
        (seconds,) = seconds_inside(task_runner, mapped)
        after = bare_seconds()
        shares.append(statistics.fmean([before, after]) / seconds)
        before = after
    figure = f"share of the workers' time for {number} items of 1 ms"
    params = {"items": number}
    share = median_interval(shares)
    paired.add(
        [plain_row("chunked-map", runner_name, figure, Unit.BUSY, share, params, len(shares))]
    )


@on_lean
def test_map(
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    baseline: Baseline,
    started_runners: StartedRunners,
) -> None:
    """The cost of a task of a map relative to the stock runner and to the baseline of both."""
    paired.benchmark.group = Group.LEAN
    many, few = map(paired.size, TASKS)
    stock_name = RUNNERS[runner_name].stock
    stock = started_runners.task_runner(stock_name)
    bare: list[float] = []
    theirs: list[float] = []
    ours: list[float] = []
    twice: list[float] = []
    paired.benchmark.pedantic(lambda: None)
    runs, maps = map(paired.size, MAPS["full" if paired.recorder.full else "quick"])
    for _ in range(runs):
        for _ in range(maps):
            start = time.perf_counter()
            assert baseline.map(next_number, range(many)) == list(range(1, many + 1))
            bare.append((time.perf_counter() - start) / many)
        theirs += seconds_of_task(stock, few, maps)
        ours += seconds_of_task(task_runner, many, maps)
        twice += seconds_of_task(task_runner, many, maps)
    common: dict[str, Any] = {"runner": runner_name, "figure": "time per task of a map"}
    paired.keep(Rounds(tuple(twice), tuple(ours)), id="map", **common, **noise_of(Group.LEAN))
    params = {"tasks": many}
    references = [
        ("map-vs-baseline", bare, baseline.name),
        ("map", theirs, stock_name),
    ]
    for id, times, reference in references:
        paired.keep(
            Rounds(tuple(ours), tuple(times)),
            id=id,
            group=Group.LEAN,
            params=params,
            reference=reference,
            **common,
        )


@on_lean_and_threads
@pytest.mark.parametrize("waits", TIMED_TASKS)
@pytest.mark.full
def test_processor_time(
    paired: Paired,
    task_runner: TaskRunner[Any],
    started_runners: StartedRunners,
    runner_name: str,
    waits: float,
) -> None:
    """The processor time of a task in the flow's process, in workers and in Prefect's server.

    Tasks that wait reach the server one by one, so it can handle fewer of them together.
    """
    if started_runners.prefect_api or started_runners.borrows(runner_name):
        pytest.skip("the processor time of servers and workers that existed before is not seen")
    paired.benchmark.group = Group.LEAN
    paired.benchmark.pedantic(lambda: None)
    number = paired.size(TIMED_TASKS[waits])
    spent: dict[str, list[float]] = {}

    def body() -> None:
        before = processor_seconds()
        mapped = add_one_later.map(range(number), waits)
        assert mapped.result() == list(range(1, number + 1))
        for kind, processes in processor_seconds().items():
            seconds = sum(
                after - before[kind].get(process, 0.0) for process, after in processes.items()
            )
            spent.setdefault(kind, []).append(seconds / number)

    for _ in range(paired.size(SPENT_ROUNDS)):
        seconds_inside(task_runner, body)
    for kind, times in spent.items():
        figure = f"processor time per task of a map in {kind}"
        row = plain_row(
            f"processor-time-{kind.removeprefix('the ')}",
            runner_name,
            figure,
            Unit.SECONDS,
            median_interval(times),
            {"tasks": number, "task_seconds": waits},
            len(times),
        )
        paired.add([row])


@on_lean_dask
@pytest.mark.full
def test_memory(
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    started_runners: StartedRunners,
) -> None:
    """How the memory of a worker grows over fifty flow runs, relative to that after ten."""
    from distributed import Client

    paired.benchmark.group = Group.LEAN
    paired.benchmark.pedantic(lambda: None)
    settled, more = paired.size(SETTLED_RUNS), paired.size(FLOW_RUNS - SETTLED_RUNS)
    with Client(started_runners.dask_scheduler(runner_name), set_as_default=False) as client:

        def memory(runs: int) -> float:
            for _ in range(runs):
                seconds_of_task(task_runner, TASKS_OF_A_RUN)
            return float(max(client.run(resident_mib).values()))

        before, after = memory(settled), memory(more)
    figure = f"memory of a worker after {FLOW_RUNS} flow runs"
    row = plain_row(
        "memory", runner_name, figure, Unit.MEBIBYTES, Interval.exact(after), {"runs": FLOW_RUNS}
    )
    growth = Interval.exact(after / before)
    paired.add([replace(row, reference=f"after {settled}", ratio=growth)])
