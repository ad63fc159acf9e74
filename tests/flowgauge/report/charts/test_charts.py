# SPDX-License-Identifier: Apache-2.0
"""Each question has a chart of what was measured, or no chart if nothing was."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from flowgauge.report.charts.charts import Spec, bundle, spec, svg
from flowgauge.report.model.questions import Question, questions
from flowgauge.results.rows import Memory, Results, Row

MakeRow = Callable[..., Row]


def question(key: str, *rows: Row) -> Question:
    """Return one question about these rows."""
    return next(asked for asked in questions(rows) if asked.key == key)


def drawn(key: str, *rows: Row) -> Spec:
    """Return the chart of one question about these rows."""
    found = spec(question(key, *rows))
    assert found is not None
    return found


def records(chart: Spec) -> list[dict[str, Any]]:
    """Return the data of the rows that are in a chart."""
    tables: list[list[dict[str, Any]]] = list(chart["datasets"].values())
    return [record for table in tables for record in table if "label" in record]


def words(drawing: str) -> list[str]:
    """Return the texts of an SVG."""
    root = ET.fromstring(drawing)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("asked", questions(()), ids=lambda asked: asked.key)
def test_nothing_measured(asked: Question) -> None:
    """A question without rows has no chart, rather than an empty one."""
    assert spec(asked) is None


def test_task_cost(make_row: MakeRow) -> None:
    """The chart of task costs shows each runner's time and that of its reference."""
    row = make_row("submit", 0.0052, 1000.0, reference="ThreadPoolExecutor")
    shown = words(svg(drawn("task-cost", row)))
    assert {"threads", "5.2 ms", "ThreadPoolExecutor 5.2 µs"} <= set(shown)


def test_rate(make_row: MakeRow) -> None:
    """The chart of a server's load has rates, as numbers; what was lost is left out."""
    load: dict[str, Any] = {"group": "load", "runner": None}
    rates = [
        make_row("taken", rate, unit="task runs/s", params={"clients": clients}, **load)
        for clients, rate in ((1, 52.0), (2, 70.0))
    ]
    lost = make_row("lost-events", 3.0, unit="events", **load)
    chart = drawn("server-load", *rates, lost)
    assert [record["text"] for record in records(chart)] == ["52", "70"]
    assert {"50", "60", "taken · clients=1"} <= set(words(svg(chart)))


def test_what_was_computed_is_not_in_the_chart_of_its_error(make_row: MakeRow) -> None:
    """Only runs that were measured show how far off the computed figures are."""
    measured = make_row("many-tasks", 50.0, 1.1, group="limits")
    computed = make_row("all-stored", 9000.0, 1.0, group="limits", rounds=0)
    assert question("limits-prediction", measured, computed).rows == (measured,)


def test_unpaired_task_cost(make_row: MakeRow) -> None:
    """A submit without a reference is drawn, too."""
    assert "5.2 ms" in words(svg(drawn("task-cost", make_row("submit", 0.0052))))


def test_features_relative_to_submit(make_row: MakeRow) -> None:
    """Only features measured relative to a plain submit are in the chart of their ratios."""
    retry = make_row("retry", 0.009, 2.2)
    call = make_row("task-call", 0.003, 1e5, reference="plain function call")
    assert [row.id for row in question("feature-ratio", retry, call).rows] == ["retry"]


def test_interval_is_drawn(make_row: MakeRow) -> None:
    """A chart of ratios has the ratio's interval, and a chart of times that of the time."""
    row = make_row("retry", 0.01, 2.0, spread=0.1)
    (ratio,) = records(drawn("feature-ratio", row))
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((2.0, 1.8, 2.2))
    (time,) = records(drawn("feature-cost", row))
    assert (time["value"], time["low"], time["high"]) == pytest.approx((0.01, 0.009, 0.011))


def test_memory(make_row: MakeRow) -> None:
    """The chart of memory has each runner's, and its reference's; rows without any are left out."""
    start: dict[str, Any] = {"group": "startup", "memory": Memory(31.8, 0.2)}
    rows = (
        make_row("first-task", 0.1, 2.0, runner="processes", **start),
        make_row("first-task", 0.1, 2.0, runner="threads", group="startup"),
        make_row("server", 0.1, **start),
    )
    chart = drawn("memory", *rows)
    (record,) = records(chart)
    assert (record["memory"], record["its_memory"]) == (31.8, 0.2)
    assert {"processes", "32 MiB"} <= set(words(svg(chart)))
    fields = {layer["mark"]["type"]: layer["encoding"]["x"]["field"] for layer in chart["layer"]}
    assert (fields["bar"], fields["tick"]) == ("memory", "its_memory")


@pytest.mark.parametrize("asked", ["task-cost", "feature-ratio", "feature-cost", "startup"])
def test_zero_is_not_drawn(make_row: MakeRow, asked: str) -> None:
    """Zeros, for which a logarithmic axis has no place, are not drawn."""
    keys = [("submit", "features"), ("retry", "features"), ("server", "startup")]
    rows = [make_row(id, 0.0, 0.0, group=group) for id, group in keys]
    assert spec(question(asked, *rows)) is None


def test_svg_can_be_read_anywhere(sample: Results) -> None:
    """A chart file has a white background and fixed text colours, so that it suits any page."""
    for asked in questions(sample.rows):
        chart = spec(asked)
        assert chart is not None
        drawing = svg(chart)
        assert 'fill="#ffffff"' in drawing
        assert "currentColor" not in drawing


def test_a_chart_in_the_page_takes_its_text_colour(sample: Results) -> None:
    """A chart in the page is transparent and takes its text colour, so that it suits dark pages."""
    for asked in questions(sample.rows):
        chart = spec(asked)
        assert chart is not None
        assert chart["background"] == "transparent"
        assert chart["config"]["axis"]["labelColor"] == "currentColor"


def test_bundle_stays_in_its_element() -> None:
    """Nothing in the drawing code can end the script element that holds it."""
    script = bundle()
    assert "vegaEmbed" in script
    assert "</script" not in script
    assert "<!--" not in script
