# SPDX-License-Identifier: Apache-2.0
"""Rows as tables of text, for the page, the Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowgauge.report.model.formats import mebibytes, ratio
from flowgauge.report.model.labels import (
    figure_text,
    interval_text,
    is_point,
    kernel_name,
    labels,
    params_text,
    runner_name,
    runners,
)
from flowgauge.report.model.verdicts import Bands, verdict, verdict_text
from flowgauge.results.rows import Row

COLUMNS = (
    "measured",
    "runner",
    "median",
    "95 % interval",
    "ratio",
    "ratio's 95 % interval",
    "verdict",
    "relative to",
    "memory",
    "reference's memory",
    "rounds",
    "relative IQR",
    "figure",
    "settings",
)
SAME = "≈"
"""Replaces a ratio where no difference was seen."""


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    Attributes:
        text: The text to show.
        key: The key to sort by: a number, or the text itself; None comes last.
    """

    text: str
    key: float | str | None

    @property
    def numeric(self) -> bool:
        """Whether it contains a figure."""
        return not isinstance(self.key, str)


_NONE = TableCell("", None)
_NOT_MEASURED = TableCell("not measured", None)


@dataclass(frozen=True)
class TableRow:
    """One row of the results as cells, in the order of `COLUMNS`."""

    runner: str
    kernel: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class Pivot:
    """A table with a line for each thing measured and a column for each runner.

    Attributes:
        runners: The headers of the columns.
        lines: A label, and for each runner (cost, ratio), or None where it was not measured.
        kernels: For each line the kind of work; empty if it has none.
    """

    runners: tuple[str, ...]
    lines: tuple[tuple[str, tuple[tuple[str, str] | None, ...]], ...]
    kernels: tuple[str, ...]


def table_rows(rows: Sequence[Row], bands: Bands) -> tuple[TableRow, ...]:
    """Return every figure of every row as text."""
    return tuple(TableRow(runner_name(row), kernel_name(row), _cells(row, bands)) for row in rows)


def pivot(rows: Sequence[Row], bands: Bands) -> Pivot:
    """Arrange rows by runner.

    Args:
        rows: The rows in the order to show.
        bands: The A/A bands of the run.

    Returns:
        One line for each label, with the cost and the ratio on each runner; points of curves are
        left out.
    """
    rows = [row for row in rows if not is_point(row)]
    columns = runners(rows)
    costs_by_label: dict[str, dict[str, tuple[str, str]]] = {}
    kernels: dict[str, str] = {}
    for label, row in zip(labels(rows), rows, strict=True):
        cost = figure_text(row), ratio_text(row, bands)
        costs_by_label.setdefault(label, {})[runner_name(row)] = cost
        kernels[label] = kernel_name(row)
    return Pivot(
        columns,
        tuple(
            (label, tuple(costs.get(name) for name in columns))
            for label, costs in costs_by_label.items()
        ),
        tuple(kernels.values()),
    )


def ratio_text(row: Row, bands: Bands) -> str:
    """Return a row's ratio as text: `SAME` if no difference was seen, empty if it has none."""
    if row.ratio is None:
        return ""
    return SAME if verdict(row, bands) == "no difference seen" else ratio(row.ratio.median)


def _cells(row: Row, bands: Bands) -> tuple[TableCell, ...]:
    settings = params_text(row)
    judged = verdict_text(row, bands)
    return (
        TableCell(row.id, row.id),
        TableCell(runner_name(row), runner_name(row)),
        TableCell(figure_text(row), row.value.median),
        TableCell(interval_text(row), row.value.low),
        TableCell(ratio(row.ratio.median), row.ratio.median) if row.ratio else _NONE,
        TableCell(f"{ratio(row.ratio.low)} – {ratio(row.ratio.high)}", row.ratio.low)
        if row.ratio
        else _NONE,
        TableCell(judged, judged),
        TableCell(row.reference or "", row.reference or ""),
        _memory_cell(row.memory.candidate) if row.memory else _NOT_MEASURED,
        _memory_cell(row.memory.reference if row.memory else None),
        TableCell("computed" if row.is_computed else str(row.rounds), row.rounds),
        TableCell("" if row.relative_iqr is None else f"{row.relative_iqr:.0%}", row.relative_iqr),
        TableCell(row.figure, row.figure),
        TableCell(settings, settings),
    )


def _memory_cell(mib: float | None) -> TableCell:
    return _NONE if mib is None else TableCell(mebibytes(mib), mib)
