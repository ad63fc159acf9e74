# SPDX-License-Identifier: Apache-2.0
"""Paired rounds: each timed beside its reference, each answer checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flowgauge.measure.intervals import median_interval, relative_iqr
from flowgauge.results.rows import Group, Row, Unit

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")
MAX_ROUNDS = 30


@dataclass(frozen=True)
class Budget:
    """How long one benchmark may measure; pytest-benchmark's own options set it.

    Attributes:
        min_rounds: Rounds to do whatever they cost (`--benchmark-min-rounds`).
        max_time: Seconds to fill with more rounds (`--benchmark-max-time`).
    """

    min_rounds: int
    max_time: float

    def rounds(self, seconds: float) -> int:
        """Return how many rounds to do when one takes so many seconds."""
        all_fit = seconds * MAX_ROUNDS <= self.max_time
        fitting = MAX_ROUNDS if all_fit else math.floor(self.max_time / seconds)
        return max(self.min_rounds, fitting)


@dataclass(frozen=True)
class Rounds:
    """What was timed, round by round: seconds of the candidate and of its reference."""

    candidate: tuple[float, ...]
    reference: tuple[float, ...]


class WrongAnswerError(AssertionError):
    """A round gave another answer than it should: its time means nothing."""


def paired_rounds(
    benchmark: BenchmarkFixture,
    candidate: Callable[[], T],
    reference: Callable[[], Any] | None,
    check: Callable[[T], bool],
    budget: Budget | int,
) -> Rounds:
    """Time reference, candidate, reference, candidate … and check every answer.

    Args:
        benchmark: pytest-benchmark's fixture, which times the candidate.
        candidate: What is measured.
        reference: What it is measured against, run before each round; None for no pair.
        check: Says whether an answer is right; the reference must give a right one too.
        budget: How long to measure, or a number of rounds for what is too slow for a warm-up.

    Returns:
        One time for each round; no reference times where there is no reference, and none at
        all where benchmarks are disabled.

    Raises:
        WrongAnswerError: If an answer is wrong.
    """
    reference_times: list[float] = []
    answers: list[T] = []

    def run_reference() -> None:
        if reference is not None:
            start = time.perf_counter()
            answer = reference()
            reference_times.append(time.perf_counter() - start)
            _checked(check, answer, "reference")

    def run_candidate() -> None:
        answers.append(candidate())

    def check_candidate() -> None:
        _checked(check, answers.pop(), "candidate")

    if benchmark.disabled:
        benchmark.pedantic(run_candidate, setup=run_reference)
        check_candidate()
        return Rounds((), ())

    if isinstance(budget, Budget):
        start = time.perf_counter()
        run_reference()
        run_candidate()
        check_candidate()
        rounds = budget.rounds(time.perf_counter() - start)
        reference_times.clear()
    else:
        rounds = budget
    benchmark.pedantic(run_candidate, setup=run_reference, teardown=check_candidate, rounds=rounds)
    # A profile asked for with --benchmark-cprofile is one more, untimed, round.
    assert benchmark.stats is not None
    return Rounds(tuple(benchmark.stats.stats.data), tuple(reference_times[:rounds]))


def _checked(check: Callable[[Any], bool], answer: Any, whose: str) -> None:
    if not check(answer):
        raise WrongAnswerError(f"the {whose} answered {answer!r:.200}, which is wrong")


def row(rounds: Rounds, *, per: int, rate: bool = False, **labels: Any) -> Row:
    """Sum up rounds as a row of the results.

    Args:
        rounds: The times, at least one.
        per: How many units of work (task runs, flow runs) one round of the candidate holds.
        rate: Say how many runs a minute holds rather than how long one takes.
        **labels: `id`, `group`, `runner`, `params`, `figure` and `reference` of the row.

    Returns:
        The row: seconds for each unit or runs for each minute, and the ratio of a round's time to
        that of its own reference.
    """
    cost = median_interval(
        [60 * per / seconds if rate else seconds / per for seconds in rounds.candidate]
    )
    ratio = (
        median_interval(
            [ours / theirs for ours, theirs in zip(rounds.candidate, rounds.reference, strict=True)]
        )
        if rounds.reference
        else None
    )
    return Row(
        unit=Unit.RUNS_PER_MINUTE if rate else Unit.SECONDS,
        value=cost,
        rounds=len(rounds.candidate),
        relative_iqr=relative_iqr(rounds.candidate),
        ratio=ratio,
        **labels,
    )


def noise_of(group: str) -> dict[str, Any]:
    """Return what the A/A rows of a group have in common."""
    return {"group": Group.NOISE, "reference": "itself", "params": {"of": group}}
