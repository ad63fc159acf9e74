# SPDX-License-Identifier: Apache-2.0
"""Two runs are compared row by row, in the right direction, and only where that is valid."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from flowgauge.report.model.comparison import compare
from flowgauge.report.render.terminal_comparison import print_comparison
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Outcome, Results, Row
from tests.flowgauge.report.conftest import row

DRAWS = 2000

MakeRow = Callable[..., Row]
MACHINE = {"cpu_model": "A", "cores": 2, "versions": {"prefect": "3.8.8"}}


def runs(old: Row, new: Row) -> tuple[Results, Results]:
    """Return two runs with one row each, on the same machine."""
    return Results(MACHINE, (old,)), Results(MACHINE, (new,))


def test_a_run_does_not_differ_from_itself(sample: Results) -> None:
    """If a run is compared with itself, no row has changed and none is missing."""
    found = compare(sample, sample)
    assert {change.verdict for change in found.changes} == {"no difference seen"}
    assert {change.ratio and change.ratio.median for change in found.changes} == {1.0}
    assert (found.gone, found.added, found.left_out, found.notes) == ((), (), (), ())
    measured = [
        each
        for each in sample.rows
        if each.group != "noise" and each.id != "curve" and not each.is_computed
    ]
    assert len(found.changes) == len(measured)


@pytest.mark.parametrize(
    ("unit", "times", "verdict"),
    [
        ("seconds", 1.3, "slower"),
        ("seconds", 0.7, "faster"),
        ("seconds", 1.02, "no difference seen"),
        ("runs/min", 1.3, "faster"),
        ("runs/min", 0.7, "slower"),
        ("efficiency", 0.7, "slower"),
    ],
)
def test_more_is_worse_or_better(unit: str, times: float, verdict: str) -> None:
    """More seconds are worse; more runs per minute and more efficiency are better."""
    (change,) = compare(*runs(row("x", 2.0, unit=unit), row("x", 2.0 * times, unit=unit))).changes
    assert change.verdict == verdict
    assert change.ratio is not None
    assert (change.ratio.median > 1) == (verdict == "slower" or times == 1.02)
    assert change.ratio.low < change.ratio.median < change.ratio.high


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Outcome.FOUND, Outcome.NEVER),
        (Outcome.FOUND, Outcome.BEYOND),
        (Outcome.BEYOND, Outcome.NEVER),
    ],
)
def test_a_metg_that_is_no_longer_reached_is_slower(better: Outcome, worse: Outcome) -> None:
    """A METG that becomes longer than tried, or is never reached any more, is slower."""
    one, other = row("metg-90", 0.2, outcome=better), row("metg-90", 0.8, outcome=worse)
    (change,) = compare(*runs(one, other)).changes
    assert (change.verdict, change.ratio) == ("slower", None)
    (change,) = compare(*runs(other, one)).changes
    assert change.verdict == "faster"


def test_only_ratios_are_compared_across_machines() -> None:
    """If the machines differ, this is noted, and only rows with a reference are compared."""
    rows = (row("a", 1.0, 2.0), row("b", 1.0))
    other = (row("a", 9.0, 2.0), row("b", 9.0))
    found = compare(Results(MACHINE, rows), Results({**MACHINE, "cores": 64}, other))
    assert found.by_ratio
    assert found.notes == ("cores: 2, now 64",)
    assert [(c.new.id, c.ratio and c.ratio.median, c.verdict) for c in found.changes] == [
        ("a", 1.0, "no difference seen")
    ]
    assert [each.id for each in found.left_out] == ["b"]


def test_other_versions_are_named_and_times_compared() -> None:
    """If the versions of Prefect differ, this is noted, and times are compared."""
    newer = {**MACHINE, "versions": {"prefect": "3.9.0"}}
    found = compare(Results(MACHINE, (row("a", 1.0),)), Results(newer, (row("a", 2.0),)))
    assert found.notes == ("prefect: 3.8.8, now 3.9.0",)
    assert not found.by_ratio
    assert [change.verdict for change in found.changes] == ["slower"]


def test_rows_of_only_one_run_are_listed() -> None:
    """Removed and added rows are listed; a row with other parameters is another row."""
    few, many = (row("a", 1.0, params={"tasks": number}) for number in (10, 100))
    found = compare(*runs(few, many))
    assert (found.changes, found.gone, found.added) == ((), (few,), (many,))


def test_what_was_computed_is_not_compared() -> None:
    """A figure that is computed from others changes with them, so it is no change of its own."""
    computed = replace(row("a", 1.0), rounds=0)
    found = compare(*runs(computed, replace(computed, figure="another")))
    assert (found.changes, found.gone, found.added) == ((), (), ())


def test_one_round_is_too_few() -> None:
    """A row that was measured in one round only has too few for a verdict."""
    once = replace(row("a", 1.0), rounds=1)
    (change,) = compare(*runs(once, row("a", 5.0))).changes
    assert change.verdict == "too few rounds"


def test_a_change_within_the_noise_is_no_difference() -> None:
    """A change within the noise of either run is not called a difference."""
    noise = row("again", 1.0, 1.0, group="noise", spread=0.3)
    old, new = (Results(MACHINE, (row("a", value), noise)) for value in (1.0, 1.15))
    assert [change.verdict for change in compare(old, new).changes] == ["no difference seen"]
    quiet = Results(MACHINE, (row("a", 1.0),))
    assert [change.verdict for change in compare(quiet, new).changes] == ["no difference seen"]
    loud = Results(MACHINE, (row("a", 1.15),))
    assert [change.verdict for change in compare(quiet, loud).changes] == ["slower"]


@pytest.mark.parametrize("old", [0.01, 0.1])
@pytest.mark.parametrize(("new", "times"), [(0.01, 1.5), (0.1, 0.7)])
def test_the_interval_holds_the_truth(old: float, new: float, times: float) -> None:
    """If figures have 95 % intervals, that of their ratio holds the true ratio 95 % of the time."""
    chance = random.Random(7)

    def found(truth: float, deviation: float) -> Row:
        # The value differs from the truth by chance, and its interval says by how much it may.
        value = truth * math.exp(chance.gauss(0, deviation))
        reach = math.exp(1.96 * deviation)
        return replace(row("a", value), value=Interval(value, value / reach, value * reach))

    held = 0
    for _ in range(DRAWS):
        (change,) = compare(*runs(found(1.0, old), found(times, new))).changes
        assert change.ratio is not None
        held += change.ratio.low <= times <= change.ratio.high
    # Five standard deviations for this number of draws.
    assert held / DRAWS == pytest.approx(0.95, abs=5 * math.sqrt(0.95 * 0.05 / DRAWS))


def test_slower_than_a_share() -> None:
    """A row counts only if it is certainly slower by more than the share, not if it may be."""
    found = compare(*runs(row("a", 1.0), row("a", 1.3)))
    assert len(found.slower_than(0.1)) == 1
    assert found.slower_than(0.28) == ()


def test_a_slow_machine_is_recognised() -> None:
    """The time of code without Prefect distinguishes a slow machine from slow code."""
    old = row("submit", 1.0, 100.0, reference="ThreadPoolExecutor")
    assert compare(
        *runs(old, replace(old, value=old.value.scaled(1.6)))
    ).machine_time == pytest.approx(1.6)
    other = row("retry", 1.0, 2.0, reference="submit of a plain task")
    assert compare(*runs(other, other)).machine_time is None


def test_what_is_printed(sample: Results) -> None:
    """The terminal shows what changed, the counts, and the names of rows that were not compared."""
    rows = tuple(replace(r, value=r.value.scaled(2)) for r in sample.rows)
    without = tuple(each for each in rows if each.id != "server")
    shown = io.StringIO()
    print_comparison(
        compare(sample, Results(sample.fingerprint, without)), Console(file=shown, width=160)
    )
    text = shown.getvalue()
    assert " retry " in text
    assert "×2.0 (" in text
    assert "slower" in text
    assert "only in the old run: 1 (server)" in text
    assert "metg-50 kernel=native" in text
