# SPDX-License-Identifier: Apache-2.0
"""The chart of what limits large runs has a line for each part, on one task runner at a time."""

from __future__ import annotations

from typing import Any

import pytest

from flowgauge.report.charts.charts import Spec, spec, svg
from flowgauge.report.model.questions import questions
from flowgauge.results.rows import Results
from tests.flowgauge.report.charts.test_charts import words


@pytest.fixture(scope="module")
def chart(sample: Results) -> Spec:
    """Return the chart of a full run."""
    asked = next(asked for asked in questions(sample.rows) if asked.key == "limits")
    drawn = spec(asked)
    assert drawn is not None
    return drawn


def lines(chart: Spec) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return the points of each line, by task runner and part."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    tables: list[list[dict[str, Any]]] = list(chart["datasets"].values())
    for record in (record for table in tables for record in table if "part" in record):
        point = record["workers"], record["length"]
        found.setdefault((record["runner"], record["part"]), []).append(point)
    return found


def test_each_task_runner_has_the_line_of_the_server(chart: Spec) -> None:
    """The server's line is that of all task runners, the others are of one."""
    drawn = lines(chart)
    assert drawn["processes", "server (SQLite)"] == [(10, 10 / 52), (100, 100 / 52)]
    assert drawn["dask-processes", "server (SQLite)"] == drawn["processes", "server (SQLite)"]
    assert drawn["processes", "runner"] == [(10, 0.02), (100, 0.02)]
    assert drawn["dask-processes", "runner"] == [(10, 0.03), (100, 0.03)]
    assert len(drawn) == 6


def test_one_task_runner_is_shown_and_named(chart: Spec) -> None:
    """The last one, which works on many hosts, is preset and named; others can be chosen."""
    (choice,) = (param for param in chart["params"] if "bind" in param)
    assert choice["bind"]["options"] == ["processes", "dask-processes"]
    assert choice["value"] == "dask-processes"
    shown = words(svg(chart))
    assert {"dask-processes", "server (SQLite)", "scheduler", "runner", "workers"} <= set(shown)
    assert "processes" not in shown
