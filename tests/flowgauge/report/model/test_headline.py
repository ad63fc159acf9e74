# SPDX-License-Identifier: Apache-2.0
"""The sentences of the headline follow from the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from flowgauge.report.model.headline import details, headline, machine, noise
from flowgauge.report.model.verdicts import noise_bands
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Outcome, Results, Row

MakeRow = Callable[..., Row]


def said(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the headline of these rows."""
    return headline(rows, noise_bands(rows))


def test_answers(sample: Results) -> None:
    """The headline of a full run covers METG, tasks, features, start-up and predictions."""
    assert said(sample.rows) == (
        "The minimum effective task granularity (METG) of native tasks, from which on half of the"
        " machine works, is 30 ms on threads, 300 ms on dask-processes; never reached on"
        " sequential.",
        "A task costs least on sequential, 4.1 ms, and most on dask-processes, 131 ms:"
        " ×32 as much.",
        "The feature that adds most to a plain submit is retry on sequential: ×2.2.",
        "The slowest start-up is runner on dask-processes: 12 s, which no other figure includes.",
        "Predicted makespans of 3 workflows were off by 10% at the median.",
        "One client can start 52 task runs a second on SQLite before a server stores their states"
        " more than a second late.",
    )


def test_tasks_without_edges_come_first(make_row: MakeRow) -> None:
    """METG is that of tasks without edges if they were measured, in whatever order."""
    metg = {
        shape: make_row("metg-50", value, group="metg", params={"kernel": "native", "shape": shape})
        for shape, value in (("chain", 0.05), ("trivial", 0.03), ("tree", 0.02))
    }
    assert said(tuple(metg.values())) == (
        "The minimum effective task granularity (METG) of native tasks, from which on half of the"
        " machine works, is 30 ms on threads.",
    )
    assert "20 ms" in said((metg["tree"], metg["chain"]))[0]


def test_every_runner_is_named(make_row: MakeRow) -> None:
    """The headline says for each runner what METG was found, or why none was."""
    rows = [
        make_row(
            "metg-50", value, group="metg", runner=runner, outcome=outcome, params={"kernel": "x"}
        )
        for runner, value, outcome in (
            ("sequential", 0.5, Outcome.NEVER),
            ("dask-threads", 0.4, Outcome.BEYOND),
            ("threads", 0.03, Outcome.FOUND),
            ("dask-processes", 0.3, Outcome.BEYOND),
        )
    ]
    assert said(rows) == (
        "The minimum effective task granularity (METG) of x tasks, from which on half of the"
        " machine works, is 30 ms on threads; longer than tried on dask-threads and dask-processes;"
        " never reached on sequential.",
    )
    assert said(rows[:2]) == (
        "The minimum effective task granularity (METG) of x tasks, from which on half of the"
        " machine works, is longer than tried on dask-threads; never reached on sequential.",
    )


def test_one_runner(make_row: MakeRow) -> None:
    """If there is only one runner, its cost is given relative to its reference."""
    row = make_row("submit", 0.0041, 820.0, reference="ThreadPoolExecutor")
    assert said((row,)) == ("A task costs 4.1 ms on threads, ×820 relative to ThreadPoolExecutor.",)


def test_overlapping_runners(make_row: MakeRow) -> None:
    """If the intervals of the cheapest and the dearest runner overlap, no difference is claimed."""
    rows = (make_row("submit", 0.0041), make_row("submit", 0.0042, runner="sequential"))
    assert said(rows)[0].endswith("no difference seen.")


def test_features_that_add_nothing(make_row: MakeRow) -> None:
    """If the interval of every feature's ratio contains 1, no feature is named."""
    assert said((make_row("map", 0.004, 1.01),)) == (
        "No feature was seen to add to the time of a plain submit.",
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_say(make_row: MakeRow, rows: int) -> None:
    """A run without rows, or with rows of unknown groups only, still has a headline."""
    found = (make_row("other", 1.0, group="elsewhere"),) * rows
    assert len(said(found)) == 1


def test_machine(sample: Results) -> None:
    """The machine is described in one line, which is empty for an empty fingerprint."""
    assert machine(sample.fingerprint).startswith("2026-11-20 10:00:00 UTC · Prefect 3.8.8 · ")
    assert machine({}) == ""


def test_details() -> None:
    """Every entry of a fingerprint is shown, whatever its key; each version is a separate entry."""
    found = details({"load_1m": 0.4, "new": None, "versions": {"prefect": "3.8.8"}})
    assert found == (("load 1m", "0.4"), ("new", "unknown"), ("versions prefect", "3.8.8"))


def test_noise(make_row: MakeRow) -> None:
    """The noise is stated, or that it was not measured."""
    row = replace(make_row("again", 1.0, group="noise"), ratio=Interval(1.0, 0.92, 1.05))
    assert "8.0 %" in noise(noise_bands([row]))
    assert "Not measured" in noise({})
