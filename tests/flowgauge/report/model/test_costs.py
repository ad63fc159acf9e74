# SPDX-License-Identifier: Apache-2.0
"""The costs of a pattern are shown with the figures of a run."""

from __future__ import annotations

from flowgauge.report.model.costs import figures, named_rows
from tests.flowgauge.report.conftest import row


def test_rows_are_read_from_the_text() -> None:
    """Names of rows are read from every sentence about rows; other code is not."""
    costs = "Row `a` of the report, and rows `b-1`, `c/d` and `e`. Each row has `f`; row `a` again."
    assert named_rows(costs) == ("a", "b-1", "c/d", "e")
    assert named_rows("None.") == ()


def test_a_row_has_its_figures_for_each_runner() -> None:
    """The figures of a named row are on one line, with one figure for each task runner."""
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


def test_a_row_without_figures_is_not_measured_yet() -> None:
    """A named row that the run does not have is shown as not measured yet."""
    assert list(figures("Row `new`.", ())) == ["new: not measured yet"]
