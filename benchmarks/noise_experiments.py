# SPDX-License-Identifier: Apache-2.0
"""How often a verdict is wrong, and how often a slowdown of a tenth is found: twenty runs of each.

Not part of the suite, for it takes half an hour:

    uv run pytest benchmarks/noise_experiments.py --benchmark-only \
        --runners sequential,threads,processes,dask-processes --report-dir reports/noise

Its figures are the last rows that it prints: `verdicts-itself`, of pairs that are the same, and
`verdicts-slowed`, of those where one is slower by a tenth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import pytest
from prefect import task
from prefect.task_runners import TaskRunner

from flowgauge.measure.host import inside_flow
from flowgauge.measure.recorder import Paired
from flowgauge.measure.results import Row
from flowgauge.report.verdicts import Verdict, noise_bands, verdict

RUNS = 20
SLOWDOWN = 0.10
WARM_UP = 6
TASKS = {"sequential": 20, "threads": 20}
FEW_TASKS = 2
ROUNDS = {"threads": 50}
FEW_ROUNDS = 24
"""Rounds of those that are not named; threads vary the most from one round to the next."""
GROUP = "experiment"
Kind = Literal["band", "itself", "slowed"]
"""The A/A pair of a run, which gives its band; one that is judged by it; one with a slowdown."""


@task
def add_one(number: int) -> int:
    """Return the next number."""
    return number + 1


def submitted(numbers: range, longer: float = 0.0) -> list[int]:
    """Submit a task for each number and return the results.

    Args:
        numbers: Some.
        longer: Seconds by which each submit takes longer.
    """
    futures = []
    for number in numbers:
        end = time.perf_counter() + longer
        while time.perf_counter() < end:
            pass
        futures.append(add_one.submit(number))
    return [future.result() for future in futures]


def slowed(numbers: range) -> Callable[[], list[int]]:
    """Return what does the same in a tenth more time, throughout.

    A pause at the end would give whatever goes on in the background time to catch up, and the
    round after it is the slower.
    """
    more = round(SLOWDOWN * len(numbers))
    if more:
        # What computes in threads holds the others up by more than its own time.
        return lambda: submitted(range(len(numbers) + more))[: len(numbers)]
    longer = SLOWDOWN * typical_seconds(numbers)
    return lambda: submitted(numbers, longer)


def typical_seconds(numbers: range) -> float:
    """Return what a task takes once all has started that starts with the first ones."""
    times = []
    for _ in range(WARM_UP):
        start = time.perf_counter()
        submitted(numbers)
        times.append((time.perf_counter() - start) / len(numbers))
    return statistics.median(times[1:])


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("run", range(RUNS))
def test_pair(
    paired: Paired, task_runner: TaskRunner[Any], runner_name: str, run: int, kind: Kind
) -> None:
    """Measure submits beside submits; each run is as independent as runs of the suite are."""
    numbers = range(paired.size(TASKS.get(runner_name, FEW_TASKS)))

    def measure() -> None:
        typical_seconds(numbers)
        paired(
            slowed(numbers) if kind == "slowed" else lambda: submitted(numbers),
            lambda: submitted(numbers),
            rounds=ROUNDS.get(runner_name, FEW_ROUNDS),
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id=kind,
            group="noise" if kind == "band" else GROUP,
            figure="time per task run",
            runner=runner_name,
            against="the same without a slowdown",
            params={"of": GROUP, "run": run},
        )

    inside_flow(task_runner, measure)


def verdicts(rows: list[Row], kind: Kind) -> list[Verdict]:
    """Judge the rows of a kind, each by the band of its own run."""
    return [
        verdict(row, noise_bands(each for each in rows if each.params == row.params))
        for row in rows
        if row.id == kind
    ]


@pytest.mark.parametrize("kind", ["itself", "slowed"])
def test_verdicts(paired: Paired, runner_name: str, kind: Kind) -> None:
    """How many verdicts see a difference: none should, or, of those slowed, all should say so."""
    measured = [row for rows in paired.recorder.measured.values() for row in rows]
    found = verdicts([row for row in measured if row.runner == runner_name], kind)
    paired.benchmark.pedantic(lambda: None)
    if not found:
        pytest.skip("nothing was timed")
    seen = [each for each in found if each != "no difference seen"]
    right = [each for each in found if each == "slower"]
    share = len(seen if kind == "itself" else right) / len(found)
    figure = "share of runs with a verdict" if kind == "itself" else "share of runs that find it"
    paired.add([share_row(kind, runner_name, share, len(found), figure)])


def share_row(kind: Kind, runner: str, share: float, runs: int, figure: str) -> Row:
    """Return a row for a share of runs."""
    return Row(
        id=f"verdicts-{kind}",
        group=GROUP,
        runner=runner,
        params={"runs": runs},
        figure=figure,
        unit="share",
        value=share,
        low=share,
        high=share,
        rounds=runs,
        reference=None,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
    )
