# SPDX-License-Identifier: Apache-2.0
"""The figures of a run in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowgauge.report.model.formats import ratio
from flowgauge.report.model.labels import figure_text, interval_text, params_text, runner_name
from flowgauge.report.model.report import Report
from flowgauge.report.model.tables import SAME, Pivot
from flowgauge.results.rows import Group, Row


def print_report(report: Report, console: Console, page: Path) -> None:
    """Print what a run found: its answers, a table for each group, and where the report is.

    Args:
        report: What it says.
        console: Where to print; tables take two lines a row where it is narrow.
        page: The report's page, named in the last line.
    """
    for section in report.sections:
        if section.name != Group.NOISE:
            console.print()
            # Not the table's own title, which is broken where the table is narrow.
            console.print(Text(section.title, "bold"))
            console.print(_table(section.matrix, console))
    console.print()
    for sentence in report.headline:
        console.print(Text(sentence))
    for warning in report.warnings:
        console.print(Text(warning, "yellow"))
    console.print(Text(f"× beside its reference, {SAME} no difference seen", "dim"))
    # A path that is broken over two lines can't be opened with a click.
    console.print(Text(f"report: {_nearby(page)}"), soft_wrap=True)


def line(row: Row) -> str:
    """Write one row as a line, for a run to show as it goes."""
    beside = f", {ratio(row.ratio.median)} beside {row.reference}" if row.ratio else ""
    what = " ".join(filter(None, (row.id, params_text(row))))
    exact = "" if row.value.is_exact else f" ({interval_text(row)})"
    return f"{what} · {runner_name(row)}: {figure_text(row)}{exact}{beside}"


def _table(shown: Pivot, console: Console) -> Table:
    wide = _laid_out(shown, " ")
    fits = Console(width=1000).measure(wide).maximum <= console.width
    return wide if fits else _laid_out(shown, "\n")


def _laid_out(shown: Pivot, between: str) -> Table:
    gap = 1 if between == "\n" else 2
    table = Table(box=None, padding=(0, gap, 0, 0))
    table.add_column("", overflow="fold")
    for runner in shown.runners:
        # Split at the hyphen, because a head should be no wider than the figures below it.
        table.add_column(Text(runner.replace("-", "-\n")), justify="right", overflow="fold")
    for label, costs in shown.lines:
        cells = (_cell(cost, between) for cost in costs)
        table.add_row(Text(label), *cells)
    return table


def _cell(cost: tuple[str, str] | None, between: str) -> Text:
    if cost is None:
        return Text()
    return Text.assemble(cost[0], between, (cost[1], "dim"))


def _nearby(page: Path) -> Path:
    """Return a path as a person would type it from here."""
    here = Path.cwd()
    return page.relative_to(here) if page.is_relative_to(here) else page
