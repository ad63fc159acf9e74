# SPDX-License-Identifier: Apache-2.0
"""Parameters of deployments against the signatures of their flows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow

from flowgauge.check.described import describe_flow
from flowgauge.check.loaded import LoadedFlow, LoadedSchedule
from flowgauge.check.parameters import parameter_faults

NAMES = st.from_regex("[a-z]{1,5}", fullmatch=True)


def described(function: Any) -> LoadedFlow:
    """Return what is known about a flow made of a function."""
    return describe_flow(flow(function), function.__name__, __file__)


def load(day: str, rows: int = 3) -> None:
    """Stand for a flow."""


def load_more(day: str, **more: int) -> None:
    """Stand for a flow that takes what it gets."""


def said(*arguments: Any, **options: Any) -> list[str]:
    """Return what is wrong, with where it is."""
    faults = parameter_faults(*arguments, **options)
    return [f"{'.'.join(map(str, steps))}: {what}; {mend}" for steps, what, mend in faults]


@given(st.dictionaries(NAMES | st.just("day"), st.just("x"), max_size=4))
def test_exactly_the_names_that_the_flow_does_not_have_are_told(given_: dict[str, str]) -> None:
    """For any names, those outside the signature are told; `**kwargs` takes any."""
    unknown = {steps[-1] for steps, *_ in parameter_faults(described(load), given_, enforce=False)}
    assert unknown == given_.keys() - {"day", "rows"}
    assert said(described(load_more), given_, enforce=False) == []


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"day": "x", "rows": 4}, []),
        ({}, []),
        ({"rows": "4"}, ["parameters.rows: parameter 'rows' does not fit its type"]),
        ({"rows": "{{ $ROWS }}"}, []),
        ({"rows": {"$ref": "{{ prefect.blocks.json.rows }}"}}, []),
        ({"{{ $NAME }}": 1}, []),
        ({"dya": "x"}, ["parameters.dya: flow 'load' has no parameter 'dya'; did you mean 'day'?"]),
        (
            {"zzz": "x"},
            ["parameters.zzz: flow 'load' has no parameter 'zzz'; it has 'day', 'rows'"],
        ),
    ],
)
def test_values_are_judged_as_a_server_does(given_: dict[str, Any], told: list[str]) -> None:
    """Values must fit the schema; what only a server knows is left alone."""
    lines = said(described(load), given_)
    assert len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))


def test_without_enforcement_values_are_not_judged() -> None:
    """`enforce_parameter_schema: false` keeps a server from looking at values, and the check."""
    assert said(described(load), {"day": "x", "rows": "many"}, enforce=False) == []


@pytest.mark.parametrize(
    ("given_", "schedule", "told"),
    [
        ({}, LoadedSchedule(True, {}), True),
        ({}, LoadedSchedule(False, {}), False),
        ({}, LoadedSchedule(True, {"day": "x"}), False),
        ({"day": "x"}, LoadedSchedule(True, {}), False),
        ({"day": "{{ $DAY }}"}, LoadedSchedule(True, {}), False),
    ],
)
def test_a_schedule_must_have_what_the_flow_requires(
    given_: dict[str, Any], schedule: LoadedSchedule, told: bool
) -> None:
    """Nobody fills in a parameter of a scheduled run: an active schedule must have them all."""
    lines = said(described(load), given_, [schedule])
    assert (
        lines
        == [
            "schedules.0: runs that it schedules fail: the flow requires 'day';"
            " give it a value under `parameters`, or the flow a default"
        ]
        * told
    )


def test_the_parameters_of_a_schedule_are_judged_too() -> None:
    """A schedule's own parameters must be in the signature and fit."""
    schedule = LoadedSchedule(True, {"day": "x", "rows": "many", "rosw": 1})
    assert [line.split(":")[0] for line in said(described(load), {}, [schedule])] == [
        "schedules.0.parameters.rosw",
        "schedules.0.parameters.rows",
    ]
