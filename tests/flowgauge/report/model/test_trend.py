# SPDX-License-Identifier: Apache-2.0
"""Rows are followed through versions: compared with the first, shown in all."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.report.charts.trend import trend_chart
from flowgauge.report.model.trend import TrendLine, titles, trend
from flowgauge.report.render.trend import write_trend
from flowgauge.results.rows import Outcome, Results, Row
from tests.flowgauge.report.conftest import row


def lines(*runs: tuple[Row, ...]) -> tuple[TrendLine, ...]:
    """Follow the rows of runs that are called 3.6, 3.7, …"""
    return trend({f"3.{number}": Results({}, rows) for number, rows in enumerate(runs, start=6)})


def test_each_version_is_compared_with_the_first() -> None:
    """Beside each figure stands how many times the first version's it is, and a verdict."""
    (line,) = lines(*((row("submit", value),) for value in (0.010, 0.0101, 0.020)))
    assert (line.group, line.runner) == ("features", "threads")
    assert line.label == "submit tasks=50"
    assert [point.text for point in line.points] == ["10 ms", "10 ms ×1.01", "20 ms ×2.0 slower"]
    assert [point.verdict for point in line.points] == ["", "", "slower"]


def test_more_runs_a_minute_are_no_worse() -> None:
    """A rate that grew is a gain: the ratio is below 1 where it got better."""
    (line,) = lines(*((row("rate", value, unit="runs/min"),) for value in (20.0, 40.0)))
    assert [point.text for point in line.points] == ["20 runs/min", "40 runs/min ×0.50 faster"]


def test_a_row_that_some_versions_lack_is_shown() -> None:
    """A row that came, went, or is new has empty places, and no ratio to what is not there."""
    came, went, stayed = (row(name, 0.01) for name in ("came", "went", "stayed"))
    found = lines((went, stayed), (stayed,), (came, stayed))
    shown = {line.label.split()[0]: [point.text for point in line.points] for line in found}
    assert shown == {
        "went": ["10 ms", "", ""],
        "stayed": ["10 ms", "10 ms ×1.00", "10 ms ×1.00"],
        "came": ["", "", "10 ms"],
    }


def test_what_is_reached_no_more_is_slower_without_a_ratio() -> None:
    """A METG that a version does not come to any more has a verdict, and no ratio to draw."""
    found = lines((row("metg-90", 0.2),), (row("metg-90", 0.8, outcome=Outcome.NEVER),))
    assert [point.text for point in found[0].points] == ["200 ms", "never, ceiling 0.80 slower"]
    assert trend_chart(found, ("3.6", "3.7")) is None


def test_noise_and_points_of_curves_are_left_out(sample: Results) -> None:
    """What only serves other figures has no line; each row that is compared has one."""
    found = trend({"3.7": sample, "3.8": sample})
    measured = [each for each in sample.rows if each.group != "noise" and each.id != "curve"]
    assert len(found) == len(measured)
    assert {point.verdict for line in found for point in line.points} == {""}


def test_a_version_is_called_what_was_installed() -> None:
    """The newest of a series is named whole; a run that does not tell, as it was asked for."""
    told = Results({"versions": {"prefect": "3.7.8"}}, ())
    assert titles([("3.7", told), ("3.8", Results({}, ()))]) == ("3.7.8", "3.8")


def test_a_chart_has_a_panel_for_each_row_and_a_line_for_each_runner() -> None:
    """Rows are told apart by panels, task runners by colours, versions along the axis."""
    rows = [row(name, 0.01, runner=r) for name in ("submit", "map") for r in ("threads", "dask")]
    drawn = trend_chart(lines(tuple(rows), tuple(rows)), ("3.6.1", "3.7.8"))
    assert drawn is not None
    for text in ("submit tasks=50", "map tasks=50", "threads", "dask", "3.6.1", "3.7.8", "×1"):
        assert f">{text}<" in drawn


@pytest.mark.parametrize("note", ["Prefect 3.6 <could> not be installed"])
def test_the_page_holds_all(sample: Results, tmp_path: Path, note: str) -> None:
    """A page needs no other file: charts, every row, and what went wrong; old charts are gone."""
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
