# SPDX-License-Identifier: Apache-2.0
"""What a pattern costs is shown with the figures of a run."""

from __future__ import annotations

from flowgauge.report.model.costs import figures, named_rows
from tests.flowgauge.report.conftest import row


def test_rows_are_read_from_the_text() -> None:
    """One row, a list of rows and rows in another sentence are read; other code is not."""
    costs = "Row `a` of the report, and rows `b-1`, `c/d` and `e`. Each row has `f`; row `a` again."
    assert named_rows(costs) == ("a", "b-1", "c/d", "e")
    assert named_rows("None.") == ()


def test_a_row_has_its_figures_for_each_runner() -> None:
    """What was measured under a row's name is on one line, with the runners that it was for."""
    rows = (
        row("a", 0.002, runner="threads", params={}),
        row("a", 0.05, runner="processes", params={}),
        row("a", 9.0, 1.0, runner="threads", reference="itself", params={}),
        row("b", 1.0, runner=None, params={"items": 3}),
    )
    assert list(figures("Rows `a` and `b`.", rows)) == [
        "a: time per task run: threads 2.0 ms, processes 50 ms",
        "b: time per task run (items 3): 1.00 s",
    ]


def test_a_row_that_no_run_has_yet_says_so() -> None:
    """A pattern may name a row before the reference run is made again."""
    assert list(figures("Row `new`.", ())) == ["new: not measured yet"]
