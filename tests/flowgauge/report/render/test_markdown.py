# SPDX-License-Identifier: Apache-2.0
"""The Markdown has the figures of the page, and escapes all text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.report.model.questions import questions
from flowgauge.report.model.report import report_on
from flowgauge.report.render.markdown import markdown
from flowgauge.results.rows import Memory, Results, Row

MakeRow = Callable[..., Row]


def columns(line: str) -> int:
    """Return the number of cells in a line of a table, as a Markdown parser counts them."""
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


def tables(document: str) -> list[list[str]]:
    """Return the tables of a document, each as its lines."""
    blocks = (block.split("\n") for block in document.split("\n\n"))
    return [block for block in blocks if block[0].startswith("|")]


def test_figures(report: Path) -> None:
    """A feature's line has its cost with its ratio, or with ≈ if no difference was seen."""
    lines = (report / "report.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("| submit | 4.1 ms ×160,000 | 5.2 ms ×1,000 |") for line in lines)
    assert any(line.startswith("| map | 4.0 ms ≈ |") for line in lines)


def test_memory_is_shown_or_not_measured(make_row: MakeRow) -> None:
    """A row in full has its memory and that of its reference, or says that it wasn't measured."""
    rows = (
        make_row("submit", 1.0, 2.0, memory=Memory(70.4, 0.0)),
        make_row("flow", 1.0, memory=Memory(12.0, None)),
        make_row("map", 1.0, 2.0),
    )
    full = tables(markdown(report_on(Results({}, rows)), {}))[1]
    head, _, *lines = [line.split(" | ") for line in full]
    at = head.index("memory")
    assert head[at + 1] == "reference's memory"
    assert {line[0].removeprefix("| "): (line[at], line[at + 1]) for line in lines} == {
        "flow": ("12 MiB", ""),
        "submit": ("70 MiB", "&lt; 1 MiB"),
        "map": ("not measured", ""),
    }


def test_images_are_there(report: Path) -> None:
    """Every image that the Markdown shows is a file of the report."""
    document = (report / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", document)
    assert len(linked) == len(questions(()))
    assert all((report / image).is_file() for image in linked)


def test_nothing_measured() -> None:
    """A run without rows says so under each question."""
    document = markdown(report_on(Results({}, ())), {})
    assert document.count("Not measured in this run.") == len(questions(()))


@given(st.text())
def test_names_are_not_markup(make_row: MakeRow, name: str) -> None:
    """Whatever a row is called, tables keep their columns, and no HTML element is added."""
    row = make_row(name, 1.0, 2.0, group=name, runner=name or None, reference=name)
    document = markdown(report_on(Results({"key": name}, (row,))), {})
    for table in tables(document):
        assert len({columns(line) for line in table}) == 1
    made = set(re.findall(r"<[^>]*>", document))
    assert made == {"<details>", "</details>", "<summary>", "</summary>"}
