# SPDX-License-Identifier: Apache-2.0
"""Rows are followed across versions, each compared with the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.report.charts.trend import trend_chart
from flowgauge.report.model.trend import TrendLine, titles, trend
from flowgauge.report.render.trend import write_trend
from flowgauge.results.rows import Outcome, Results, Row
from tests.flowgauge.report.conftest import row


def lines(*runs: tuple[Row, ...]) -> tuple[TrendLine, ...]:
    """Return the trend of runs that are called 3.6, 3.7, …"""
    return trend({f"3.{number}": Results({}, rows) for number, rows in enumerate(runs, start=6)})


def test_each_version_is_compared_with_the_first() -> None:
    """Each figure has its ratio to that of the first version, and a verdict if they differ."""
    (line,) = lines(*((row("submit", value),) for value in (0.010, 0.0101, 0.020)))
    assert (line.group, line.runner) == ("features", "threads")
    assert line.label == "submit tasks=50"
    assert [point.text for point in line.points] == ["10 ms", "10 ms ×1.01", "20 ms ×2.0 slower"]
    assert [point.verdict for point in line.points] == ["", "", "slower"]


def test_more_runs_per_minute_are_faster() -> None:
    """A higher rate is faster, and its ratio is below 1."""
    (line,) = lines(*((row("rate", value, unit="runs/min"),) for value in (20.0, 40.0)))
    assert [point.text for point in line.points] == ["20 runs/min", "40 runs/min ×0.50 faster"]


def test_a_row_that_some_versions_lack_is_shown() -> None:
    """A row is empty for versions that lack it, and has no ratio if the first version does."""
    came, went, stayed = (row(name, 0.01) for name in ("came", "went", "stayed"))
    found = lines((went, stayed), (stayed,), (came, stayed))
    shown = {line.label.split()[0]: [point.text for point in line.points] for line in found}
    assert shown == {
        "went": ["10 ms", "", ""],
        "stayed": ["10 ms", "10 ms ×1.00", "10 ms ×1.00"],
        "came": ["", "", "10 ms"],
    }


def test_a_metg_that_is_no_longer_reached_has_no_ratio() -> None:
    """A METG that a version no longer reaches is slower, without a ratio to draw."""
    found = lines((row("metg-90", 0.2),), (row("metg-90", 0.8, outcome=Outcome.NEVER),))
    assert [point.text for point in found[0].points] == ["200 ms", "never, ceiling 0.80 slower"]
    assert trend_chart(found, ("3.6", "3.7")) is None


def test_noise_and_points_of_curves_are_left_out(sample: Results) -> None:
    """Noise and points of curves have no line; each row that is compared has one."""
    found = trend({"3.7": sample, "3.8": sample})
    measured = [each for each in sample.rows if each.group != "noise" and each.id != "curve"]
    assert len(found) == len(measured)
    assert {point.verdict for line in found for point in line.points} == {""}


def test_a_version_is_called_what_was_installed() -> None:
    """A run is titled by the version that was installed, or as requested if it does not say."""
    told = Results({"versions": {"prefect": "3.7.8"}}, ())
    assert titles([("3.7", told), ("3.8", Results({}, ()))]) == ("3.7.8", "3.8")


def test_a_chart_names_rows_runners_and_versions() -> None:
    """The chart has the names of the rows, of the task runners and of the versions."""
    rows = [row(name, 0.01, runner=r) for name in ("submit", "map") for r in ("threads", "dask")]
    drawn = trend_chart(lines(tuple(rows), tuple(rows)), ("3.6.1", "3.7.8"))
    assert drawn is not None
    for text in ("submit tasks=50", "map tasks=50", "threads", "dask", "3.6.1", "3.7.8", "×1"):
        assert f">{text}<" in drawn


@pytest.mark.parametrize("note", ["Prefect 3.6 <could> not be installed"])
def test_the_page_holds_all(sample: Results, tmp_path: Path, note: str) -> None:
    """The page needs no other file for charts, rows and notes; old charts are removed."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "old.svg").touch()
    found = trend({"3.7": sample, "3.8": sample})
    page = write_trend(found, ("3.7.8", "3.8.8"), [note], tmp_path).read_text()
    assert "Prefect 3.6 &lt;could&gt; not" in page
    assert page.count("<tr>") == len(found) + len({line.group for line in found})
    charts = {each.stem for each in (tmp_path / "charts").iterdir()}
    assert charts == {line.group for line in found}
    assert page.count("<svg") == len(charts)
    assert "src=" not in page
