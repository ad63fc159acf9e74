# SPDX-License-Identifier: Apache-2.0
"""Draws a chart for each question, as a Vega-Lite specification or as SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from flowgauge.report.charts.axes import (
    NUMBERS,
    RATIOS,
    RUNNER_SHOWN,
    SECONDS,
    log_axis,
    runner_shown,
)
from flowgauge.report.charts.efficiency import efficiency_chart
from flowgauge.report.charts.limits import limits_chart
from flowgauge.report.model.formats import mebibytes, number, ratio, seconds
from flowgauge.report.model.labels import NO_RUNNER, colours, labels, runner_name, runners
from flowgauge.report.model.questions import Question
from flowgauge.results.rows import Row

Spec = dict[str, Any]
_Layers = alt.LayerChart | alt.FacetChart

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The release of Vega-Lite that Altair targets, in the notation of vl-convert."""

_AXES = {"ratio": RATIOS, "cost": SECONDS, "rate": NUMBERS}
"""How the ticks of charts with dots are written."""
_FILE_WIDTH = 760
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")


def spec(question: Question) -> Spec | None:
    """Draw the answer to a question.

    Args:
        question: The question and its rows.

    Returns:
        A Vega-Lite specification as wide as its container; None if there is nothing to draw.
    """
    if not question.rows:
        return None
    chart: Spec = _chart(question).properties(width="container", background="transparent").to_dict()
    # The text colour of the page, so that a chart follows light and dark mode and printing.
    return chart | {"config": theme("currentColor")}


def _chart(question: Question) -> _Layers:
    match question.form:
        case "efficiency":
            return efficiency_chart(question.rows)
        case "baseline":
            return _baseline_chart(question)
        case "memory":
            return _memory_chart(question.rows)
        case "limits":
            return limits_chart(question.rows)
        case _:
            return _dot_chart(question)


def svg(chart: Spec) -> str:
    """Render a specification for a place with an unknown background, such as a README.

    Args:
        chart: The result of `spec`.

    Returns:
        An SVG with a white background, so that its dark text can be read anywhere.
    """
    fixed = chart | {
        "width": _FILE_WIDTH,
        "background": "#ffffff",
        "padding": 16,
        "config": theme("#1f2328"),
    }
    return vl_convert.vegalite_to_svg(json.dumps(fixed), vl_version=VEGA_LITE)


def bundle() -> str:
    """Return the JavaScript that draws specifications in a page, with all its dependencies."""
    # In a script element these two would end it or change how it is parsed.
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def theme(ink: str) -> Spec:
    """Return the Vega configuration that draws everything but the data in one colour."""
    quiet = {"labelColor": ink, "titleColor": ink, "titleFontWeight": "normal"}
    return {
        "font": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": quiet
        | {
            "labelFontSize": 12,
            "gridColor": ink,
            "gridOpacity": 0.13,
            "domain": False,
            "ticks": False,
            "labelPadding": 8,
        },
        "legend": quiet
        | {"labelFontSize": 12, "orient": "top", "title": None, "offset": 12, "columnPadding": 16},
        "rule": {"color": ink},
        "tick": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
    }


