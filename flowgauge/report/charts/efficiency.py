# SPDX-License-Identifier: Apache-2.0
"""Draws efficiency over task length, with the minimum effective task granularity (METG)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from flowgauge.report.charts.axes import RUNNER_SHOWN, SECONDS, log_axis, runner_shown
from flowgauge.report.model.formats import seconds
from flowgauge.report.model.labels import (
    PLAIN_SHAPE,
    colours,
    figure_text,
    is_baseline,
    is_point,
    params_text,
    runner_name,
    runners,
)
from flowgauge.results.rows import Outcome, Row

_TARGET = 0.5
_SETTINGS = ("kernel", "shape")


def efficiency_chart(rows: Sequence[Row]) -> alt.LayerChart | alt.FacetChart:
    """Draw a line for each runner, and mark where it reaches an efficiency of 50 %.

    Args:
        rows: Points of curves, and METG rows, of any kernels and shapes.

    Returns:
        A chart of one kernel and shape at a time, which the user can select in the page.
    """
    points = [row for row in rows if is_point(row)]
    records = [_point(row) for row in points]
    marks = _marks(row for row in rows if row.id == f"metg-{_TARGET * 100:.0f}")
    selections = [_selection(name, rows) for name in _SETTINGS]
    is_selected = (f"datum.{name} == {name}" for name in _SETTINGS)
    condition = " && ".join((f"({RUNNER_SHOWN})", *is_selected))
    names = list(runners(points))
    picked = alt.selection_point(fields=["runner"], bind="legend")
    colour = alt.Color(
        "runner:N",
        scale=alt.Scale(domain=names, range=list(colours(names))),
        sort=names,
        legend=alt.Legend(symbolOpacity=1, columns=alt.expr("width < 520 ? 2 : 4")),
    )
    faded = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12))
    x = log_axis(
        [row.value.median for row in points], SECONDS, "time that a worker has for each task"
    )
    y = alt.Y(
        "efficiency:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1.1], nice=False),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
    )
    base = (
        alt.Chart(alt.InlineData(values=records), height=340)
        .transform_filter(condition)
        .encode(color=colour, opacity=faded)
    )
    tooltip = [
        alt.Tooltip("runner:N"),
        alt.Tooltip("task:N", title="work in a task"),
        alt.Tooltip("granularity:N", title="a worker's time per task"),
        alt.Tooltip("share:N", title="share spent on the work"),
        alt.Tooltip("settings:N"),
    ]
    dashes = alt.StrokeDash(
        "baseline:N", scale=alt.Scale(domain=[False, True], range=[[1, 0], [5, 4]]), legend=None
    )
    half = alt.Chart(alt.InlineData(values=[{"half": _TARGET}]))
    metg = (
        alt.Chart(alt.InlineData(values=marks))
        .transform_filter(condition)
        .encode(
            x=x,
            y=alt.datum(_TARGET),
            color=colour,
            opacity=faded,
            tooltip=[alt.Tooltip("runner:N"), alt.Tooltip("text:N", title="METG(50 %)")],
        )
    )
    return alt.layer(
        half.mark_rule(strokeWidth=1.5, opacity=0.6).encode(y=alt.Y("half:Q")),
        base.mark_rule(strokeWidth=2, clip=True).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=2, clip=True).encode(
            x=x, y=y, strokeDash=dashes, tooltip=tooltip
        ),
        base.mark_point(filled=True, size=45, clip=True).encode(x=x, y=y, tooltip=tooltip),
        metg.mark_point(shape="diamond", size=170, filled=True, stroke="white", strokeWidth=1.5),
        metg.mark_text(dy={"expr": "datum.drop"}, fontWeight="bold").encode(text="text:N"),
    ).add_params(*selections, picked, runner_shown())


def _selection(name: str, rows: Iterable[Row]) -> alt.Parameter:
    """Return the parameter that selects a kernel or a shape; tasks without edges come first."""
    options = list(dict.fromkeys(str(row.params.get(name)) for row in rows))
    options.sort(key=PLAIN_SHAPE.__ne__)
    return alt.param(
        name=name,
        value=options[0],
        bind=alt.binding_select(options=options, name=f"{name} "),
    )


def _point(row: Row) -> dict[str, Any]:
    # Tasks without work have no ratio; their efficiency is zero.
    ends = (row.ratio.median, row.ratio.high, row.ratio.low) if row.ratio else ()
    efficiency, low, high = (1 / end for end in ends) if ends else (0, 0, 0)
    return {
        **_settings(row),
        "value": row.value.median,
        "efficiency": efficiency,
        "low": low,
        "high": high,
        "share": f"{efficiency:.0%}",
        "task": seconds(row.params["work_seconds"]),
        "granularity": seconds(row.value.median),
    }


def _marks(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the mark where each runner reaches the target; none for those that never do."""
    marks = [
        {**_settings(row), "value": row.value.median, "text": figure_text(row)}
        for row in sorted(rows, key=lambda row: (params_text(row), row.value.median))
        if row.outcome is Outcome.FOUND
    ]
    for index, mark in enumerate(marks):
        # Neighbouring labels have different heights, because they may be near each other.
        mark["drop"] = 18 + 14 * (index % 3)
    return marks


def _settings(row: Row) -> dict[str, Any]:
    return {
        "runner": runner_name(row),
        "kernel": row.params.get("kernel"),
        "shape": row.params.get("shape"),
        "baseline": is_baseline(row),
        "settings": params_text(row),
    }
