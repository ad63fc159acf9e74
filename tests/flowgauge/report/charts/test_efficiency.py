# SPDX-License-Identifier: Apache-2.0
"""The efficiency chart shows each runner's curve, and its METG at half of the machine."""

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
    """Return the efficiency chart of a full run."""
    asked = next(asked for asked in questions(sample.rows) if asked.key == "efficiency")
    drawn = spec(asked)
    assert drawn is not None
    return drawn


def words(drawing: str) -> set[str]:
    """Return the texts of an SVG."""
    root = ET.fromstring(drawing)
    return {node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")}


def test_metg_is_marked(chart: Spec) -> None:
    """Each runner that reaches half of the machine is labelled with its METG; others are not."""
    shown = words(svg(chart))
    assert {"30 ms", "300 ms", "8.0 ms", "threads", "bare Dask", "sequential"} <= shown
    # 0.48 is the efficiency that the sequential runner reaches, not a time.
    assert not {word for word in shown if "480" in word or "never" in word}


def points(chart: Spec) -> list[dict[str, Any]]:
    """Return the points of the lines."""
    tables: list[list[dict[str, Any]]] = list(chart["datasets"].values())
    return [record for table in tables for record in table if "efficiency" in record]


def test_efficiency_is_the_share_of_the_work(chart: Spec) -> None:
    """Tasks without work have an efficiency of 0, and tasks as long as their overhead of 0.5."""
    threads = [p for p in points(chart) if p["runner"] == "threads" and p["kernel"] == "native"]
    assert [point["efficiency"] for point in threads] == pytest.approx([0, 0.5, 0.75])
    assert [point["value"] for point in threads] == pytest.approx([0.015, 0.03, 0.06])
    assert [point["baseline"] for point in threads] == [False] * 3
    assert all(point["baseline"] for point in points(chart) if point["runner"] == "bare Dask")


def test_a_kernel_and_a_shape_can_be_chosen(chart: Spec) -> None:
    """Measured kernels and shapes are offered, the first is preset, and the choice is drawn."""
    choices = {param["name"]: param for param in chart["params"] if "bind" in param}
    assert choices["kernel"]["value"] == "native"
    assert choices["kernel"]["bind"]["options"] == ["native", "python"]
    assert choices["shape"]["bind"]["options"] == ["trivial"]
    other = copy.deepcopy(chart)
    for param in other["params"]:
        if param["name"] == "kernel":
            param["value"] = "memory"
    assert "8.0 ms" in words(svg(chart)) - words(svg(other))


def test_features_are_not_in_this_chart(sample: Results, chart: Spec) -> None:
    """METG with a feature is left to another chart."""
    assert any("feature" in row.params for row in sample.rows)
    assert not any("feature" in point["settings"] for point in points(chart))
