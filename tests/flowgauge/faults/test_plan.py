# SPDX-License-Identifier: Apache-2.0
"""Which faults strike and how often, and what chance depends on, tested without Prefect."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.faults.faults import wanted_faults
from flowgauge.faults.journal import Journal
from flowgauge.faults.plan import Fail, FailSometimes, Fault, FaultEffect, Slow, describe
from flowgauge.faults.process import FaultProcess, faults_folder

SEEDS = st.integers(0, 2**32)
PROBABILITIES = st.floats(0, 1)


def fault(effect: FaultEffect) -> Fault:
    """Return a fault for every task."""
    return Fault(0, "*", "before the body", effect, "faults.on('*')")


def sometimes(probability: float) -> Fault:
    """Return a fault that strikes by chance."""
    return fault(FailSometimes(b"", probability))


def struck(faults: list[Fault], seed: int, visits: list[tuple[str, str]]) -> Counter[Any]:
    """Return how many runs of each subject had each sequence of strikes.

    Args:
        faults: The faults of the test.
        seed: The seed of the test.
        visits: Pairs of a run and its subject, in the order in which they reach the point. Two
            processes take turns.
    """
    # Prefect's ids are random, so nothing may depend on them.
    ids = {run: str(uuid.uuid4()) for run, _ in visits}
    courses: dict[tuple[str, str], list[int]] = {}
    with TemporaryDirectory() as folder:
        journals = [Journal(Path(folder) / "journal") for _ in range(2)]
        journals[0].create()
        for place, (run, subject) in enumerate(visits):
            due = journals[place % 2].reach("load", faults, seed, ids[run], subject)
            courses.setdefault((subject, run), []).append(len(due))
    return Counter((subject, tuple(course)) for (subject, _), course in courses.items())


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the same attempts of the same runs in two orders."""
    subjects = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
    attempts = draw(st.integers(1, 3))
    visits = [(f"run {n}", subject) for n, subject in enumerate(subjects)] * attempts
    return visits, draw(st.permutations(visits))


@given(two_orders(), SEEDS, PROBABILITIES)
def test_chance_does_not_depend_on_the_order(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], seed: int, probability: float
) -> None:
    """With one seed the same attempts fail, in whatever order and process they run."""
    first, second = (struck([sometimes(probability)], seed, visits) for visits in orders)
    assert first == second


@given(SEEDS, st.floats(0.05, 0.95))
def test_faults_strike_as_often_as_their_probability(seed: int, probability: float) -> None:
    """The failures among 400 task runs match the probability within six standard deviations."""
    deviation = (400 * probability * (1 - probability)) ** 0.5
    assert abs(strikes_in_400(seed, probability) - 400 * probability) <= 6 * deviation


@given(SEEDS, st.sampled_from([0, 1]))
def test_probabilities_of_0_and_1_are_certain(seed: int, probability: int) -> None:
    """With a probability of 0 nothing fails; with a probability of 1 everything fails."""
    assert strikes_in_400(seed, probability) == 400 * probability


def strikes_in_400(seed: int, probability: float) -> int:
    """Return how many of 400 task runs fail in their first attempt."""
    wanted = sometimes(probability)
    return sum(wanted.strikes(seed, f"load({number}) #0", 1, 0) for number in range(400))


@given(SEEDS)
def test_attempts_of_one_run_are_drawn_separately(seed: int) -> None:
    """Of 64 attempts of one task run some fail and some succeed."""
    wanted = sometimes(0.5)
    course = {wanted.strikes(seed, "load() #0", attempt, 0) for attempt in range(1, 65)}
    assert course == {True, False}


@given(two_orders(), st.integers(1, 5))
def test_a_count_over_all_runs_is_kept_by_all_processes(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], times: int
) -> None:
    """With `in_all=True` the requested number of attempts fails, over all runs and processes."""
    _, visits = orders
    courses = struck([fault(Fail(b"", times, in_all=True))], 0, visits)
    count = sum(sum(course) * runs for (_, course), runs in courses.items())
    assert count == min(times, len(visits))


