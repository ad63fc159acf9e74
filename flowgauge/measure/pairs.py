# SPDX-License-Identifier: Apache-2.0
"""Paired rounds: each is timed right after its reference, and each answer is checked."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowgauge.measure.budget import MAX_ROUNDS, Budget
from flowgauge.measure.intervals import median_interval, relative_iqr
from flowgauge.measure.memory import memory_of
from flowgauge.mistake import Mistake
from flowgauge.results.rows import Group, Memory, Row, Unit

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@dataclass(frozen=True)
class Rounds:
    """The seconds of the candidate and of its reference in each round, and their memory."""

    candidate: tuple[float, ...]
    reference: tuple[float, ...]
    memory: Memory | None = None


class _EnoughRounds(BaseException):
    """Ends the rounds of pytest-benchmark, which wants their number before the first.

    It is no `Exception`, which pytest-benchmark would take for a failed benchmark.
    """


class WrongAnswerError(AssertionError):
    """A round returned a wrong answer, so its time means nothing."""


class _Timed:
    """A function, timed: that of a call is in `seconds`, that of all so far in `total`.

    An async function is timed inside the event loop, so that what the loop takes to start and to
    stop does not count.
    """

    def __init__(self, function: Callable[[], Any], runner: asyncio.Runner | None) -> None:
        self._function = function
        self._runner = runner if _is_async(function) else None
        self.seconds = self.total = 0.0

    def __call__(self) -> Any:
        if self._runner is not None:
            return self._runner.run(self._awaited())
        start = time.perf_counter()
        answer = self._function()
        self._note(time.perf_counter() - start)
        return answer

    async def _awaited(self) -> Any:
        start = time.perf_counter()
        answer = await self._function()
        self._note(time.perf_counter() - start)
        return answer

    def _note(self, seconds: float) -> None:
        self.seconds = seconds
        self.total += seconds


def _is_async(function: object) -> bool:
    """Return whether a function, a flow or a task is async."""
    called = type(function).__call__ if callable(function) else None
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(called)
        or getattr(function, "isasync", False)
    )


@contextlib.contextmanager
def _event_loop(*functions: object) -> Iterator[asyncio.Runner | None]:
    """Make one event loop for async functions; None if there are none."""
    if not any(map(_is_async, functions)):
        yield None
        return
    if asyncio._get_running_loop() is not None:
        raise Mistake(
            "paired: this test is async, and async functions are measured in an event loop of their"
            " own; write `def` instead of `async def` for the test"
        )
    with asyncio.Runner() as runner:
        yield runner


def paired_rounds(
    benchmark: BenchmarkFixture,
    candidate: Callable[[], Any],
    reference: Callable[[], Any] | None,
    check: Callable[[Any], bool],
    budget: Budget | int,
    *,
    warm_up: bool = False,
) -> Rounds:
    """Time reference, candidate, reference, candidate … and check every answer.

    Memory is measured in the warm-up round, because that would disturb what is timed. The reference
    has been called once before.

    Args:
        benchmark: pytest-benchmark's fixture, which times the candidate.
        candidate: What is measured. An async function is awaited; its event loop is made before
            the first round, and the time that the loop takes to start and stop is not measured.
        reference: What it is compared with, run before each round, async or not; None for
            unpaired rounds.
        check: Returns whether an answer is right; applied to the reference's answers, too.
        budget: How long to measure, or a number of rounds. A budget has its minimum of rounds
            with `--benchmark-cprofile`, which wants one more, untimed, round.
        warm_up: Whether a number of rounds has a warm-up round, too, as a budget always has; by
            default it has none.

    Returns:
        One time for each round; no reference times if there is no reference, and no times at
        all if benchmarks are disabled. Without a warm-up round, memory is None.

    Raises:
        WrongAnswerError: If an answer is wrong.
        Mistake: If a function returns a coroutine, so that only its making was timed.
    """
    reference_times: list[float] = []
    answers: list[Any] = []
    seconds_to_check = 0.0

    with _event_loop(candidate, reference) as runner:
        ours = _Timed(candidate, runner)
        theirs = reference and _Timed(reference, runner)

        def checked(answer: Any, whose: str) -> None:
            nonlocal seconds_to_check
            start = time.perf_counter()
            _checked(check, answer, whose)
            seconds_to_check += time.perf_counter() - start

        def run_reference() -> None:
            if theirs is not None:
                answer = theirs()
                reference_times.append(theirs.seconds)
                checked(answer, "reference")

        def spent() -> float:
            return ours.total + (theirs.total if theirs else 0.0) + seconds_to_check

        def run_candidate() -> None:
            answers.append(ours())

        def check_candidate() -> None:
            checked(answers.pop(), "candidate")

        if benchmark.disabled:
            benchmark.pedantic(run_candidate, setup=run_reference)
            check_candidate()
            return Rounds((), ())

        memory = None
        if isinstance(budget, Budget) or warm_up:
            # What its first call starts, such as a pool of workers, is the memory of neither.
            run_reference()
            memory = memory_of(run_candidate, theirs and run_reference)
            check_candidate()
            reference_times.clear()
        warm_up_seconds = spent()
        adaptive = budget if isinstance(budget, Budget) and not benchmark.cprofile else None
        least = budget if isinstance(budget, int) else budget.min_rounds

        def begin_round() -> None:
            times = benchmark.stats.stats.data if benchmark.stats else ()
            so_far = spent() - warm_up_seconds
            if adaptive and adaptive.is_used(times, so_far, reference_times):
                raise _EnoughRounds
            run_reference()

        if runner is not None:
            # A timer that stands still while the loop starts and stops.
            benchmark._timer = lambda: ours.total
        most = max(least, MAX_ROUNDS) if adaptive else least
        with contextlib.suppress(_EnoughRounds):
            benchmark.pedantic(
                run_candidate, setup=begin_round, teardown=check_candidate, rounds=most
            )
    # With --benchmark-cprofile there is one more, untimed, round.
    assert benchmark.stats is not None
    times = tuple(benchmark.stats.stats.data)
    return Rounds(times, tuple(reference_times[: len(times)]), memory)


def _checked(check: Callable[[Any], bool], answer: Any, whose: str) -> None:
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise Mistake(
            f"paired: the {whose} returns {type(answer).__name__!r} that nobody awaits, so its time"
            " means nothing; give an async flow or task itself, or an `async def` function that"
            " awaits it"
        )
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
        memory=rounds.memory,
        **labels,
    )


def noise_of(group: str) -> dict[str, Any]:
    """Return the fields that all A/A rows of a group have in common."""
    return {"group": Group.NOISE, "reference": "itself", "params": {"of": group}}
