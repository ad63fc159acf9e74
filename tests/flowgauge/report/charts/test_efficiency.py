# SPDX-License-Identifier: Apache-2.0
"""The chart of efficiency shows each runner's way to half of the machine, and beyond."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from flowgauge.report.charts.charts import Spec, spec, svg
from flowgauge.report.model.questions import questions
from flowgauge.results.rows import Results, Row

MakeRow = Callable[..., Row]


@pytest.fixture(scope="module")
def chart(sample: Results) -> Spec:
    """Give the chart of a full run."""
    asked = next(asked for asked in questions(sample.rows) if asked.key == "efficiency")
    drawn = spec(asked)
    assert drawn is not None
    return drawn


def words(drawing: str) -> set[str]:
    """Return the texts of an SVG."""
    root = ET.fromstring(drawing)
    return {node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")}


def test_metg_is_marked(chart: Spec) -> None:
    """Each runner that comes to half of the machine has its METG written; others have none."""
    shown = words(svg(chart))
    assert {"30 ms", "300 ms", "8.0 ms", "threads", "bare Dask", "sequential"} <= shown
    # 0.48 is what the sequential runner ends at, which is no time.
    assert not {word for word in shown if "480" in word or "never" in word}


def points(chart: Spec) -> list[dict[str, Any]]:
    """Return the points of the lines."""
    tables: list[list[dict[str, Any]]] = list(chart["datasets"].values())
    return [record for table in tables for record in table if "efficiency" in record]


def test_efficiency_is_the_share_of_the_work(chart: Spec) -> None:
    """Tasks without work are at zero, and those as long as their overhead at a half."""
    threads = [p for p in points(chart) if p["runner"] == "threads" and p["kernel"] == "native"]
    assert [point["efficiency"] for point in threads] == pytest.approx([0, 0.5, 0.75])
    assert [point["value"] for point in threads] == pytest.approx([0.015, 0.03, 0.06])
    assert [point["baseline"] for point in threads] == [False] * 3
    assert all(point["baseline"] for point in points(chart) if point["runner"] == "bare Dask")


def test_a_kernel_and_a_shape_can_be_chosen(chart: Spec) -> None:
    """The page offers what was measured, begins with the first, and draws another if asked."""
    choices = {param["name"]: param for param in chart["params"] if "bind" in param}
    assert choices["kernel"]["value"] == "native"
    assert choices["kernel"]["bind"]["options"] == ["native", "python"]
    assert choices["shape"]["bind"]["options"] == ["trivial"]
    other = copy.deepcopy(chart)
    for param in other["params"]:
        if param["name"] == "kernel":
            param["value"] = "memory"
    assert "8.0 ms" in words(svg(chart)) - words(svg(other))


def test_a_feature_is_no_line_of_this_chart(sample: Results, chart: Spec) -> None:
    """What a feature adds to METG has a chart of its own."""
    assert any("feature" in row.params for row in sample.rows)
    assert not any("feature" in point["settings"] for point in points(chart))