@given(two_orders(), st.integers(1, 5))
def test_a_count_is_kept_for_each_run(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], times: int
) -> None:
    """Without `in_all` the first attempts of each run fail, whatever other runs do meanwhile."""
    for visits in orders:
        for _, course in struck([fault(Fail(b"", times, in_all=False))], 0, visits):
            assert list(course) == [1] * min(times, len(course)) + [0] * (len(course) - times)


@given(two_orders(), st.integers(1, 5), st.integers(1, 9))
def test_one_run_alone_fails(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], times: int, only: int
) -> None:
    """With `in_run` attempts of the run that came as that one to the point fail, and no others."""
    for visits in orders:
        runs = list(dict.fromkeys(run for run, _ in visits))
        chosen = [visit for visit in visits if only <= len(runs) and visit[0] == runs[only - 1]]
        courses = struck([fault(Fail(b"", times, in_run=only))], 0, visits)
        count = sum(sum(course) * runs_alike for (_, course), runs_alike in courses.items())
        assert count == min(times, len(chosen))
        assert sum(runs_alike for (_, course), runs_alike in courses.items() if any(course)) <= 1


@given(two_orders(), st.integers(1, 3), st.integers(1, 3))
def test_strikes_are_counted_by_task_in_all_processes(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], first: int, second: int
) -> None:
    """The counts of strikes that every process reads are those that took place."""
    faults = [
        Fault(0, "*", "before the body", Slow(0), ""),
        Fault(1, "*", "before the body", Fail(b"", first, in_all=False), ""),
        Fault(2, "*", "before the body", Fail(b"", second, in_all=True), ""),
        Fault(3, "*", "before the body", Slow(0), ""),
    ]
    seen: Counter[tuple[int, str]] = Counter()
    with TemporaryDirectory() as folder:
        journals = [Journal(Path(folder) / "journal") for _ in range(2)]
        journals[0].create()
        for place, (run, task) in enumerate(orders[0]):
            due = journals[place % 2].reach(task, faults, 0, run, task)
            failing = [each.number for each in due if isinstance(each.effect, Fail)]
            # One error ends the attempt, and so nothing after it takes place.
            assert len(failing) <= 1
            assert [each.number for each in due] == ([0, *failing] if failing else [0, 3])
            seen.update((each.number, task) for each in due)
        for journal in journals:
            journal.catch_up()
            assert +journal.struck == seen
            assert journal.reached == dict.fromkeys(range(4), len(orders[0]))


def test_a_fault_may_be_added_at_any_time(tmp_path: Path) -> None:
    """A process that follows the plan notices added faults, and stops when the test ends."""
    process = FaultProcess(tmp_path, expendable=False)

    def due() -> int:
        return len(process.due("load", "before the body", "run", lambda: "load()"))

    assert due() == 0
    with wanted_faults(faults_folder(tmp_path), 1, "") as faults:
        faults.on("load").slow(0)
        assert due() == 1
        faults.on("l*").slow(0)
        assert due() == 2
    assert due() == 0


@pytest.mark.parametrize("seed", ["1", "2"])
def test_arguments_are_described_the_same_in_every_process(seed: str) -> None:
    """Arguments have the same description in every process, even sets, whose order differs."""
    source = (
        "from flowgauge.faults.plan import describe;"
        "print(describe({'b': {'x', 'y', 'z'}, 'a': [1, (2.5, None)]}), describe(object()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", source],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == "{'a': [1, [2.5, None]], 'b': {'x', 'y', 'z'}} <object object>"


@given(st.recursive(st.integers() | st.text(), lambda part: st.lists(part) | st.tuples(part)))
def test_different_arguments_are_described_differently(value: Any) -> None:
    """The descriptions of a value and of a list that holds it differ."""
    assert describe(value) != describe([value])
