# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown, for a pull request or a repository."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from flowgauge.report.model.glossary import COMMAND, NOT_MEASURED
from flowgauge.report.model.questions import Question
from flowgauge.report.model.report import Report, Section
from flowgauge.report.model.tables import COLUMNS, Pivot

if TYPE_CHECKING:
    from flowgauge.report.charts.drawings import Drawing


def markdown(report: Report, drawings: Mapping[str, Drawing] | None = None) -> str:
    """Render the report as Markdown.

    Args:
        report: The report.
        drawings: The drawings in the folder `charts/`, by the question's key; None if there is no
            such folder, in which case the questions are left out.

    Returns:
        A complete Markdown document.
    """
    blocks = ["# Flowgauge report", "  \n".join(map(_plain, report.headline))]
    blocks.append(_plain(report.machine))
    blocks += [f"**{_plain(warning)}**" for warning in report.warnings]
    for question in report.questions if drawings is not None else ():
        drawing = (drawings or {}).get(question.key)
        blocks += _question(question, drawing, report.commands.get(question.group, ""))
    blocks.append("## Every figure")
    for section in report.sections:
        blocks += _section(section, report.commands[section.name])
    blocks.append("## How to read the numbers")
    blocks.append("\n".join(f"- **{term}**: {_plain(text)}" for term, text in report.glossary))
    blocks += ["## What it ran on", _table(("", ""), report.details)]
    blocks.append(f"To redraw this report from its results: `{COMMAND}`")
    return "\n\n".join(filter(None, blocks)) + "\n"


def _question(question: Question, drawing: Drawing | None, again: str) -> Iterator[str]:
    yield f"## {question.title}"
    if drawing is None:
        yield NOT_MEASURED
        return
    yield question.caption
    yield _image(question.title, question.key)
    yield _measured_by(again)
    for name in drawing.pictures:
        yield _image(name, name)


def _image(title: str, name: str) -> str:
    return f"[![{title}](charts/{name}.svg)](charts/{name}.svg)"


def _measured_by(command: str) -> str:
    return f"Measured by `{command}`" if command else ""


def _section(section: Section, again: str) -> Iterator[str]:
    yield f"### {_plain(section.title)}"
    yield _measured_by(again)
    yield _matrix(section.matrix)
    yield "<details><summary>In full</summary>"
    yield _table(COLUMNS, [[cell.text for cell in line.cells] for line in section.lines])
    yield "</details>"


def _matrix(matrix: Pivot) -> str:
    body = [
        (label, *(" ".join(filter(None, cost)) if cost else "" for cost in costs))
        for label, costs in matrix.lines
    ]
    return _table(("measured", *matrix.runners), body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_plain, cells))} |" for cells in ruled) if body else ""


def _plain(words: str) -> str:
    """Escape text for Markdown, and join its lines."""
    escaped = html.escape(" ".join(words.split()), quote=False)
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
