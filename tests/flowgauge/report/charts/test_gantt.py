# SPDX-License-Identifier: Apache-2.0
"""The best and the worst task runner of a workflow each have a Gantt chart."""

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
    """The quickest and slowest task runners are drawn, baselines are not; task kinds are named."""
    charts = gantt_charts(ROWS, RUNS)
    assert list(charts) == ["gantt-blast-best", "gantt-blast-worst"]
    assert "blast on processes" in charts["gantt-blast-best"]
    assert "blast on sequential" in charts["gantt-blast-worst"]
    assert all(">split<" in chart and ">merge<" in chart for chart in charts.values())


def test_one_runner_has_one_chart() -> None:
    """If only one runner was measured, it is drawn once."""
    assert list(gantt_charts(ROWS[:1], RUNS)) == ["gantt-blast-best"]


def test_noise_is_not_drawn() -> None:
    """A row of the same name in another group is not drawn."""
    assert gantt_charts([row("threads", 2.0, Group.NOISE)], RUNS) == {}
