# SPDX-License-Identifier: Apache-2.0
"""Prints a comparison of two benchmark runs in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowgauge.report.model.comparison import Change, Comparison
from flowgauge.report.model.formats import ratio
from flowgauge.report.model.labels import figure_text, params_text, runner_name
from flowgauge.results.rows import Row

_NAMED = 8
_COLOURS = {"slower": "red", "faster": "green"}


def print_comparison(comparison: Comparison, console: Console, *, everything: bool = False) -> None:
    """Print what changed, what could not be compared, and the number of rows of each kind.

    Args:
        comparison: The comparison.
        console: Where to print.
        everything: Whether to print rows without a difference, too.
    """
    for note in comparison.notes:
        console.print(Text(note), soft_wrap=True)
    if comparison.machine_time is not None and not comparison.by_ratio:
        times = ratio(comparison.machine_time)
        console.print(
            Text(
                f"code without Prefect took {times} as long as in the old run: if that is far from"
                " 1, it was a different machine, and --by-ratio says more"
            ),
            soft_wrap=True,
        )
    if comparison.by_ratio:
        console.print(
            Text("comparing the ratios of rows to their own references, not their times"),
            soft_wrap=True,
        )
    changes = [change for change in comparison.changes if everything or change.verdict in _COLOURS]
    if changes:
        console.print(_table(changes, by_ratio=comparison.by_ratio))
    verdicts = Counter(change.verdict for change in comparison.changes)
    counts = [f"{count} {verdict}" for verdict, count in sorted(verdicts.items())]
    console.print(Text(f"rows compared: {len(comparison.changes)} ({', '.join(counts) or 'none'})"))
    for title, rows in (
        ("only in the old run", comparison.gone),
        ("only in the new run", comparison.added),
        ("left out for lack of a ratio", comparison.left_out),
    ):
        if rows:
            console.print(Text(f"{title}: {len(rows)} ({_names(rows)})"), soft_wrap=True)


def _table(changes: Iterable[Change], *, by_ratio: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("measured", overflow="fold")
    table.add_column("runner", no_wrap=True)
    for head in ("old", "new", "new / old, 95 % interval"):
        table.add_column(head, justify="right")
    table.add_column("", no_wrap=True)
    for change in changes:
        table.add_row(
            Text(" ".join(filter(None, (change.new.id, params_text(change.new))))),
            Text(runner_name(change.new)),
            *(Text(_figure(row, by_ratio=by_ratio)) for row in (change.old, change.new)),
            Text(_times(change)),
            Text(change.verdict, _COLOURS.get(change.verdict, "dim")),
        )
    return table


def _figure(row: Row, *, by_ratio: bool) -> str:
    return ratio(row.ratio.median) if by_ratio and row.ratio else figure_text(row)


def _times(change: Change) -> str:
    if change.ratio is None:
        return ""
    low, high = ratio(change.ratio.low), ratio(change.ratio.high)
    return f"{ratio(change.ratio.median)} ({low} – {high})"


def _names(rows: Iterable[Row]) -> str:
    names = list(dict.fromkeys(row.id for row in rows))
    more = ", …" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
