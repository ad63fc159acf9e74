# SPDX-License-Identifier: Apache-2.0
"""The guarantee matrix as a page, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.report.model.guarantees import (
    MARKS,
    GuaranteeMatrix,
    GuaranteeRow,
    PatternRows,
    counted,
)


def write_matrix(matrix: GuaranteeMatrix, directory: Path) -> Path:
    """Write the matrix as `guarantees.html`, `.md` and `.json`, each atomically.

    Args:
        matrix: The guarantee matrix of a pytest run.
        directory: The folder; created if it is missing. Earlier files are replaced.

    Returns:
        The path of the page.

    Raises:
        OSError: If the folder can't be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "guarantees.json", to_json(matrix) + "\n")
    write_whole(directory / "guarantees.md", to_markdown(matrix))
    page = directory / "guarantees.html"
    write_whole(page, to_html(matrix))
    return page


def to_json(matrix: GuaranteeMatrix) -> str:
    """Return the matrix as JSON, for other programs."""
    return json.dumps({"schema_version": 1, **asdict(matrix)}, indent=2, ensure_ascii=False)


def to_markdown(matrix: GuaranteeMatrix) -> str:
    """Return the matrix as Markdown, a table for each pattern."""
    sections = (_markdown(pattern, matrix.runners) for pattern in matrix.patterns)
    return "\n".join(("# Guarantees\n", f"{matrix.summary() or 'none'}\n", *sections))


def to_html(matrix: GuaranteeMatrix) -> str:
    """Return the matrix as one page that needs no network."""
    # Imported here: jinja2 takes long to import, and most pytest runs write no matrix.
    from flowgauge.report.render.templates import fill_in

    return fill_in("guarantees.html.j2", matrix=matrix, marks=MARKS, counted=counted)


def _markdown(pattern: PatternRows, runners: tuple[str, ...]) -> str:
    lines = [f"## {pattern.name}", ""]
    if pattern.summary:
        lines += [pattern.summary, ""]
    # Markdown has no cells that span columns, so "any runner" is a separate column.
    any_runner = (None,) if any(row.cells[0].runner is None for row in pattern.rows) else ()
    columns: tuple[str | None, ...] = (*any_runner, *runners)
    lines += [_table_line("guarantee", *(column or "any runner" for column in columns))]
    lines += [_table_line(*("---" for _ in (None, *columns)))]
    for row in pattern.rows:
        statuses = {cell.runner: f"{cell.mark} {cell.status}" for cell in row.cells}
        text = f"**{row.id}**: {row.text}" if row.text else f"**{row.id}**"
        lines.append(_table_line(text, *(statuses.get(column, "") for column in columns)))
    notes = [line for row in pattern.rows for line in _markdown_notes(row)]
    return "\n".join((*lines, "", *notes, *([""] if notes else [])))


def _table_line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_notes(row: GuaranteeRow) -> Iterator[str]:
    for note in row.notes():
        where = f" on {', '.join(note.runners)}" if note.runners else ""
        failed = "; ".join(f"`{test}`" for test in note.cell.tests)
        reason = note.cell.reason or failed
        issue = f" ([Prefect #{note.cell.issue}]({note.cell.link}))" if note.cell.issue else ""
        yield f"- **{row.id}** {note.cell.status}{where}: {reason}{issue}"
