# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/retries/backoff.py`."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings
from prefect.task_runners import TaskRunner
from prefect.utilities.math import clamped_poisson_interval

from flowgauge import EffectLedger
from patterns.retries.backoff import backoff, exponential_delays, fetch_page, fetch_site

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "retries/backoff"

seconds = st.floats(0.001, 1000)
growths = st.floats(1, 10)
jitters = st.floats(0.01, 1)


@pytest.mark.guarantee(NAME, "attempts")
@settings(max_examples=3)
@given(retries=st.integers(1, 3), failures=st.lists(st.integers(0, 5), min_size=1, max_size=5))
@example(retries=2, failures=[0, 3, 1, 2])
def test_a_call_is_tried_until_it_succeeds_or_retries_run_out(
    task_runner: TaskRunner[Any],
    effect_ledger: EffectLedger,
    retries: int,
    failures: list[int],
) -> None:
    """A call that fails k times is tried min(k, retries) + 1 times."""

    @task(**backoff(retries, first=0.001, cap=0.002))
    def call(number: int, failing: int) -> int:
        effect_ledger.record("tried", number=number)
        if effect_ledger.count(number=number) <= failing:
            raise ConnectionError
        return failing

    @flow(task_runner=task_runner)
    def calls() -> list[Any]:
        futures = call.map(list(range(len(failures))), failures)
        return [future.result(raise_on_failure=False) for future in futures]

    for number, outcome in enumerate(calls()):
        failing = failures[number]
        assert effect_ledger.count(number=number) == min(failing, retries) + 1
        if failing <= retries:
            assert outcome == failing
        else:
            assert isinstance(outcome, ConnectionError)


@pytest.mark.guarantee(NAME, "attempts")
def test_an_async_call_is_tried_again_too() -> None:
    """An async call that fails twice is tried three times, and succeeds."""
    tried: list[int] = []

    @task(**backoff(2, first=0.001))
    async def call() -> str:
        tried.append(task_run.run_count)
        if len(tried) <= 2:
            raise ConnectionError
        return "answer"

    @flow
    async def calls() -> str:
        return await call()

    assert asyncio.run(calls()) == "answer"
    assert tried == [1, 2, 3]


