# SPDX-License-Identifier: Apache-2.0
"""How often a verdict is wrong, and how often a 10 % slowdown is detected, over twenty runs each.

Not part of the suite, because it takes half an hour:

    uv run pytest benchmarks/noise_experiments.py --benchmark-only --flow-full \
        --flow-runners threads,processes,lean-dask --flow-report-dir reports/noise

Each pair is measured as the pairs of a full run are: until it is precise, or its time is used. Its
results are the last rows that it prints: `verdicts-itself` for identical pairs, and
`verdicts-slowed` for pairs where one is slower by a tenth.
"""

from __future__ import annotations

import time
from typing import Any, Literal, get_args

import pytest
from prefect import task
from prefect.task_runners import TaskRunner

from flowgauge.measure.host import inside_flow
from flowgauge.plugin.paired import Paired
from flowgauge.report.model.verdicts import Verdict, noise_bands, verdict
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit
from flowgauge.runners.table import RUNNERS, Runner

RUNS = 20
SLOWDOWN = 0.10
WARM_UP = 5
GROUP = "experiment"
Kind = Literal["band", "itself", "slowed"]
"""The A/A pair of a run that gives its band; an A/A pair judged by it; a pair with a slowdown."""


@task
def add_one(number: int) -> int:
    """Return the next number."""
    return number + 1


def submitted(numbers: range) -> list[int]:
    """Submit a task for each number and return the results."""
    return [future.result() for future in [add_one.submit(number) for number in numbers]]


def slowed(numbers: range) -> list[int]:
    """Do the same, taking a tenth longer."""
    more = round(SLOWDOWN * len(numbers))
    if more:
        # Not a pause, in which other threads of the interpreter would catch up with their work.
        return submitted(range(len(numbers) + more))[: len(numbers)]
    start = time.perf_counter()
    results = submitted(numbers)
    end = start + (time.perf_counter() - start) * (1 + SLOWDOWN)
    while time.perf_counter() < end:
        pass
    return results


def number_of_tasks(runner: Runner) -> int:
    """Return the number of tasks in a round.

    On a stock runner with processes a round has few, and its slowdown is a loop in the flow's
    thread. On a lean one that loop would hold up what its client does, and slow down the next
    round, which is the reference; there a tenth more tasks fill the workers a tenth longer.
    """
    if runner.in_process:
        return 10
    return 20 if runner.lean else 2


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("run", range(RUNS))
def test_pair(
    paired: Paired, task_runner: TaskRunner[Any], runner_name: str, run: int, kind: Kind
) -> None:
    """Compare submits with submits; each run is as independent as runs of the suite are."""
    numbers = range(paired.size(number_of_tasks(RUNNERS[runner_name])))

    def measure() -> None:
        for _ in range(WARM_UP):
            submitted(numbers)
        paired(
            lambda: (slowed if kind == "slowed" else submitted)(numbers),
            lambda: submitted(numbers),
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id=kind,
            group=Group.NOISE if kind == "band" else GROUP,
            figure="time per task run",
            runner=runner_name,
            against="the same without a slowdown",
            params={"of": GROUP, "run": run},
        )

    inside_flow(task_runner, measure)


def verdicts(rows: list[Row], kind: Kind) -> list[Verdict]:
    """Judge the rows of a kind, each by the band of its own run."""
    return [
        verdict(row, noise_bands(other for other in rows if other.params == row.params))
        for row in rows
        if row.id == kind
    ]


@pytest.mark.parametrize("kind", ["itself", "slowed"])
def test_verdicts(paired: Paired, runner_name: str, kind: Kind) -> None:
    """The share of verdicts with a difference: ideally none, or all if one was slowed down."""
    measured = [row for rows in paired.recorder.measured.values() for row in rows]
    all_verdicts = verdicts([row for row in measured if row.runner == runner_name], kind)
    paired.benchmark.pedantic(lambda: None)
    if not all_verdicts:
        pytest.skip("nothing was timed")
    different = [seen for seen in all_verdicts if seen != "no difference seen"]
    slower = [seen for seen in all_verdicts if seen == "slower"]
    share = len(different if kind == "itself" else slower) / len(all_verdicts)
    figure = "share of runs with a verdict" if kind == "itself" else "share of runs that find it"
    paired.add([share_row(kind, runner_name, share, len(all_verdicts), figure)])


def share_row(kind: Kind, runner: str, share: float, runs: int, figure: str) -> Row:
    """Return a row for a share of runs."""
    return Row(
        id=f"verdicts-{kind}",
        group=GROUP,
        runner=runner,
        params={"runs": runs},
        figure=figure,
        unit=Unit.SHARE,
        value=Interval.exact(share),
        rounds=runs,
    )
