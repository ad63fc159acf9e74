# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown, for a pull request or a repository's page."""

from __future__ import annotations

import html
from collections.abc import Container, Iterable, Iterator, Sequence

from flowgauge.report.model.commands import command
from flowgauge.report.model.glossary import COMMAND, NOT_MEASURED, how_to_read
from flowgauge.report.model.headline import details, headline, machine
from flowgauge.report.model.labels import Group, groups
from flowgauge.report.model.questions import Question, questions
from flowgauge.report.model.tables import COLUMNS, Matrix, lines, matrix
from flowgauge.report.model.verdicts import Bands, noise_bands, warnings
from flowgauge.results.rows import Results


def text(results: Results, drawn: Container[str] | None = None, gantts: Iterable[str] = ()) -> str:
    """Write the report as Markdown.

    Args:
        results: The figures.
        drawn: The keys of the questions that have a chart in `charts/`; None where there is no
            such folder, and so no question.
        gantts: The names of the Gantt charts in `charts/`.

    Returns:
        A whole Markdown document.
    """
    bands = noise_bands(results.rows)
    blocks = ["# Flowgauge report", "  \n".join(map(_plain, headline(results)))]
    blocks.append(_plain(machine(results.fingerprint)))
    blocks += [f"**{_plain(warning)}**" for warning in warnings(results)]
    for question in questions(results.rows) if drawn is not None else ():
        blocks += _question(
            question, drawn or frozenset(), command(results.fingerprint, question.group)
        )
        if question.key == "workflows":
            blocks += [f"[![{name}](charts/{name}.svg)](charts/{name}.svg)" for name in gantts]
    blocks.append("## Every figure")
    for group in groups(results.rows):
        blocks += _group(group, bands, command(results.fingerprint, group.name))
    blocks.append("## How to read the numbers")
    blocks.append("\n".join(f"- **{term}**: {_plain(said)}" for term, said in how_to_read(results)))
    blocks += ["## What it ran on", _table(("", ""), details(results.fingerprint))]
    blocks.append(f"To make this report again from its results: `{COMMAND}`")
    return "\n\n".join(filter(None, blocks)) + "\n"


def _question(question: Question, drawn: Container[str], again: str) -> Iterator[str]:
    yield f"## {question.title}"
    if question.key in drawn:
        yield question.caption
        yield f"[![{question.title}](charts/{question.key}.svg)](charts/{question.key}.svg)"
        yield _measured_by(again)
    else:
        yield NOT_MEASURED


def _measured_by(command: str) -> str:
    return f"Measured by `{command}`" if command else ""


def _group(group: Group, bands: Bands, again: str) -> Iterator[str]:
    yield f"### {_plain(group.title)}"
    yield _measured_by(again)
    yield _matrix(matrix(group.rows, bands))
    full = [[cell.text for cell in line.cells] for line in lines(group.rows, bands)]
    yield "<details><summary>In full</summary>"
    yield _table(COLUMNS, full)
    yield "</details>"


def _matrix(shown: Matrix) -> str:
    body = [
        (label, *(" ".join(filter(None, cost)) if cost else "" for cost in costs))
        for label, costs in shown.lines
    ]
    return _table(("measured", *shown.runners), body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_plain, cells))} |" for cells in ruled) if body else ""


def _plain(words: str) -> str:
    """Write words so that Markdown takes none of them for its own, on one line."""
    escaped = html.escape(" ".join(words.split()), quote=False)
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
