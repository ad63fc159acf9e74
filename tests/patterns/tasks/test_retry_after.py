# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/retry_after.py`."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.runtime import flow_run, task_run
from prefect.states import AwaitingRetry
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flowgauge import History, VirtualClock
from patterns.tasks.retry_after import (
    BadAnswer,
    Busy,
    fetch_page,
    fetch_page_async,
    fetch_site,
    fetch_site_async,
    retry_budget,
    seconds_told,
    wait_as_told,
    wait_as_told_async,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "tasks/retry_after"
HOUR = 3600


class Service:
    """A service that fails as the query of each URL says, and notes when it was asked."""

    def __init__(self, port: int) -> None:
        """Begin with no requests."""
        self.port = port
        self.requests: dict[str, list[datetime]] = defaultdict(list)

    def url(self, page: str, fails: int, status: int = 503, told: str = "") -> str:
        """Return the URL of a page that fails at first, and whose failures say when to return."""
        query = urlencode({"fails": fails, "status": status, "told": told})
        return f"http://127.0.0.1:{self.port}/{page}?{query}"

    def waits(self, page: str) -> list[float]:
        """Return the virtual seconds between the requests for a page."""
        return [(b - a).total_seconds() for a, b in pairwise(self.requests[page])]


@pytest.fixture
def service(virtual_clock: VirtualClock) -> Iterator[Service]:
    """Yield the service; waits in tasks are skipped."""
    virtual_clock.skip_sleep()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            script = {name: texts[0] for name, texts in parse_qs(url.query).items()}
            asked = asked_service.requests[url.path[1:]]
            asked.append(virtual_clock.now())
            failed = len(asked) <= int(script["fails"])
            self.send_response_only(int(script["status"]) if failed else 200)
            # Its clock is a day late.
            date = datetime.now(UTC) - timedelta(days=1)
            self.send_header("Date", format_datetime(date, usegmt=True))
            told = script.get("told", "")
            if told == "date":
                told = format_datetime(date + timedelta(seconds=HOUR), usegmt=True)
            if told:
                self.send_header("Retry-After", told)
            self.end_headers()
            self.wfile.write(b"the page")

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked_service = Service(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield asked_service
        server.shutdown()
        thread.join()


def budgets() -> list[str]:
    """Return the names of the budgets on Prefect's server."""
    with get_client(sync_client=True) as client:
        limits = client.read_global_concurrency_limits(limit=100)
    return [limit.name for limit in limits if limit.name.startswith("retry-budget-")]


@pytest.mark.guarantee(NAME, "told")
def test_retries_wait_as_told(task_runner: TaskRunner[Any], service: Service) -> None:
    """A retry waits for the seconds that the service said, or until the date, but not too long."""
    patient = fetch_page.with_options(retry_condition_fn=wait_as_told(longest=2 * HOUR))
    hurried = fetch_page.with_options(retry_condition_fn=wait_as_told(longest=60))

    urls = [
        service.url("seconds", 2, told=str(HOUR)),
        service.url("date", 1, status=429, told="date"),
        service.url("capped", 1, told=str(HOUR)),
    ]

    @flow(task_runner=task_runner)
    def fetch(urls: list[str]) -> list[str]:
        tasks = [patient, patient, hurried]
        pages = [each.submit(url) for each, url in zip(tasks, urls, strict=True)]
        return [page.result() for page in pages]

    assert fetch(urls) == ["the page"] * 3
    seconds, date, capped = (service.waits(page) for page in ("seconds", "date", "capped"))
    assert (len(seconds), len(date), len(capped)) == (2, 1, 1)
    assert HOUR <= min(seconds + date) <= max(seconds + date) < 2 * HOUR
    assert 60 <= capped[0] < HOUR


@pytest.mark.guarantee(NAME, "told")
@given(seconds=st.integers(0, 10**12))
def test_seconds_are_read(seconds: int) -> None:
    """A number in `Retry-After` is read as seconds."""
    assert seconds_told({"Retry-After": f" {seconds} ", "Date": "unreadable"}) == seconds


moments = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""The three formats of a date in HTTP; the second has a year of two digits."""


@pytest.mark.guarantee(NAME, "told")
@given(moment=moments, now=moments, form=st.sampled_from(FORMATS))
def test_dates_are_read(moment: datetime, now: datetime, form: str) -> None:
    """A date in `Retry-After` is compared with the answer's `Date`; a past date means no wait."""
    if "%y" in form:
        moment = moment.replace(year=2000 + moment.year % 60, day=1)
    headers = {"Retry-After": moment.strftime(form), "Date": now.strftime(FORMATS[0])}
    assert seconds_told(headers) == max(0, (moment - now).total_seconds())
    del headers["Date"]
    told = seconds_told(headers)
    assert told is not None
    assert abs(told - max(0, (moment - datetime.now(UTC)).total_seconds())) < HOUR


headers = st.text("0123456789 ,:-+GMTMonJanFri.eé²\0")


@pytest.mark.guarantee(NAME, "untold")
@given(text=headers, date=headers)
@example(text="", date="")
@example(text="-5", date="")
@example(text="1e3", date="")
@example(text="inf", date="")
@example(text="soon", date="")
@example(text="Mon, 99 Foo 2026 99:99:99 GMT", date="Mon")
@example(text="Mon, 01 Jan 0001 00:00:00 +2300", date="Fri, 31 Dec 9999 23:00:00 -2300")
def test_unreadable_headers_say_nothing(text: str, date: str) -> None:
    """Any text in the headers gives a number of seconds, at least 0, or nothing."""
    told = seconds_told({"Retry-After": text, "Date": date})
    assert told is None or told >= 0
    if text in ("", "-5", "1e3", "inf", "soon"):
        assert told is None


@pytest.mark.guarantee(NAME, "untold")
@pytest.mark.parametrize("told", ["", "soon"])
def test_without_a_header_the_waits_double(service: Service, told: str) -> None:
    """Without a readable `Retry-After` the waits double from `first` up to `longest`."""
    condition = wait_as_told(longest=5000, first=1000)
    url = service.url("untold", 4, told=told)
    assert flow(lambda: fetch_page.with_options(retry_condition_fn=condition)(url))() == "the page"
    for wait, expected in zip(service.waits("untold"), [1000, 2000, 4000, 5000], strict=True):
        assert expected <= wait < expected + 900


@pytest.mark.guarantee(NAME, "attempts")
@pytest.mark.parametrize("retries", [0, 2])
def test_after_the_last_attempt_the_error_is_raised(service: Service, retries: int) -> None:
    """A task that meets a busy service is tried `retries + 1` times, and then raises `Busy`."""
    url = service.url("sync", 99, status=429, told=str(HOUR))
    with pytest.raises(Busy) as raised:
        flow(lambda: fetch_page.with_options(retries=retries)(url))()
    assert raised.value.args == (url, 429, HOUR)
    assert len(service.requests["sync"]) == retries + 1

    @flow
    async def fetch() -> None:
        await fetch_page_async.with_options(retries=retries)(service.url("async", 99))

    with pytest.raises(Busy):
        asyncio.run(fetch())
    assert len(service.requests["async"]) == retries + 1


@pytest.mark.guarantee(NAME, "others")
@pytest.mark.parametrize("status", [404])
def test_other_bad_answers_end_the_run(
    task_runner: TaskRunner[Any], service: Service, status: int
) -> None:
    """A 404 ends the run at once, and the flow receives the error with its URL and status."""
    urls = [service.url(page, 9, status, told="1") for page in ("sync", "async")]

    @flow(task_runner=task_runner)
    def fetch(urls: list[str]) -> list[Any]:
        pages: list[Any] = [fetch_page.submit(urls[0]), fetch_page_async.submit(urls[1])]
        return [page.result(raise_on_failure=False) for page in pages]

    errors = fetch(urls)
    assert [type(error) for error in errors] == [BadAnswer, BadAnswer]
    assert [error.args for error in errors] == [(url, status) for url in urls]
    assert [len(service.requests[page]) for page in ("sync", "async")] == [1, 1]


@pytest.mark.guarantee(NAME, "others")
@pytest.mark.parametrize("status", [400, 401, 500, 502, 504])
def test_only_two_statuses_are_worth_a_retry(service: Service, status: int) -> None:
    """An answer with another status than 429 and 503 is not asked for again."""
    pages = fetch_site([service.url("page", 9, status, told="1")])
    assert [type(page) for page in pages] == [BadAnswer]
    assert len(service.requests["page"]) == 1


@pytest.mark.guarantee(NAME, "budget")
@pytest.mark.guarantee(NAME, "removed")
def test_the_tasks_of_a_run_share_a_budget(task_runner: TaskRunner[Any], service: Service) -> None:
    """All tasks of a flow run, in all its processes, wait no longer than its budget in all."""
    urls = [service.url(f"page{number}", 99, told="100") for number in range(4)]
    errors = fetch_site.with_options(task_runner=task_runner)(urls, budget=299)
    assert [type(error) for error in errors] == [Busy] * 4
    assert sum(len(asked) for asked in service.requests.values()) == 4 + 2
    assert budgets() == []


@pytest.mark.guarantee(NAME, "budget")
def test_a_short_wait_counts_as_a_second(service: Service) -> None:
    """A retry counts as one second at least, and parts of a second are rounded up."""
    # 0.25 + 0.5 + 1 second count as 3, and so do 3 times nothing; 1.5 + 3 seconds count as 5.
    for first, budget, retries in [(0.25, 3, 3), (0.0, 3, 3), (1.5, 5, 2), (1.5, 4, 1)]:
        condition = wait_as_told(longest=60, first=first)
        impatient = fetch_page.with_options(retry_condition_fn=condition)
        service.requests.clear()

        @flow
        def fetch(each: Any, budget: int) -> None:
            with retry_budget(seconds=budget):
                each(service.url("page", 99), return_state=True)

        fetch(impatient, budget, return_state=True)
        assert len(service.requests["page"]) - 1 == retries


@pytest.mark.guarantee(NAME, "budget")
def test_each_run_has_its_own_budget(service: Service) -> None:
    """A flow run does not spend the budget of another that runs at the same time."""

    @flow
    def outer() -> None:
        with retry_budget(seconds=0):
            fetch_site([service.url("inner", 1, told="100")], budget=100)
            fetch_page(service.url("outer", 1, told="100"), return_state=True)

    outer(return_state=True)
    assert [len(service.requests[page]) for page in ("inner", "outer")] == [2, 1]


@pytest.mark.guarantee(NAME, "removed")
def test_an_error_in_the_block_removes_the_budget() -> None:
    """A budget is on the server within its block, and no more after an error in the block."""
    inside: list[str] = []

    @flow
    def fail() -> None:
        with retry_budget(seconds=5):
            inside.extend(budgets())
            assert inside == [f"retry-budget-{flow_run.id}"]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(inside) == 1
    assert budgets() == []


@pytest.mark.guarantee(NAME, "removed")
def test_a_budget_that_was_deleted_is_no_error() -> None:
    """If somebody deletes the budget meanwhile, the flow completes."""

    @flow
    def fetch() -> int:
        with retry_budget(seconds=5), get_client(sync_client=True) as client:
            client.delete_global_concurrency_limit_by_name(budgets()[0])
        return 1

    assert fetch() == 1


@pytest.mark.guarantee(NAME, "budget")
def test_a_budget_belongs_to_a_flow_run() -> None:
    """Outside a flow a budget is refused."""
    with pytest.raises(RuntimeError, match="in the body of a flow"), retry_budget(seconds=5):
        pass


@pytest.mark.guarantee(NAME, "async")
def test_async_tasks_wait_side_by_side(service: Service, virtual_clock: VirtualClock) -> None:
    """Async tasks in one thread wait as told, side by side, within the budget of their flow."""
    urls = [service.url(f"page{number}", 1, told="500") for number in range(3)]
    pages = asyncio.run(fetch_site_async([*urls, service.url("spent", 1, told="500")], 1500))
    assert sum(page == "the page" for page in pages) == 3
    assert sum(isinstance(page, Busy) for page in pages) == 1
    assert 500 <= virtual_clock.elapsed < 2 * 500
    assert budgets() == []


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_submitted_async_tasks_wait(task_runner: TaskRunner[Any], service: Service) -> None:
    """An async task that is submitted waits as told."""
    condition = wait_as_told_async(longest=2 * HOUR)
    patient = fetch_page_async.with_options(retry_condition_fn=condition)

    @flow(task_runner=task_runner)
    def fetch(url: str) -> Any:
        return patient.submit(url).result()

    assert fetch(service.url("page", 1, told=str(HOUR))) == "the page"
    assert HOUR <= service.waits("page")[0] < 2 * HOUR


@pytest.mark.fact(NAME, "fixed")
def test_delays_are_fixed_when_the_task_is_defined() -> None:
    """A callable `retry_delay_seconds` is called once, with the number of retries."""
    received: list[Any] = []

    def delays(*args: Any) -> list[float]:
        received.append(args)
        return [0.0]

    @task(retries=3, retry_delay_seconds=delays)
    def fail() -> None:
        raise KeyError

    assert received == [(3,)]
    flow(lambda: fail(return_state=True))(return_state=True)
    assert received == [(3,)]


def comes_back(then: Callable[[], Any], *, kept: bool) -> Any:
    """Return a task that returns AwaitingRetry, an hour ahead, and does something at its return."""

    @task(persist_result=kept)
    def come_back() -> Any:
        if task_run.run_count == 1:
            return AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(hours=1))
        return then()

    return come_back


def fail_later() -> None:
    """Fail."""
    raise KeyError("later")


@pytest.mark.fact(NAME, "returned")
def test_an_error_after_a_returned_state_is_lost(
    virtual_clock: VirtualClock, run_history: Callable[..., History]
) -> None:
    """After a returned `AwaitingRetry` the task runs again, but a call does not raise its error."""

    @flow
    def call() -> None:
        submitted = comes_back(lambda: "fine", kept=False).submit()
        returned.extend([submitted.result(), comes_back(fail_later, kept=False)()])
        histories.append(run_history(submitted))

    histories: list[History] = []
    returned: list[Any] = []
    call()
    fine, stale = returned
    assert histories[0].matches("Pending Running AwaitingRetry Retrying Completed")
    assert fine == "fine"
    assert stale.name == "AwaitingRetry"
    assert virtual_clock.elapsed >= HOUR


@pytest.mark.fact(NAME, "returned-kept")
def test_a_persisted_state_is_the_result(
    virtual_clock: VirtualClock, run_history: Callable[..., History]
) -> None:
    """With persisted results, a task that returns `AwaitingRetry` ends Cached, with None."""

    @flow
    def call() -> None:
        submitted = comes_back(fail_later, kept=True).submit()
        results.append(submitted.result())
        histories.append(run_history(submitted))

    results: list[Any] = []
    histories: list[History] = []
    call()
    assert results == [None]
    assert histories[0].matches("Pending Running AwaitingRetry Retrying Cached")


@pytest.mark.fact(NAME, "condition")
def test_the_retry_waits_for_the_condition(run_history: Callable[..., History]) -> None:
    """A run is Running until its condition returns, and is retried then."""
    seen: list[tuple[str, int]] = []
    attempts: list[int] = []

    def condition(task: Any, run: Any, state: Any) -> bool:
        seen.append((run.state.name, len(attempts)))
        return True

    @task(retries=1, retry_condition_fn=condition)
    def fail_once() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyError

    @flow
    def call() -> bool:
        future = fail_once.submit()
        future.wait()
        return bool(run_history(future).matches("Pending Running Retrying Completed"))

    assert call()
    assert seen == [("Running", 1)]
    assert len(attempts) == 2


@pytest.mark.fact(NAME, "held")
def test_a_wait_for_a_retry_holds_the_thread(virtual_clock: VirtualClock) -> None:
    """A task that waits for its retry keeps its worker thread: no other task runs meanwhile."""
    order: list[str] = []

    @task(retries=1, retry_delay_seconds=HOUR)
    def call(name: str) -> None:
        order.append(name)
        if order == ["first"]:
            raise KeyError

    one_thread: Any = ThreadPoolTaskRunner(max_workers=1)

    @flow(task_runner=one_thread)
    def calls() -> None:
        call.map(["first", "second"]).wait()

    calls()
    assert order == ["first", "first", "second"]
