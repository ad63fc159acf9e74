# SPDX-License-Identifier: Apache-2.0
"""Draws when each task of a workflow ran, and on which worker: a Gantt chart."""

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
    """Draw each workflow on the runner that was best at it, and on the one that was worst.

    Args:
        rows: Of a run; those of other groups are passed over.
        timelines: Of the same run.

    Returns:
        SVG by a name for the file, such as `gantt-blast-best`; one only, `-best`, for a workflow
        that was measured on one runner.
    """
    kept = {(each.workflow, each.runner): each for each in timelines}
    charts = {}
    for workflow, measured in _workflows(rows).items():
        best, worst = measured[0], measured[-1]
        for place, row in {"worst": worst, "best": best}.items():
            drawn = kept.get((workflow, str(row.runner)))
            if drawn and not (place == "worst" and worst is best):
                # Both on one scale of time, so that one can be held against the other.
                charts[f"gantt-{_slug(workflow)}-{place}"] = gantt(drawn, worst.value.high)
    return dict(sorted(charts.items()))


def gantt(drawn: Timeline, longest: float | None = None) -> str:
    """Draw one run: a lane for each worker, a colour for each kind of task.

    Args:
        drawn: The run.
        longest: Seconds that the axis holds at least.

    Returns:
        An SVG, the makespan that no scheduler can beat marked in it.
    """
    bars = [span._asdict() | {"kind": span.kind, "worker": span.lane + 1} for span in drawn.spans]
    end = max(drawn.makespan, drawn.lower_bound, longest or 0)
    x = alt.X("start:Q", title="seconds", scale=alt.Scale(domain=[0, end], nice=False))
    kinds = list(dict.fromkeys(span.kind for span in drawn.spans))
    lanes = len({span.lane for span in drawn.spans})
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
        alt.Chart(alt.InlineData(values=[{"bound": drawn.lower_bound}]))
        .mark_rule(strokeDash=[5, 4], strokeWidth=2)
        .encode(x=alt.X("bound:Q"))
    )
    title = f"{drawn.workflow} on {drawn.runner}: {seconds(drawn.makespan)}"
    if drawn.lower_bound:
        title += f", {ratio(drawn.makespan / drawn.lower_bound)} the lower bound (dashed)"
    return svg(alt.layer(tasks, bound).properties(title=title).to_dict())


def _workflows(rows: Iterable[Row]) -> dict[str, Sequence[Row]]:
    """Return the rows of each workflow on task runners, the fastest first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.group == Group.WORKFLOWS and row.runner not in (*BASELINES, None):
            found.setdefault(row.id, []).append(row)
    return {id: sorted(each, key=lambda row: row.value.median) for id, each in found.items()}


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
