# SPDX-License-Identifier: Apache-2.0
"""Prints the figures of a benchmark run in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowgauge.report.model.formats import mebibytes, ratio
from flowgauge.report.model.labels import figure_text, interval_text, params_text, runner_name
from flowgauge.report.model.report import Report
from flowgauge.report.model.tables import SAME, Pivot
from flowgauge.results.rows import Group, Row

_NOTABLE_MIB = 8
"""The difference in memory from which on a row's line tells it; less may be a module that the first
call of the candidate has loaded."""


def print_report(report: Report, console: Console, page: Path) -> None:
    """Print a table for each group, the headline, the warnings, and the path of the report.

    Args:
        report: The report.
        console: Where to print; if it is narrow, tables use two lines per row.
        page: The report's page, named in the last line.
    """
    for section in report.sections:
        if section.name != Group.NOISE:
            console.print()
            # Not the table's own title, which would wrap in a narrow table.
            console.print(Text(section.title, "bold"))
            console.print(_table(section.matrix, console))
    console.print()
    for sentence in report.headline:
        console.print(Text(sentence))
    for warning in report.warnings:
        console.print(Text(warning, "yellow"))
    legend = f"× = ratio to its reference, {SAME} = no difference seen"
    console.print(Text(legend, "dim"))
    # A path that wraps over two lines can't be opened with a click.
    console.print(Text(f"report: {_nearby(page)}"), soft_wrap=True)


def line(row: Row) -> str:
    """Return one row as a line, to be printed during the run."""
    relative = f", {ratio(row.ratio.median)} relative to {row.reference}" if row.ratio else ""
    what = " ".join(filter(None, (row.id, params_text(row))))
    exact = "" if row.value.is_exact else f" ({interval_text(row)})"
    more = _memory(row) + ", computed" * row.is_computed
    return f"{what} · {runner_name(row)}: {figure_text(row)}{exact}{relative}{more}"


def _memory(row: Row) -> str:
    """Return how much more memory a row takes than its reference, if the difference is notable."""
    more = row.memory.candidate - (row.memory.reference or 0.0) if row.memory else 0.0
    if abs(more) < _NOTABLE_MIB:
        return ""
    return f", {mebibytes(abs(more))} {'more' if more > 0 else 'less'} memory"


def _table(matrix: Pivot, console: Console) -> Table:
    wide = _layout(matrix, " ")
    fits = Console(width=1000).measure(wide).maximum <= console.width
    return wide if fits else _layout(matrix, "\n")


def _layout(matrix: Pivot, separator: str) -> Table:
    gap = 1 if separator == "\n" else 2
    table = Table(box=None, padding=(0, gap, 0, 0))
    table.add_column("", overflow="fold")
    for runner in matrix.runners:
        # Split at the hyphen, because a header should not be wider than the figures below it.
        table.add_column(Text(runner.replace("-", "-\n")), justify="right", overflow="fold")
    for label, costs in matrix.lines:
        cells = (_cell(cost, separator) for cost in costs)
        table.add_row(Text(label), *cells)
    return table


def _cell(cost: tuple[str, str] | None, separator: str) -> Text:
    if cost is None:
        return Text()
    return Text.assemble(cost[0], separator, (cost[1], "dim"))


def _nearby(page: Path) -> Path:
    """Return a path relative to the current folder, if it is inside it."""
    here = Path.cwd()
    return page.relative_to(here) if page.is_relative_to(here) else page
