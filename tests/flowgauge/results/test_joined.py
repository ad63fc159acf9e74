# SPDX-License-Identifier: Apache-2.0
"""Runs of one machine are joined; those that differ are not."""

from __future__ import annotations

from typing import Any

import pytest

from flowgauge.results.interval import Interval
from flowgauge.results.joined import joined
from flowgauge.results.rows import Results, ResultsError, Row

ORIGIN: dict[str, Any] = {
    "command": "pytest --benchmark-only",
    "cores": 2,
    "versions": {"prefect": "3.9.1", "pydantic": "2.12.0"},
    "benchmarks": {"features": ["a.py"]},
}


def run(seconds: float, *ids: str, **marks: object) -> Results:
    """Return the results of a run with some rows."""
    rows = (
        Row(
            id=id,
            group="features",
            params={},
            figure="time",
            unit="seconds",
            value=Interval.exact(seconds),
            rounds=3,
        )
        for id in ids
    )
    return Results(ORIGIN | marks, tuple(rows), durations=dict.fromkeys(ids, seconds))


def test_a_single_run_stays_as_it_is() -> None:
    """Nothing is added to it."""
    one = run(1.0, "submit")
    assert joined([one]) is one


def test_later_rows_replace_earlier_ones() -> None:
    """A row of both runs is that of the later one; all others are kept, in their order."""
    first = run(1.0, "submit", "map")
    later = run(2.0, "map", "retry", command="pytest b.py", benchmarks={"features": ["b.py"]})
    both = joined([first, later])
    assert [(row.id, row.value.median) for row in both.rows] == [
        ("submit", 1.0),
        ("map", 2.0),
        ("retry", 2.0),
    ]
    assert both.fingerprint["command"] == "pytest --benchmark-only"
    assert both.fingerprint["joined"] == ["pytest b.py"]
    assert both.fingerprint["benchmarks"] == {"features": ["a.py", "b.py"]}
    assert both.durations == {"submit": 1.0, "map": 2.0, "retry": 2.0}


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"cores": 8}, "cores is 2 in one and 8 in another"),
        (
            {"versions": {"prefect": "3.8.8", "pydantic": "2.12.0"}},
            "prefect is 3.9.1 in one and 3.8.8 in another",
        ),
        ({"versions": None}, "versions is"),
    ],
)
def test_runs_that_differ_are_not_joined(marks: dict[str, object], said: str) -> None:
    """The message says what differs, in one line."""
    with pytest.raises(ResultsError, match=said) as error:
        joined([run(1.0, "submit"), run(1.0, "map", **marks)])
    assert "\n" not in str(error.value)
