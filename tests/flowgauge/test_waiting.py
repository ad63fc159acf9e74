# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a time limit that one setting scales."""

from __future__ import annotations

import pytest

from flowgauge.waiting import GUARD_SECONDS, SCALE, patience, wait_until


@pytest.fixture(autouse=True)
def _no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the scale of the surrounding pytest run."""
    monkeypatch.delenv(SCALE, raising=False)


def test_it_waits_for_the_condition_and_returns_its_value() -> None:
    """The first true value is returned; the condition is not called again after it."""
    values = iter([0, "", None, "there", "late"])
    assert wait_until(lambda: next(values), pause=0) == "there"
    assert next(values) == "late"


def test_a_timeout_names_what_was_waited_for() -> None:
    """The error names what was waited for, as a text or a function describes it.

    The condition is called once even if there is no time to wait.
    """
    with pytest.raises(TimeoutError, match=r"^waited 0\.01 s in vain for the worker$"):
        wait_until(lambda: False, "the worker", seconds=0.01, pause=0.001)
    asked: list[int] = []
    with pytest.raises(TimeoutError, match=r"vain for 3 runs"):
        wait_until(lambda: asked.append(1), lambda: "3 runs", seconds=0, pause=0)
    assert asked == [1]


def test_an_error_of_the_condition_is_raised() -> None:
    """An exception that the condition raises is propagated."""
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


def test_one_setting_scales_all_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One environment variable lengthens all time limits, for a machine that is very slow."""
    assert (patience(), patience(20)) == (GUARD_SECONDS, 20)
    monkeypatch.setenv(SCALE, "2.5")
    assert (patience(), patience(20)) == (2.5 * GUARD_SECONDS, 50)
    monkeypatch.setenv(SCALE, "0")
    with pytest.raises(TimeoutError, match="waited 0 s"):
        wait_until(lambda: False)
