# SPDX-License-Identifier: Apache-2.0
"""The terminal shows every figure within its width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flowgauge.report.model.report import report_on
from flowgauge.report.render.terminal import line, print_report
from flowgauge.results.rows import Memory, Outcome, Results, Row

MakeRow = Callable[..., Row]


def printed(results: Results, width: int, page: Path = Path("index.html")) -> list[str]:
    """Return the lines that a terminal of this width shows."""
    console = Console(file=StringIO(), width=width)
    print_report(report_on(results), console, page)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_fits(sample: Results, width: int) -> None:
    """No line is wider than the terminal, and no name or figure is cut."""
    lines = printed(sample, width)
    assert max(map(len, lines)) <= width
    shown = " ".join(lines)
    assert "…" not in shown
    names = ("persisted-result", "subflows/side_by_side", "sequential", "dask-", "processes")
    figures = ("4.1 ms", "×160,000", "131 ms", "×3,100,000", "8.4 s", "≈")
    assert [part for part in names + figures if part not in shown] == []


def test_wide_terminal_takes_one_line(sample: Results) -> None:
    """If there is room, a cost and its ratio are on one line."""
    assert any("4.1 ms ×160,000" in shown for shown in printed(sample, 140))


def test_last_line_is_the_report(sample: Results, tmp_path: Path) -> None:
    """The last line is the report's path: unwrapped, and relative below the current folder."""
    far = tmp_path / ("x" * 90) / "index.html"
    assert printed(sample, 80, far)[-1] == f"report: {far}"
    near = Path.cwd() / "reports" / "index.html"
    assert printed(sample, 80, near)[-1] == f"report: {Path('reports/index.html')}"


def test_what_was_computed_is_marked(sample: Results, make_row: MakeRow) -> None:
    """Computed figures say so in their line, and in the table at the end."""
    computed = make_row("server", 2.0, group="limits", runner=None, rounds=0)
    assert line(computed).endswith(": 2.0 s (1.9 s – 2.1 s), computed")
    assert "computed" not in line(replace(computed, rounds=3))
    table = [shown for shown in printed(sample, 140) if shown.startswith("server · workers")]
    assert table
    assert all("computed" in shown for shown in table)


def test_names_are_not_markup(make_row: MakeRow) -> None:
    """A name with brackets is shown as it is."""
    row = make_row("[bold]x[/]", 1.0, group="[red]", runner="[/]")
    shown = "\n".join(printed(Results({}, (row,)), 80))
    assert "[bold]x[/]" in shown
    assert "[red]" in shown


def test_line(make_row: MakeRow) -> None:
    """A single row is shown on one line, with its reference if it has one."""
    row = make_row("submit", 0.0052, 1000.0, reference="ThreadPoolExecutor")
    assert line(row) == (
        "submit tasks=50 · threads: 5.2 ms (5.0 ms – 5.4 ms), ×1,000 relative to ThreadPoolExecutor"
    )
    alone = make_row("server", 8.4, runner=None, params={})
    assert line(alone) == "server · no runner: 8.4 s (8.1 s – 8.7 s)"
    never = make_row("metg-90", 0.56, outcome=Outcome.NEVER, spread=0, params={"kernel": "python"})
    assert line(never) == "metg-90 kernel=python · threads: never, ceiling 0.56"
    beyond = make_row("metg-90", 0.84, outcome=Outcome.BEYOND, spread=0, params={})
    assert line(beyond) == "metg-90 · threads: longer than tried (84 % busy)"


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (None, "the same"),
        (Memory(70.0, 2.0), "the same, 68 MiB more memory"),
        (Memory(2.0, 70.0), "the same, 68 MiB less memory"),
        (Memory(70.0, 68.0), "the same"),
    ],
)
def test_a_line_names_memory_that_differs(
    make_row: MakeRow, memory: Memory | None, text: str
) -> None:
    """A row's line has the difference in memory only if it is more than modules take."""
    assert line(make_row("submit", 1.0, 2.0, reference="the same", memory=memory)).endswith(text)