@pytest.mark.fact(NAME, "run-count")
def test_an_attempt_knows_its_number(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Inside the call, `task_run.run_count` is the number of the attempt, starting at 1."""

    @task(**backoff(2, first=0.001))
    def call() -> None:
        with (tmp_path / "numbers").open("a") as lines:
            lines.write(f"{task_run.run_count}\n")
        raise ConnectionError

    @flow(task_runner=task_runner)
    def calls() -> None:
        call.submit().wait()

    calls(return_state=True)
    assert (tmp_path / "numbers").read_text().split() == ["1", "2", "3"]


@pytest.mark.fact(NAME, "last-error")
def test_the_last_error_surfaces(task_runner: TaskRunner[Any]) -> None:
    """When retries run out, the error of the last attempt is raised."""
    impatient = fetch_page.with_options(**backoff(1, first=0.001))

    @flow(task_runner=task_runner)
    def calls() -> None:
        impatient.submit("/shop", outage=9).result()

    with pytest.raises(ConnectionError, match="/shop did not answer attempt 2"):
        calls()


@pytest.mark.guarantee(NAME, "delays")
@given(retries=st.integers(0, 60), first=seconds, growth=growths, cap=seconds)
def test_delays_grow_up_to_the_cap(retries: int, first: float, growth: float, cap: float) -> None:
    """Delay n, counted from 0, is `first * growth**n` up to the cap; the delays never shrink."""
    delays = exponential_delays(retries, first, growth, cap)
    assert delays == sorted(delays)
    assert delays == pytest.approx(
        [min(first * growth**number, cap) for number in range(len(delays))]
    )


@pytest.mark.guarantee(NAME, "delays")
def test_by_default_delays_double_up_to_a_minute() -> None:
    """By default the delays are 1, 2, 4, … seconds, and at most a minute including jitter."""
    longest = 60 / 1.3
    assert backoff(8)["retry_delay_seconds"] == [1, 2, 4, 8, 16, 32, longest, longest]


@pytest.mark.guarantee(NAME, "delays")
@given(first=seconds, growth=growths, cap=seconds, jitter=jitters)
def test_jitter_stays_below_the_cap(first: float, growth: float, cap: float, jitter: float) -> None:
    """No delay, including the jitter that Prefect adds, is longer than the cap."""
    options = backoff(5, first, growth, cap, jitter)
    for delay in options["retry_delay_seconds"]:
        jittered = clamped_poisson_interval(delay, options["retry_jitter_factor"])
        assert 0 < jittered <= cap * (1 + 1e-9)


@pytest.mark.fact(NAME, "jitter")
def test_jitter_shortens_or_lengthens_delays() -> None:
    """With a jitter of 0.3 some delays become shorter and some longer, by 30% at most."""
    drawn = [clamped_poisson_interval(1.0, 0.3) for _ in range(200)]
    assert 0.7 <= min(drawn) < 1 < max(drawn) <= 1.3 + 1e-9


@pytest.mark.guarantee(NAME, "delays")
def test_equal_delays_become_different_waits() -> None:
    """The default jitter of 0.3 is drawn anew each time: equal delays become different waits."""
    options = backoff(1, first=10.0)
    assert options["retry_jitter_factor"] == 0.3
    longest = {
        clamped_poisson_interval(delay, options["retry_jitter_factor"])
        for delay in options["retry_delay_seconds"] * 20
    }
    assert len(longest) == 20


@pytest.mark.guarantee(NAME, "waits")
def test_retries_wait_for_their_delay(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """A retry starts no sooner after the failure than its delay minus the jitter."""

    @task(**backoff(3, first=0.04, growth=2, cap=0.09, jitter=0.1))
    def call() -> None:
        with (tmp_path / "starts").open("a") as lines:
            lines.write(f"{time.time()}\n")
        raise ConnectionError

    @flow(task_runner=task_runner)
    def calls() -> None:
        call.submit().wait()

    calls(return_state=True)
    starts = [float(line) for line in (tmp_path / "starts").read_text().split()]
    waited = [after - before for before, after in pairwise(starts)]
    assert len(waited) == 3
    for wait, delay in zip(waited, [0.04, 0.08, 0.09 / 1.1], strict=True):
        # Prefect's jitter may shorten a delay by about as much as it may lengthen it.
        assert wait >= delay * 0.8


@pytest.mark.guarantee(NAME, "many")
@pytest.mark.parametrize("retries", [50, 51, 1000])
def test_more_than_50_retries_are_allowed(retries: int) -> None:
    """More than 50 retries are allowed; the list of delays then has 50 items."""
    patient = fetch_page.with_options(**backoff(retries))
    assert patient.retries == retries
    assert isinstance(patient.retry_delay_seconds, list)
    assert len(patient.retry_delay_seconds) == 50


@pytest.mark.fact(NAME, "list")
def test_prefect_refuses_more_than_50_delays() -> None:
    """Prefect refuses a list of more than 50 delays, which is why the list ends there."""
    with pytest.raises(ValueError, match="more than 50 retry delays"):
        fetch_page.with_options(retries=51, retry_delay_seconds=[1.0] * 51)


@pytest.mark.guarantee(NAME, "many")
def test_retries_beyond_the_list_wait_for_the_last_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries beyond the end of the list wait for the last delay in it."""
    monkeypatch.setattr("patterns.retries.backoff.MOST_DELAYS", 2)

    @task(**backoff(4, first=0.001, growth=60, cap=0.06, jitter=0.1))
    def call() -> None:
        with (tmp_path / "starts").open("a") as lines:
            lines.write(f"{time.time()}\n")
        raise ConnectionError

    flow(lambda: call(return_state=True))(return_state=True)
    starts = [float(line) for line in (tmp_path / "starts").read_text().split()]
    assert len(starts) == 5
    assert min(b - a for a, b in pairwise(starts[1:])) > 0.03


@pytest.mark.guarantee(NAME, "every-call")
@pytest.mark.runners("threads", "processes")
def test_equal_calls_in_one_run_are_all_made(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Equal calls in one flow run are all made, as when a service is polled until a job is done."""

    @task(**backoff(2, first=0.001))
    def job_status(job: str) -> str:
        with (tmp_path / job).open("a") as lines:
            lines.write("asked\n")
        return "done" if len((tmp_path / job).read_text().split()) == 3 else "running"

    @flow(task_runner=task_runner)
    def wait_for_job() -> list[str]:
        return [job_status.submit("42").result() for _ in range(3)]

    assert wait_for_job() == ["running", "running", "done"]


def finished_task_runs(argument: Any, persist_result: bool | None) -> int:
    """Return how often a task runs if its flow fails once after it and is retried."""
    runs: list[int] = []

    @task(**backoff(1), persist_result=persist_result)
    def finish(argument: Any) -> None:
        runs.append(flow_run.run_count)

    @flow(retries=1)
    def site() -> None:
        finish(argument)
        if flow_run.run_count == 1:
            raise RuntimeError("the flow fails after its task has finished")

    site()
    return len(runs)


@pytest.mark.fact(NAME, "flow-retry")
@pytest.mark.parametrize(("persist_result", "runs"), [(None, 2), (True, 1)])
def test_a_flow_retry_runs_finished_tasks_again(persist_result: bool | None, runs: int) -> None:
    """A retried flow runs finished tasks again unless their results are persisted (#16059)."""
    assert finished_task_runs("/home", persist_result) == runs


@pytest.mark.fact(NAME, "no-key")
def test_a_flow_retry_runs_tasks_without_a_key_again() -> None:
    """A persisted task runs again in a retried flow if no cache key can be made of an argument."""
    assert finished_task_runs(threading.Lock(), persist_result=True) == 2


@pytest.mark.fact(NAME, "persisted")
@pytest.mark.parametrize("by", ["option", "flow", "setting"])
@pytest.mark.parametrize(("options", "made"), [({}, 1), ({"cache_policy": NO_CACHE}, 3)])
def test_equal_calls_of_a_persisted_task_are_made_once(
    by: str, options: dict[str, Any], made: int
) -> None:
    """With persisted results, equal calls in one flow run are made once, except with NO_CACHE."""
    asked: list[str] = []

    @task(**backoff(1), **options, persist_result=True if by == "option" else None)
    def job_status(job: str) -> int:
        asked.append(job)
        return len(asked)

    @flow(persist_result=True if by == "flow" else None)
    def wait_for_job() -> list[int]:
        return [job_status("42") for _ in range(3)]

    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: by == "setting"}):
        wait_for_job()
    assert len(asked) == made


@pytest.mark.guarantee(NAME, "attempts")
def test_the_flow_of_the_pattern_gets_every_page(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow returns every page, in order, read at the first attempt that worked."""
    read = fetch_site.with_options(task_runner=task_runner)({"/home": 0, "/news": 1})
    assert read == ["/home, read at attempt 1", "/news, read at attempt 2"]
