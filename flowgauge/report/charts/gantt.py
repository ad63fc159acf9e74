# SPDX-License-Identifier: Apache-2.0
"""Draws Gantt charts: when each task of a workflow ran, and on which worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt

from flowgauge.report.charts.charts import svg
from flowgauge.report.model.formats import ratio, seconds
from flowgauge.report.model.labels import BASELINES
from flowgauge.results.rows import Group, Row
from flowgauge.results.timelines import Timeline

_WIDTH = 700
_LANE_HEIGHT = 34


def gantt_charts(rows: Iterable[Row], timelines: Iterable[Timeline]) -> dict[str, str]:
    """Draw each workflow on its fastest and on its slowest task runner.

    Args:
        rows: The rows of a run; those of other groups are ignored.
        timelines: The timelines of the same run.

    Returns:
        SVG by file name without suffix, such as `gantt-blast-best`; only `-best` for a workflow
        that was measured on one runner.
    """
    by_run = {(run.workflow, run.runner): run for run in timelines}
    charts = {}
    for workflow, measured in _workflows(rows).items():
        best, worst = measured[0], measured[-1]
        for place, row in {"worst": worst, "best": best}.items():
            timeline = by_run.get((workflow, str(row.runner)))
            if timeline and not (place == "worst" and worst is best):
                # Both have the same time scale, so that they can be compared.
                charts[f"gantt-{_slug(workflow)}-{place}"] = gantt(timeline, worst.value.high)
    return dict(sorted(charts.items()))


def gantt(timeline: Timeline, longest: float | None = None) -> str:
    """Draw one run: a lane for each worker, a colour for each kind of task.

    Args:
        timeline: The run.
        longest: Seconds that the axis must include.

    Returns:
        An SVG with a mark at the lower bound of the makespan.
    """
    bars = [
        span._asdict() | {"kind": span.kind, "worker": span.lane + 1} for span in timeline.spans
    ]
    end = max(timeline.makespan, timeline.lower_bound, longest or 0)
    x = alt.X("start:Q", title="seconds", scale=alt.Scale(domain=[0, end], nice=False))
    kinds = list(dict.fromkeys(span.kind for span in timeline.spans))
    lanes = len({span.lane for span in timeline.spans})
    tasks = (
        alt.Chart(alt.InlineData(values=bars), height=_LANE_HEIGHT * lanes, width=_WIDTH)
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=x,
            x2="end:Q",
            y=alt.Y("worker:O", title="worker"),
            color=alt.Color(
                "kind:N",
                title="task",
                scale=alt.Scale(domain=kinds, scheme="tableau20"),
                legend=alt.Legend(orient="bottom", columns=4, labelLimit=240),
            ),
        )
    )
    bound = (
        alt.Chart(alt.InlineData(values=[{"bound": timeline.lower_bound}]))
        .mark_rule(strokeDash=[5, 4], strokeWidth=2)
        .encode(x=alt.X("bound:Q"))
    )
    title = f"{timeline.workflow} on {timeline.runner}: {seconds(timeline.makespan)}"
    if timeline.lower_bound:
        title += f", {ratio(timeline.makespan / timeline.lower_bound)} the lower bound (dashed)"
    return svg(alt.layer(tasks, bound).properties(title=title).to_dict())


def _workflows(rows: Iterable[Row]) -> dict[str, Sequence[Row]]:
    """Return the rows of each workflow on task runners, the fastest first."""
    by_workflow: dict[str, list[Row]] = {}
    for row in rows:
        if row.group == Group.WORKFLOWS and row.runner not in (*BASELINES, None):
            by_workflow.setdefault(row.id, []).append(row)
    return {
        id: sorted(of_workflow, key=lambda row: row.value.median)
        for id, of_workflow in by_workflow.items()
    }


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
