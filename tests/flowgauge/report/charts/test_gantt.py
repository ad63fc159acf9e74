# SPDX-License-Identifier: Apache-2.0
"""The best and the worst runner of a workflow have a Gantt chart each, of the run that counted."""

from __future__ import annotations

from flowgauge.report.charts.gantt import gantt_charts
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Row, Unit
from flowgauge.results.timelines import Span, Timeline


def row(runner: str, seconds: float, group: Group = Group.WORKFLOWS) -> Row:
    """Return a row of a workflow."""
    return Row(
        id="blast",
        group=group,
        runner=runner,
        params={},
        figure="makespan",
        unit=Unit.SECONDS,
        value=Interval.exact(seconds),
        rounds=1,
    )


def run(runner: str, seconds: float) -> Timeline:
    """Return a run of two tasks on two workers."""
    return Timeline(
        "blast", runner, 1.0, (Span("split_1", 0, 0.0, 1.0), Span("merge", 1, 1.0, seconds))
    )


ROWS = [row("threads", 2.0), row("processes", 1.5), row("sequential", 3.0), row("bare Dask", 1.0)]
RUNS = [run("threads", 2.0), run("processes", 1.5), run("sequential", 3.0), run("bare Dask", 1.0)]


def test_best_and_worst_are_drawn() -> None:
    """Of all task runners, baselines left out, the fastest and the slowest; kinds are named."""
    charts = gantt_charts(ROWS, RUNS)
    assert list(charts) == ["gantt-blast-best", "gantt-blast-worst"]
    assert "blast on processes" in charts["gantt-blast-best"]
    assert "blast on sequential" in charts["gantt-blast-worst"]
    assert all(">split<" in chart and ">merge<" in chart for chart in charts.values())


def test_one_runner_has_one_chart() -> None:
    """Where one runner was measured it is not drawn twice."""
    assert list(gantt_charts(ROWS[:1], RUNS)) == ["gantt-blast-best"]


def test_noise_is_no_workflow() -> None:
    """A row of the same name in another group is not drawn."""
    assert gantt_charts([row("threads", 2.0, Group.NOISE)], RUNS) == {}
