# SPDX-License-Identifier: Apache-2.0
"""Draws which part limits a large run, by the number of workers and the length of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from flowgauge.report.charts.axes import NUMBERS, SECONDS, log_axis, log_height
from flowgauge.report.model.formats import seconds
from flowgauge.report.model.labels import NO_RUNNER, runner_name, runners
from flowgauge.results.rows import Row

_COLOURS = {"scheduler": "#0072B2", "runner": "#009E73"}
_SERVERS = ("#D55E00", "#E69F00", "#CC79A7")
_SHOWN = "limits_runner"


def limits_chart(rows: Sequence[Row]) -> alt.LayerChart | alt.FacetChart:
    """Draw a line for each part: for tasks below it, that part takes longer than the work.

    Args:
        rows: Computed rows of parts; the server's belong to all task runners.

    Returns:
        A chart of one task runner at a time, which the user can select in the page.
    """
    names = [name for name in runners(rows) if name != NO_RUNNER] or [NO_RUNNER]
    records = [
        _record(row, name)
        for row in rows
        for name in (names if runner_name(row) == NO_RUNNER else [runner_name(row)])
    ]
    # The last of the table's task runners works on many hosts.
    shown = alt.param(
        name=_SHOWN, value=names[-1], bind=alt.binding_select(options=names, name="task runner ")
    )
    ends = [record[end] for record in records for end in ("low", "high")]
    parts = list(dict.fromkeys(record["part"] for record in records))
    base = (
        alt.Chart(alt.InlineData(values=records), height=340)
        .transform_filter(f"datum.runner == {_SHOWN}")
        .encode(
            x=log_axis([row.params["workers"] for row in rows], NUMBERS, "workers"),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=parts, range=_colours(parts)),
                sort=parts,
                legend=alt.Legend(symbolOpacity=1, labelLimit=0),
            ),
        )
    )
    y = log_height(ends, SECONDS, "length")
    tooltip = [
        alt.Tooltip("part:N"),
        alt.Tooltip("workers:Q"),
        alt.Tooltip("text:N", title="work in a task from which on it does not limit"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    name = alt.Chart(alt.InlineData(values=[{}])).mark_text(
        align="left", x=8, y=12, fontWeight="bold"
    )
    return alt.layer(
        base.mark_area(opacity=0.15).encode(y=log_height(ends, SECONDS, "low"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, tooltip=tooltip),
        base.mark_point(filled=True, size=45).encode(y=y, tooltip=tooltip),
        name.encode(text=alt.TextValue(alt.expr(_SHOWN))),
    ).add_params(shown)


def _record(row: Row, runner: str) -> dict[str, Any]:
    database = row.params.get("database")
    return {
        "runner": runner,
        "part": f"{row.id} ({database})" if database else row.id,
        "workers": row.params["workers"],
        "value": row.params["workers"],
        "length": row.value.median,
        "low": row.value.low,
        "high": row.value.high,
        "text": seconds(row.value.median),
        "interval": f"{seconds(row.value.low)} – {seconds(row.value.high)}",
    }


def _colours(parts: Sequence[str]) -> list[str]:
    """Return the colour of each part; servers on different databases have different ones."""
    servers = iter(_SERVERS * len(parts))
    return [_COLOURS.get(part) or next(servers) for part in parts]
