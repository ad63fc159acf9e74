# SPDX-License-Identifier: Apache-2.0
"""Draws the trend of rows over versions of Prefect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import vl_convert

from flowgauge.report.charts.axes import RATIOS, log_axis
from flowgauge.report.charts.charts import VEGA_LITE, theme
from flowgauge.report.model.labels import NO_RUNNER, colours
from flowgauge.report.model.trend import TrendLine

_COLUMNS = 3
_WIDTH = 200
_HEIGHT = 130


def trend_chart(lines: Iterable[TrendLine], versions: Sequence[str]) -> str | None:
    """Draw the cost in each version relative to the first version, a panel for each row.

    Args:
        lines: The rows of a group.
        versions: The versions of Prefect, one for each point of a line.

    Returns:
        An SVG with a line for each task runner and its 95 % intervals; None if no row can be
        compared.
    """
    records = [record for line in lines for record in _records(line, versions)]
    if not records:
        return None
    names = list(dict.fromkeys(record["runner"] for record in records))
    names.sort(key=NO_RUNNER.__eq__)
    ends = [record[end] for record in records for end in ("low", "high")]
    axis: Any = log_axis(ends, RATIOS).to_dict()
    base = alt.Chart(width=_WIDTH, height=_HEIGHT).encode(
        x=alt.X("version:O", title=None, sort=list(versions), axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "runner:N",
            scale=alt.Scale(domain=names, range=list(colours(names))),
            sort=names,
        ),
        # Side by side within a version, so that intervals do not hide each other.
        xOffset=alt.XOffset("runner:N", sort=names),
    )
    y = alt.Y("value:Q", title=None, scale=axis["scale"], axis=axis["axis"])
    one = alt.Chart().mark_rule(strokeDash=[4, 4], opacity=0.5).encode(y=alt.datum(1))
    panels = (
        alt.layer(
            one,
            base.mark_line(strokeWidth=1.5, opacity=0.6).encode(y=y),
            base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
            base.mark_point(filled=True, size=55, opacity=1).encode(y=y),
        )
        .facet(
            facet=alt.Facet("label:N", title=None, sort=None, header=alt.Header(labelLimit=_WIDTH)),
            data=alt.InlineData(values=records),
            columns=_COLUMNS,
        )
        .to_dict()
    )
    chart = panels | {"background": "#ffffff", "padding": 16, "config": theme("#1f2328")}
    return vl_convert.vegalite_to_svg(json.dumps(chart), vl_version=VEGA_LITE)


def _records(line: TrendLine, versions: Sequence[str]) -> list[dict[str, Any]]:
    """Return the data of a line; nothing if no later version can be compared."""
    shared = {"label": line.label, "runner": line.runner}
    later = [
        shared
        | {"version": version, "value": c.ratio.median, "low": c.ratio.low, "high": c.ratio.high}
        for version, point in zip(versions, line.points, strict=True)
        if (c := point.change) and c.ratio is not None
    ]
    first = shared | {"version": versions[0], "value": 1.0, "low": 1.0, "high": 1.0}
    return [first, *later] if later else []
