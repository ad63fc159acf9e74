# SPDX-License-Identifier: Apache-2.0
"""Drawn plans of faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.faults.errors import InjectedFault
from flowgauge.strategies import FaultPlan, fault_plans, on

plans = fault_plans(
    "fetch",
    "store",
    times=2,
    runs=3,
    at=["before the body", "after the effect"],
    errors=[InjectedFault, ConnectionError("down")],
    others=st.just(on("load").crash_process(times=2)),
)


@given(plan=plans)
def test_a_plan_is_printed_as_the_code_that_makes_it(plan: FaultPlan) -> None:
    """What is printed is code that makes the same plan, and each fault is one asked for."""
    again = eval(repr(plan), {"FaultPlan": FaultPlan, "on": on, "ConnectionError": ConnectionError})
    assert repr(again) == repr(plan)
    assert len({(fault.task, fault.at, fault.kind) for fault in plan}) == len(plan) <= 5
    for fault in plan:
        if fault.kind == "crash_process":
            assert (fault.task, fault.options) == ("load", {"times": 2})
            continue
        assert fault.kind == "fail_times"
        assert fault.task in {"fetch", "store"}
        assert fault.at in {None, "after the effect"}
        assert 1 <= fault.arguments[0] <= 2
        assert fault.options.get("in_run", 1) in {1, 2, 3}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fault_plans(), "fault_plans(): name the tasks that may fail"),
        (
            lambda: fault_plans("load", times=0),
            "fault_plans(times=0): give a number of attempts, 1 or more",
        ),
        (
            lambda: fault_plans("load", at="in the body"),  # type: ignore[arg-type]
            "faults.on('load', at='in the body'): there is no such point; choose from"
            ' "before the body", "after the effect", "before the result is stored",'
            ' "after completion"',
        ),
    ],
)
def test_a_mistake_is_one_line(call: Callable[[], Any], says: str) -> None:
    """A mistake in the call is one line."""
    with pytest.raises(pytest.fail.Exception) as failed:
        call()
    assert str(failed.value) == says


def test_an_unknown_kind_is_an_attribute_error() -> None:
    """A kind of fault that does not exist is an AttributeError, as with `faults.on`."""
    with pytest.raises(AttributeError, match="there is no kind of fault 'fail_often'"):
        on("load").fail_often(3)
