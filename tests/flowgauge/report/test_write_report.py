# SPDX-License-Identifier: Apache-2.0
"""A report is a folder that is rewritten in place."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flowgauge.report import report_on, write_report
from flowgauge.results.rows import Results
from flowgauge.results.timelines import Span, Timeline


def files(directory: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def few(sample: Results) -> Results:
    """Return results with the rows of one group, which are quick to draw."""
    return replace(sample, rows=tuple(row for row in sample.rows if row.group == "workflows"))


def test_files(report: Path, sample: Results) -> None:
    """A report consists of a page, Markdown, the results and a chart for each question."""
    charts = (
        "efficiency",
        "metg-features",
        "workflows",
        "tasks-scaling",
        "payload-scaling",
        "prediction",
        "lean",
        "processor-time",
        "workers-scaling",
        "task-cost",
        "feature-ratio",
        "feature-cost",
        "pattern-ratio",
        "startup",
        "memory",
        "deployment-cost",
        "harness-ratio",
        "server-load",
        "limits",
        "limits-prediction",
    )
    expected = {"index.html", "report.md", "results.json", *(f"charts/{c}.svg" for c in charts)}
    assert set(files(report)) == expected
    assert Results.load(report / "results.json") == sample


def test_replaces_an_earlier_report(few: Results, tmp_path: Path) -> None:
    """A report on a smaller run removes the earlier charts, and leaves other files alone."""
    write_report(report_on(few), tmp_path)
    assert list((tmp_path / "charts").iterdir())
    (tmp_path / "guarantees.html").write_text("kept")
    page = write_report(report_on(Results({}, ())), tmp_path)
    assert page == tmp_path / "index.html"
    assert set(files(tmp_path)) == {"index.html", "report.md", "results.json", "guarantees.html"}


def test_workflows_have_gantt_charts(few: Results, tmp_path: Path) -> None:
    """Timelines are drawn as files and in the page, and earlier Gantt charts are removed."""
    (row,) = few.rows
    spans = (Span("read", 0, 0.0, 2.0), Span("write", 1, 2.0, row.value.median))
    measured = replace(few, timelines=(Timeline(row.id, str(row.runner), 4.0, spans),))
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "gantt-gone-best.svg").touch()
    page = write_report(report_on(measured), tmp_path)
    name = "gantt-random-6x6-of-seed-1-best"
    assert [file.stem for file in (tmp_path / "charts").glob("gantt-*")] == [name]
    assert f'id="{name}"><svg' in page.read_text()
    assert f"charts/{name}.svg" in (tmp_path / "report.md").read_text()
    read = Results.load(tmp_path / "results.json")
    again = write_report(report_on(read), tmp_path / "again")
    assert again.read_text() == page.read_text()
    write_report(report_on(few), tmp_path / "alone")
    assert not list((tmp_path / "alone" / "charts").glob("gantt-*"))


def test_the_source_results_are_not_overwritten(few: Results, tmp_path: Path) -> None:
    """A report in the same folder as the results that it is made from leaves that file as it is."""
    source = tmp_path / "results.json"
    source.write_text("as the person wrote it")
    write_report(report_on(few), tmp_path, source)
    assert source.read_text() == "as the person wrote it"


def test_failure_touches_nothing(
    sample: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If making a report fails, the earlier report is left unchanged."""
    write_report(report_on(Results({}, ())), tmp_path)
    before = files(tmp_path)

    def fail(*_: object) -> str:
        raise RuntimeError("no drawing today")

    monkeypatch.setattr("flowgauge.report.render.html.page", fail)
    with pytest.raises(RuntimeError, match="no drawing today"):
        write_report(report_on(sample), tmp_path)
    assert files(tmp_path) == before


def test_missing_packages(sample: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages that draw charts, the error says what to install."""
    monkeypatch.delitem(sys.modules, "flowgauge.report.charts.charts", raising=False)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flowgauge\[report\]'"):
        write_report(report_on(sample), tmp_path)


def test_summary_needs_no_drawing() -> None:
    """A run's summary imports neither the drawing packages, which take seconds, nor Prefect."""
    code = (
        "import sys, flowgauge.report.render.terminal;"
        "print({'altair', 'vl_convert', 'jinja2', 'prefect'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
