# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, D102, D103
# mypy: ignore-errors
"""A project of its own: nine cases that people reported to Prefect, tested as its users would.

`test_wheel.py` copies this file into an empty folder, and the patterns that it imports next to it.
What Prefect itself does is an expected failure: if it passes one day, a pattern is not needed.
It is written as people write tests: without types for fixtures and without docstrings.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from copied import final_state, first_answer, large_results, resume, scope
from prefect import flow, get_client, get_run_logger, pause_flow_run, task
from prefect.cache_policies import DEFAULT
from prefect.deployments import run_deployment
from prefect.runtime import flow_run

HOUR = 3600.0
"""Seconds; whoever really waits so long in a test is ended before."""


# 04: three are asked, and one answer is enough.


@task
@first_answer.contestant
def quote(broker: str, race: Any, ledger: Any) -> str:
    ledger.record("asked", broker=broker)
    patience = threading.Event()
    while broker != "quick" or not ledger.count("asked", broker="slow"):
        race.go_on()
        patience.wait(0.02)
    return f"quote of {broker}"


@flow
def best_quote(ledger: Any) -> tuple[str, str]:
    answer: tuple[str, str] = first_answer.first_answer(quote, ["slow", "quick"], ledger=ledger)
    return answer


def test_losers_of_a_race_end_as_such(task_runner, effect_ledger, run_logs):
    state = best_quote.with_options(task_runner=task_runner)(effect_ledger, return_state=True)
    assert state.result() == ("quick", "quote of quick")
    assert run_logs(state).contains("Finished in state Lost", task="quote")
    assert run_logs(state).contains("Finished in state Completed()", task="quote")


# 05: a task is called after one that failed.


@task
def extract() -> int:
    raise ValueError("no rows")


@task
def publish(ledger: Any) -> None:
    ledger.record("published")


@flow
def publish_after(ledger: Any) -> str:
    publish(ledger, wait_for=[extract.submit()])
    return "done"


@flow
def publish_after_and_settle(ledger: Any) -> str:
    final_state.settle(publish.submit(ledger, wait_for=[extract.submit()]))
    return "done"


@pytest.mark.parametrize(
    "nightly",
    [
        pytest.param(publish_after, marks=pytest.mark.xfail(strict=True, reason="Prefect #16848")),
        publish_after_and_settle,
    ],
    ids=["prefect", "pattern"],
)
def test_a_flow_whose_last_step_never_ran_has_not_completed(task_runner, effect_ledger, nightly):
    state = nightly.with_options(task_runner=task_runner)(effect_ledger, return_state=True)
    assert effect_ledger.count("published") == 0
    assert not state.is_completed()


# 06: a loop over pages is cut short, and made again.


@task(cache_policy=resume.SAME_RUN - "ledger")
def pages_of(book: str, ledger: Any) -> Any:
    for number in range(3):
        ledger.record("fetched", number=number)
        yield f"{book} {number}"


@task(cache_policy=resume.SAME_RUN - "ledger")
def page_of(book: str, number: int, ledger: Any) -> str:
    ledger.record("fetched", number=number)
    return f"{book} {number}"


@task
def keep(pages: list[str]) -> None: ...


@flow
def read_in_one(book: str, ledger: Any) -> list[str]:
    pages: list[str] = []
    for page in pages_of(book, ledger):
        keep(pages)
        pages.append(page)
    return pages


@flow
def read_page_by_page(book: str, ledger: Any) -> list[str]:
    pages: list[str] = []
    for number in range(3):
        page = page_of(book, number, ledger)
        keep(pages)
        pages.append(page)
    return pages


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(read_in_one, marks=pytest.mark.xfail(strict=True, reason="kept at the end")),
        read_page_by_page,
    ],
    ids=["prefect", "pattern"],
)
def test_what_was_read_is_not_read_again(prefect_server, faults, effect_ledger, read):
    ledger = effect_ledger
    resumed = read.with_options(name="read")
    # The third page is there when the run ends, so a generator has handed out all but its end.
    faults.on("keep").fail_times(1, MemoryError(), in_run=3)
    assert resumed("Emma", ledger, return_state=True).is_failed()
    assert resumed("Emma", ledger) == ["Emma 0", "Emma 1", "Emma 2"]
    assert [ledger.count("fetched", number=number) for number in range(3)] == [1, 1, 1]


# 08: a method is a task, and its results are kept.


class Shop:
    def __init__(self, currency: str) -> None:
        self.currency = currency

    def price(self, item: str) -> str:
        return f"{item} in {self.currency}"

    as_advised = task(cache_policy=DEFAULT - "self", persist_result=True)(price)
    with_self = task(cache_policy=scope.WITHIN_RUN)(price)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("as_advised", marks=pytest.mark.xfail(strict=True, reason="self is left out")),
        "with_self",
    ],
)
def test_two_shops_have_two_prices(task_runner, method):
    @flow(task_runner=task_runner)
    def compare() -> list[str]:
        shops = [Shop("EUR"), Shop("JPY")]
        return [getattr(shop, method).submit("lamp").result() for shop in shops]

    assert compare() == ["lamp in EUR", "lamp in JPY"]


# 11: a table of 12 MB is a flow's parameter.


@flow
def count_rows(table: bytes | str | large_results.Stored) -> int:
    content = table.read() if isinstance(table, large_results.Stored) else table
    return len(content.splitlines())


@pytest.mark.parametrize(
    "passed",
    [
        pytest.param("itself", marks=pytest.mark.xfail(strict=True, reason="Prefect #9947")),
        "by reference",
    ],
)
def test_a_large_table_reaches_its_flow(prefect_server, tmp_path, passed):
    text = ("x" * 99 + "\n") * 120_000
    by_reference = passed == "by reference"
    table = large_results.save(text.encode(), tmp_path) if by_reference else text
    assert count_rows(table) == 120_000


# 12: what a flow went through that failed once, and one that ran out of time.


@flow(retries=1, retry_delay_seconds=HOUR)
def load() -> int:
    return len(fetch())


@task
def fetch() -> str:
    return "rows"


@flow(timeout_seconds=0.1)
def endless() -> None:
    forever = threading.Event()
    while not forever.wait(0.01):
        pass


def test_the_history_of_a_flow_that_is_retried(virtual_clock, faults, run_history):
    faults.on(fetch).fail_times(1, ConnectionError("down"), in_all=True)
    state = load(return_state=True)
    assert run_history(state).matches("Pending Running AwaitingRetry Running Completed")
    assert virtual_clock.elapsed >= HOUR


def test_the_history_of_a_flow_that_runs_out_of_time(prefect_server, run_history):
    state = endless(return_state=True)
    assert run_history(state).matches("Pending Running TimedOut")


# 14: what a task logs, on every task runner.


@task
def clean(rows: int) -> None:
    get_run_logger().warning("dropped %d rows", rows)


@flow
def clean_up() -> None:
    clean.submit(3).wait()


def test_what_a_task_logs_is_in_run_logs(task_runner, run_logs):
    state = clean_up.with_options(task_runner=task_runner)(return_state=True)
    assert run_logs(state).contains("dropped 3 rows", level="WARNING", task="clean")


def test_what_a_task_logs_elsewhere_is_not_in_caplog(task_runner, runner_name, caplog):
    clean_up.with_options(task_runner=task_runner)()
    assert ("dropped 3 rows" in caplog.text) == (runner_name == "threads")


# 15: a flow pauses until somebody approves.

paused: list[str] = []


@flow
def release() -> str:
    paused.append(flow_run.id)
    pause_flow_run(timeout=int(HOUR), poll_interval=600)
    return "released"


def approve() -> None:
    with get_client(sync_client=True) as client:
        while not (paused and client.read_flow_run(paused[0]).state.is_paused()):
            time.sleep(0.02)
        client.resume_flow_run(paused[0])


def test_an_approved_flow_goes_on_at_once(virtual_clock, run_history):
    paused.clear()
    approver = threading.Thread(target=approve)
    approver.start()
    state = release(return_state=True)
    approver.join()
    assert state.result() == "released"
    assert run_history(state).matches("Pending Running Paused Running Completed")
    assert virtual_clock.elapsed < HOUR


def test_a_flow_that_nobody_approves_fails_after_its_time(virtual_clock):
    state = release(return_state=True)
    assert state.is_failed()
    assert virtual_clock.elapsed >= HOUR


# 18: a flow waits for a deployment that nobody runs.


@flow
def child() -> None: ...


@flow
def parent() -> str:
    run = run_deployment("child/nightly", timeout=HOUR, poll_interval=60)
    return str(run.state.name)


def test_a_deployment_that_nobody_runs_is_waited_for(virtual_clock):
    child.to_deployment("nightly").apply()
    assert parent() == "Scheduled"
    assert virtual_clock.elapsed >= HOUR


def test_a_deployment_that_is_served_is_waited_for(virtual_clock, serve):
    served = serve(child, "nightly", interval=24 * HOUR)
    assert parent() == "Completed"
    assert len(served.runs(3)) == 3
    assert virtual_clock.elapsed >= 24 * HOUR
