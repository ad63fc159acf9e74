# SPDX-License-Identifier: Apache-2.0
"""Paired rounds, timed by the real pytest-benchmark."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow

from flowgauge.measure import pairs
from flowgauge.measure.budget import LEAST_TO_JUDGE, MAX_ROUNDS, Budget
from flowgauge.measure.pairs import Rounds, WrongAnswerError, paired_rounds, row
from flowgauge.mistake import Mistake
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
    budget = Budget(5, max_time=60, precision=0.0)
    rounds = paired_rounds(measuring, lambda: ran.append(None), None, lambda _: True, budget)
    assert len(rounds.candidate) == MAX_ROUNDS
    assert len(ran) == MAX_ROUNDS + 1
    assert rounds.reference == ()


@pytest.mark.parametrize("profile", [False, True])
def test_a_budget_ends_when_the_figure_is_precise(
    measuring: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, profile: bool
) -> None:
    """Equal rounds end early, and the benchmark has not failed; one that is profiled has the least.

    Each round of the candidate has one of its reference.
    """
    monkeypatch.setattr(measuring, "cprofile", profile)
    monkeypatch.setattr(measuring, "_timer", itertools.count().__next__)
    rounds = paired_rounds(measuring, lambda: 1, lambda: 1, lambda n: n == 1, Budget(2, 60))
    assert len(rounds.candidate) == (2 if profile else LEAST_TO_JUDGE)
    assert len(rounds.reference) == len(rounds.candidate)
    assert not measuring.has_error
    assert measuring.stats is not None
    assert (measuring.stats.cprofile_stats is not None) == profile


@pytest.mark.parametrize("slow", ["candidate", "reference", "check"])
def test_a_budget_is_filled_by_all_that_a_round_does(
    measuring: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """However long a round's functions and checks take, all rounds take no longer than allowed."""
    clock = 0.0

    def spend(name: str) -> bool:
        nonlocal clock
        clock += 3.0 if name == slow else 0.0
        return True

    monkeypatch.setattr(pairs, "time", SimpleNamespace(perf_counter=lambda: clock))
    rounds = paired_rounds(
        measuring,
        lambda: spend("candidate"),
        lambda: spend("reference"),
        lambda _: spend("check"),
        Budget(1, max_time=36, precision=0.0),
    )
    # A round has two checks.
    assert len(rounds.candidate) == (6 if slow == "check" else 12)


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


WHICH_IS_ASYNC = pytest.mark.parametrize(
    "which", [("candidate",), ("reference",), ("candidate", "reference")], ids="-".join
)


