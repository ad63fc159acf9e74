# SPDX-License-Identifier: Apache-2.0
"""Paired rounds, timed by the real pytest-benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.measure.pairs import MAX_ROUNDS, Budget, Rounds, WrongAnswerError, paired_rounds, row
from flowgauge.results.interval import Interval

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture
def measuring(benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch) -> BenchmarkFixture:
    """Return a benchmark fixture that measures, even in a run where benchmarks are disabled."""
    monkeypatch.setattr(benchmark, "disabled", False)
    monkeypatch.setattr(benchmark, "_add_stats", lambda stats: None)
    return benchmark


def test_rounds_alternate_between_reference_and_candidate(measuring: BenchmarkFixture) -> None:
    """Each round of the candidate comes right after a round of its reference."""
    ran: list[str] = []

    def run(name: str) -> int:
        ran.append(name)
        return 1

    rounds = paired_rounds(
        measuring, lambda: run("candidate"), lambda: run("reference"), lambda n: n == 1, 4
    )
    assert ran == ["reference", "candidate"] * 4
    assert len(rounds.candidate) == len(rounds.reference) == 4


def test_a_budget_warms_up_and_fills_its_time(measuring: BenchmarkFixture) -> None:
    """Fast work gets the maximum number of rounds, after a warm-up round that is not counted."""
    ran: list[None] = []
    rounds = paired_rounds(
        measuring, lambda: ran.append(None), None, lambda _: True, Budget(5, max_time=60)
    )
    assert len(rounds.candidate) == MAX_ROUNDS
    assert len(ran) == MAX_ROUNDS + 1
    assert rounds.reference == ()


@given(st.integers(1, 100), st.floats(0, 100), st.floats(0, 100))
def test_a_budget_never_does_too_few_rounds(least: int, time: float, seconds: float) -> None:
    """Slow work still gets the minimum number of rounds, and no work gets unlimited rounds."""
    rounds = Budget(least, time).rounds(seconds)
    assert least <= rounds <= max(least, MAX_ROUNDS)


@pytest.mark.parametrize("wrong", ["candidate", "reference"])
def test_a_wrong_answer_ends_the_benchmark(measuring: BenchmarkFixture, wrong: str) -> None:
    """A wrong answer, from the candidate or from its reference, ends the benchmark."""
    answers = {"candidate": 2, "reference": 2, wrong: 3}
    with pytest.raises(WrongAnswerError, match=f"the {wrong} answered 3"):
        paired_rounds(
            measuring,
            lambda: answers["candidate"],
            lambda: answers["reference"],
            lambda answer: answer == 2,
            3,
        )


def test_a_disabled_benchmark_still_checks_its_answer(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where benchmarks are disabled, a wrong answer still fails the test."""
    monkeypatch.setattr(benchmark, "disabled", True)
    with pytest.raises(WrongAnswerError):
        paired_rounds(benchmark, lambda: 3, None, lambda answer: answer == 2, 3)


def test_a_row_is_per_unit_and_its_ratio_is_paired() -> None:
    """A value is per unit of work; a ratio compares each round with its own reference round."""
    made = row(
        Rounds(candidate=(2.0, 40.0, 6.0), reference=(1.0, 10.0, 2.0)),
        per=2,
        id="submit",
        group="features",
        runner="threads",
        params={},
        figure="time per task run",
        reference="ThreadPoolExecutor",
    )
    assert made.value.median == 3.0
    assert made.ratio == Interval(3.0, 2.0, 4.0)
    assert made.rounds == 3


def test_a_rate_is_per_minute() -> None:
    """Two runs in 4, 5 and 8 s are 30, 24 and 15 per minute; the ratio is still that of times."""
    made = row(
        Rounds(candidate=(4.0, 5.0, 8.0), reference=(2.0, 5.0, 2.0)),
        per=2,
        rate=True,
        id="runs-of-a-worker",
        group="deployments",
        runner=None,
        params={},
        figure="flow runs",
        reference="another",
    )
    assert (made.value, made.unit) == (Interval(24.0, 15.0, 30.0), "runs/min")
    assert made.ratio == Interval(2.0, 1.0, 4.0)