def _baseline_chart(question: Question) -> _Layers:
    """Draw the time of each row together with the time of its reference."""
    rows = question.rows
    baselines = [baseline for row in rows if (baseline := _baseline(row))]
    ends = [*baselines, *(row.value.low for row in rows), *(row.value.high for row in rows)]
    x = log_axis(ends, SECONDS)
    middle = math.sqrt(min(ends) * max(ends))
    records = [
        _record(row, label, "baseline") | _baseline_record(row, label, middle)
        for row, label in zip(rows, labels(rows), strict=True)
    ]
    base = _rows(records, 58 * len(records)).encode(
        y=_label_axis(),
        tooltip=[
            alt.Tooltip("label:N", title="runner"),
            alt.Tooltip("cost:N", title="median"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("relative_to:N", title="relative to"),
            alt.Tooltip("times:N", title="ratio"),
        ],
    )
    cost = base.encode(x=x)
    colour = _runner_colour(rows, legend=False)
    plain = base.transform_filter("datum.baseline != null").encode(x=alt.X("baseline:Q"))
    return alt.layer(
        plain.mark_rule(opacity=0.25).encode(x2="value:Q"),
        _whisker(base).encode(color=colour),
        cost.mark_point(filled=True, size=110, opacity=1).encode(color=colour),
        plain.mark_tick(thickness=3, size=16),
        cost.mark_text(dy=-15, fontWeight="bold").encode(text="cost:N"),
        plain.mark_text(dy=18, align={"expr": "datum.side"}, opacity=0.75).encode(
            text="relative_to:N"
        ),
    ).add_params(runner_shown())


def _memory_chart(rows: Sequence[Row]) -> _Layers:
    """Draw the memory of each row as a bar, with a mark at that of its reference."""
    several = len({row.id for row in rows}) > 1
    figures = [row.memory for row in rows if row.memory]
    longest = max(1.0, *(max(figure.candidate, figure.reference or 0.0) for figure in figures))
    records = [
        {
            "label": f"{runner_name(row)} · {label}" if several else runner_name(row),
            "runner": runner_name(row),
            "memory": figure.candidate,
            "text": mebibytes(figure.candidate),
            "reference": row.reference,
            "its_memory": figure.reference,
            "its_text": None if figure.reference is None else mebibytes(figure.reference),
            # The text extends towards the middle, so that it isn't cut off on a narrow screen.
            "side": "left" if figure.candidate < longest / 2 else "right",
        }
        for row, figure, label in zip(rows, figures, labels(rows), strict=True)
    ]
    base = _rows(records, 44 * len(records)).encode(
        y=_label_axis(),
        tooltip=[
            alt.Tooltip("label:N", title="measured"),
            alt.Tooltip("text:N", title="memory"),
            alt.Tooltip("reference:N", title="relative to"),
            alt.Tooltip("its_text:N", title="reference's memory"),
        ],
    )
    scale = alt.Scale(domain=[0, longest], nice=False)
    bars = base.encode(x=alt.X("memory:Q", title="MiB", scale=scale))
    paired = base.transform_filter("datum.its_memory != null")
    return alt.layer(
        bars.mark_bar(size=14).encode(color=_runner_colour(rows, legend=False)),
        paired.mark_tick(thickness=3, size=16).encode(x="its_memory:Q"),
        bars.mark_text(dy=-15, fontWeight="bold", align={"expr": "datum.side"}).encode(
            text="text:N"
        ),
    ).add_params(runner_shown())


def _dot_chart(question: Question) -> _Layers:
    """Draw the time, the rate or the ratio of each row, the runners of one label in lanes."""
    rows, form = question.rows, question.form
    records = [_record(row, label, form) for row, label in zip(rows, labels(rows), strict=True)]
    ends = [record[key] for record in records for key in ("value", "low", "high")]
    x = log_axis([*ends, 1.0] if form == "ratio" else ends, _AXES[form])
    names = list(runners(rows))
    lanes = [name for name in names if name != NO_RUNNER] or names
    for record in records:
        # Rows without a runner are drawn at the height of their label, not in an extra lane.
        without_lane = record["runner"] not in lanes
        record["lane"] = lanes[len(lanes) // 2] if without_lane else record["runner"]
    height = len({record["label"] for record in records}) * (12 + 11 * len(lanes))
    picked = alt.selection_point(fields=["runner"], bind="legend")
    base = _rows(records, height).encode(
        y=_label_axis(),
        yOffset=alt.YOffset("lane:N", sort=lanes, scale=alt.Scale(domain=lanes, padding=1)),
        color=_runner_colour(rows, legend=True),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12)),
        tooltip=[
            alt.Tooltip("label:N", title="measured"),
            alt.Tooltip("runner:N"),
            alt.Tooltip("text:N", title="ratio" if form == "ratio" else "median"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("reference:N", title="relative to"),
        ],
    )
    shape = alt.Shape("runner:N", scale=alt.Scale(domain=names, range=list(_SHAPES)), sort=names)
    dots = base.mark_point(filled=True, size=70).encode(x=x, shape=shape).add_params(picked)
    layers: list[alt.Chart] = [_whisker(base), dots]
    if form == "ratio":
        one = alt.Chart(alt.InlineData(values=[{"one": 1}]))
        layers.insert(0, one.mark_rule(strokeWidth=1.5, opacity=0.7).encode(x="one:Q"))
    return alt.layer(*layers).add_params(runner_shown())


def _rows(records: Sequence[Mapping[str, Any]], height: int) -> alt.Chart:
    """Return a chart of the records of the selected runner."""
    chart = alt.Chart(alt.InlineData(values=records), height=height)
    return chart.transform_filter(RUNNER_SHOWN)


def _label_axis() -> alt.Y:
    """Return an axis of labels, with a line between them."""
    return alt.Y(
        "label:N",
        title=None,
        sort=None,
        axis=alt.Axis(grid=True, tickBand="extent", labelLimit=280),
        scale=alt.Scale(paddingInner=0, paddingOuter=0),
    )


def _whisker(base: alt.Chart) -> alt.Chart:
    whisker: alt.Chart = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    return whisker


def _record(row: Row, label: str, form: str) -> dict[str, Any]:
    """Return the data of a row for a chart: its figure, or its ratio in a chart of ratios."""
    fields = {"label": label, "runner": runner_name(row), "reference": row.reference}
    figure, text = row.value, number if form == "rate" else seconds
    if form == "ratio" and row.ratio:
        figure, text = row.ratio, ratio
    return fields | {
        "value": figure.median,
        "low": figure.low,
        "high": figure.high,
        "text": text(figure.median),
        "interval": f"{text(figure.low)} – {text(figure.high)}",
    }


def _baseline_record(row: Row, label: str, middle: float) -> dict[str, Any]:
    """Return the data for the chart of baselines; `middle` is the middle of its axis (seconds)."""
    name = runner_name(row)
    fields = {
        "label": name if label == row.id else f"{name} · {label}",
        "cost": seconds(row.value.median),
    }
    baseline = _baseline(row)
    if row.ratio is None or baseline is None:
        return fields | {"baseline": None}
    return fields | {
        "baseline": baseline,
        "relative_to": f"{row.reference or 'reference'} {seconds(baseline)}",
        "times": ratio(row.ratio.median),
        # The text extends towards the middle, so that it isn't cut off on a narrow screen.
        "side": "left" if baseline < middle / 2 else "right",
    }


def _baseline(row: Row) -> float | None:
    """Return the time of a row's reference (seconds), or None if it is not known."""
    return row.value.median / row.ratio.median if row.ratio and row.ratio.median > 0 else None


def _runner_colour(rows: Sequence[Row], *, legend: bool) -> alt.Color:
    names = runners(rows)
    return alt.Color(
        "runner:N",
        scale=alt.Scale(domain=list(names), range=list(colours(names))),
        sort=list(names),
        legend=alt.Legend(symbolOpacity=1) if legend else None,
    )
