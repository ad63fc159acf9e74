# SPDX-License-Identifier: Apache-2.0
"""Rows are shown in a fixed order, unknown ones included."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.report.model.labels import (
    colours,
    groups,
    in_order,
    interval_text,
    labels,
    runners,
)
from flowgauge.report.model.tables import COLUMNS, table_rows
from flowgauge.results.rows import Outcome, Row

MakeRow = Callable[..., Row]
names = st.sampled_from(["submit", "flow", "new", "threads", "processes", "features", "noise"])


@given(st.lists(st.tuples(names, names, st.none() | names)))
def test_no_row_is_lost(make_row: MakeRow, keys: list[tuple[str, str, str | None]]) -> None:
    """Every row is shown once, whatever its id, group and runner."""
    rows = [make_row(id, 1.0, group=group, runner=runner) for id, group, runner in keys]
    shown = [row for group in groups(rows) for row in group.rows]
    assert sorted(map(id, shown)) == sorted(map(id, rows))


def test_what_was_computed_says_so(make_row: MakeRow) -> None:
    """The label of a computed figure says so, and its interval is not judged."""
    measured = make_row("many-tasks", 1.0, params={"tasks": 1000})
    computed = make_row("server", 1.0, params={"workers": 10}, rounds=0, spread=0.5)
    wider = make_row("server", 2.0, params={"workers": 20}, rounds=0)
    assert labels([measured, computed, wider]) == (
        "many-tasks",
        "server · workers=10 · computed",
        "server · workers=20 · computed",
    )
    assert labels([computed]) == ("server · computed",)
    assert interval_text(computed) == "500 ms – 1.5 s"
    rounds = [
        each.cells[COLUMNS.index("rounds")].text for each in table_rows([measured, wider], {})
    ]
    assert rounds == ["12", "computed"]


def test_groups(make_row: MakeRow) -> None:
    """Known groups come first in a fixed order, then unknown ones, titled by their names."""
    rows = [make_row("a", 1.0, group=group) for group in ("new", "noise", "features")]
    assert [group.title for group in groups(rows)] == [
        "What each feature costs",
        "The same thing compared with itself",
        "new",
    ]


def test_rows(make_row: MakeRow) -> None:
    """Known features come first in a fixed order, and the runners of a feature in theirs."""
    keys = [("new", "threads"), ("retry", "threads"), ("flow", None), ("retry", "sequential")]
    rows = in_order(make_row(id, 1.0, runner=runner) for id, runner in keys)
    assert [(row.id, row.runner) for row in rows] == [
        ("flow", None),
        ("retry", "sequential"),
        ("retry", "threads"),
        ("new", "threads"),
    ]


def test_runners(make_row: MakeRow) -> None:
    """Known runners come first, and rows without a runner last."""
    rows = [make_row("a", 1.0, runner=name) for name in (None, "ray", "dask-threads", "threads")]
    assert runners(rows) == ("threads", "dask-threads", "ray", "no runner")


def test_colours() -> None:
    """A runner has the same colour whichever others are shown, and no two runners share one."""
    assert colours(["threads"])[0] == colours(["sequential", "ray", "threads"])[2]
    assert len(set(colours(["sequential", "ray", "threads", "slurm"]))) == 4


def test_labels(make_row: MakeRow) -> None:
    """A label is the id, and names the parameters only where two rows would look the same."""
    few, many = (make_row("submit", 1.0, params={"tasks": n}) for n in (10, 100))
    other = make_row("map", 1.0)
    assert labels([few, many, other]) == (
        "submit · tasks=10",
        "submit · tasks=100",
        "map",
    )


def test_labels_name_what_differs(make_row: MakeRow) -> None:
    """Labels leave out what all rows of an id share, and task counts that follow from the rest."""
    cell = {"kernel": "native", "shape": "trivial"}
    plain = make_row("metg", 1.0, params=cell)
    with_tags = make_row("metg", 1.0, params=cell | {"feature": "tags"})
    assert labels([plain, with_tags]) == ("metg", "metg · feature=tags")
    rows = [
        make_row("time", 1.0, params={"tasks": tasks, "seconds": seconds})
        for tasks, seconds in ((300, 0.0), (150, 0.02))
    ]
    assert labels(rows) == ("time · seconds=0.0", "time · seconds=0.02")
    more = [*rows, make_row("time", 1.0, params={"tasks": 10, "seconds": 0.0})]
    assert labels(more)[0] == "time · tasks=300, seconds=0.0"


def test_labels_of_different_figures(make_row: MakeRow) -> None:
    """If rows of one id have different figures, their labels name them."""
    figures = ("time per task run", "time per flow run")
    assert labels([make_row("flow", 1.0, params={}, figure=figure) for figure in figures]) == (
        "flow · time per task run",
        "flow · time per flow run",
    )


def test_the_interval_says_how_wide_it_is_if_it_is_wide(make_row: MakeRow) -> None:
    """A figure that is not precise, and one of a single round, say so beside their interval."""
    narrow = make_row("submit", 1.0, spread=0.03, relative_iqr=0.4)
    wide = make_row("submit", 1.0, spread=0.125, relative_iqr=0.1)
    assert interval_text(narrow) == "970 ms – 1.03 s"
    assert interval_text(wide) == "875 ms – 1.1 s, ± 12%"
    once = make_row("submit", 1.0, spread=0.0, relative_iqr=0.0, rounds=1)
    assert interval_text(once) == "one round"
    counted = make_row("bytes", 1.0, spread=0.0, rounds=1, unit="MiB")
    assert interval_text(counted) == "1.00 MiB – 1.00 MiB"
    tried = make_row("metg-90", 0.8, outcome=Outcome.BEYOND, tried=0.6)
    assert interval_text(tried) == "longer than tried (80 % busy at 600 ms)"
