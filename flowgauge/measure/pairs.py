# SPDX-License-Identifier: Apache-2.0
"""Paired rounds: each is timed right after its reference, and each answer is checked."""

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
    """How long one benchmark may measure; set by pytest-benchmark's own options.

    Attributes:
        min_rounds: Rounds to run however long they take (`--benchmark-min-rounds`).
        max_time: Seconds to fill with more rounds (`--benchmark-max-time`).
    """

    min_rounds: int
    max_time: float

    def rounds(self, seconds: float) -> int:
        """Return how many rounds to run if one takes the given seconds."""
        all_fit = seconds * MAX_ROUNDS <= self.max_time
        fitting = MAX_ROUNDS if all_fit else math.floor(self.max_time / seconds)
        return max(self.min_rounds, fitting)


@dataclass(frozen=True)
class Rounds:
    """The seconds of the candidate and of its reference in each round."""

    candidate: tuple[float, ...]
    reference: tuple[float, ...]


class WrongAnswerError(AssertionError):
    """A round returned a wrong answer, so its time means nothing."""


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
        reference: What it is compared with, run before each round; None for unpaired rounds.
        check: Returns whether an answer is right; applied to the reference's answers, too.
        budget: How long to measure, or a number of rounds for what is too slow for a warm-up.

    Returns:
        One time for each round; no reference times if there is no reference, and no times at
        all if benchmarks are disabled.

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
    # With --benchmark-cprofile there is one more, untimed, round.
    assert benchmark.stats is not None
    return Rounds(tuple(benchmark.stats.stats.data), tuple(reference_times[:rounds]))


def _checked(check: Callable[[Any], bool], answer: Any, whose: str) -> None:
    if not check(answer):
        raise WrongAnswerError(f"the {whose} answered {answer!r:.200}, which is wrong")


def row(rounds: Rounds, *, per: int, rate: bool = False, **labels: Any) -> Row:
    """Summarise rounds as a row of the results.

    Args:
        rounds: The times, at least one.
        per: How many units of work (task runs, flow runs) one round of the candidate has.
        rate: Whether the value is runs per minute rather than seconds per run.
        **labels: `id`, `group`, `runner`, `params`, `figure` and `reference` of the row.

    Returns:
        The row: seconds per unit or runs per minute, and the ratio of a round's time to that of
        its own reference.
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
    """Return the fields that all A/A rows of a group have in common."""
    return {"group": Group.NOISE, "reference": "itself", "params": {"of": group}}