@WHICH_IS_ASYNC
def test_async_functions_are_awaited_in_one_event_loop(
    measuring: BenchmarkFixture, which: tuple[str, ...]
) -> None:
    """Async functions are awaited in one loop that is closed at the end, beside sync ones too."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return 1

    functions = {"candidate": lambda: 1, "reference": lambda: 1, **dict.fromkeys(which, run)}
    rounds = paired_rounds(
        measuring, functions["candidate"], functions["reference"], lambda n: n == 1, 3
    )
    assert len(rounds.candidate) == len(rounds.reference) == 3
    assert len(loops) == 3 * len(which)
    assert len(set(loops)) == 1
    assert loops[0].is_closed()


@WHICH_IS_ASYNC
def test_the_time_is_that_of_the_await(
    measuring: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, which: tuple[str, ...]
) -> None:
    """What the event loop takes to start and stop is in neither figure, whichever is async."""
    clock = 0.0
    stock = asyncio.Runner.run

    def run(self: asyncio.Runner, coroutine: Any) -> Any:
        nonlocal clock
        clock += 1000
        answer = stock(self, coroutine)
        clock += 1000
        return answer

    def work() -> int:
        nonlocal clock
        clock += 2
        return 1

    async def work_async() -> int:
        return work()

    monkeypatch.setattr(asyncio.Runner, "run", run)
    monkeypatch.setattr(pairs, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(measuring, "_timer", lambda: clock)
    functions: dict[str, Any] = {"candidate": work, "reference": work}
    functions |= dict.fromkeys(which, work_async)
    rounds = paired_rounds(
        measuring, functions["candidate"], functions["reference"], lambda n: n == 1, 3
    )
    assert rounds == Rounds((2.0,) * 3, (2.0,) * 3)


async def _hold() -> int:
    return len(bytearray(64 * 2**20)) * 0 + 1


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.parametrize("candidate", [lambda: asyncio.run(_hold()), _hold], ids=["sync", "async"])
def test_memory_is_measured_in_the_round_before(
    measuring: BenchmarkFixture, candidate: Callable[[], Any]
) -> None:
    """A warm-up round measures the memory of sync and of async functions, and none is timed."""
    calls = itertools.count()

    def reference() -> int:
        next(calls)
        return 1

    rounds = paired_rounds(measuring, candidate, reference, lambda n: n == 1, Budget(3, max_time=0))
    assert rounds.memory is not None
    assert rounds.memory.candidate == pytest.approx(64, abs=4)
    assert rounds.memory.reference == pytest.approx(0, abs=4)
    assert len(rounds.candidate) == len(rounds.reference) == 3
    assert next(calls) == 5, "once before, once in the round before, three times timed"


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_both_share_is_the_memory_of_neither(measuring: BenchmarkFixture) -> None:
    """What the first call starts, such as a pool that both use, does not count for the reference.

    So something has as much memory as itself.
    """
    pool: list[bytearray] = []

    def use() -> int:
        if not pool:
            pool.append(bytearray(64 * 2**20))
        return len(pool)

    memory = paired_rounds(measuring, use, use, lambda n: n == 1, Budget(3, max_time=0)).memory
    assert memory is not None
    assert memory.candidate == pytest.approx(0, abs=4)
    assert memory.reference == pytest.approx(0, abs=4)


@pytest.mark.parametrize("warm_up", [False, True])
def test_a_number_of_rounds_may_have_a_warm_up(measuring: BenchmarkFixture, warm_up: bool) -> None:
    """For what is slow, the round that measures memory is made only if it is asked for."""
    ran: list[None] = []
    rounds = paired_rounds(
        measuring, lambda: ran.append(None), None, lambda _: True, 2, warm_up=warm_up
    )
    assert len(rounds.candidate) == 2
    assert len(ran) == 2 + warm_up
    assert (rounds.memory is not None) == (warm_up and sys.platform == "linux")


def test_an_async_flow_is_awaited(measuring: BenchmarkFixture, prefect_server: str) -> None:
    """A flow or a task that is async may be measured itself, without a function around it."""

    @flow
    async def pipeline() -> int:
        return 1

    candidate: Any = pipeline
    rounds = paired_rounds(measuring, candidate, None, lambda n: n == 1, 2)
    assert min(rounds.candidate) > 0.001


@pytest.mark.parametrize("which", ["candidate", "reference"])
def test_a_coroutine_that_nobody_awaits_is_a_mistake(
    measuring: BenchmarkFixture, which: str
) -> None:
    """A sync function that returns a coroutine is refused: only its making was timed."""

    async def run() -> int:
        return 1

    functions: dict[str, Any] = {"candidate": lambda: 1, "reference": lambda: 1}
    functions[which] = lambda: run()
    with pytest.raises(Mistake, match=rf"^paired: the {which} returns 'coroutine' .*\w$"):
        paired_rounds(measuring, functions["candidate"], functions["reference"], lambda _: True, 3)


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
def test_an_async_test_is_a_mistake(measuring: BenchmarkFixture) -> None:
    """Inside an event loop, async functions can't be measured, and a line says what to write."""

    async def run() -> int:
        return 1

    async def measure() -> None:
        with pytest.raises(Mistake, match=r"^paired: this test is async"):
            paired_rounds(measuring, run, None, bool, 3)

    asyncio.run(measure())


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
