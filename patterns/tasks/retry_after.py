# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "httpx>=0.27,<1"]
# ///
"""Wait as long as a busy service says, within a budget for the whole flow run.

Problem:
    A service that is busy answers 429 or 503, and `Retry-After` says when to come back. Prefect's
    delays are fixed when the task is defined, so a retry comes too early or too late. And if the
    service says "in an hour" to 1,000 tasks, each of them waits for that hour.

Guarantees:
    told: after a 429 or 503 a retry waits for the seconds in `Retry-After`, or until the date in
        it, but no longer than `longest`. A date is compared with the answer's own `Date`, so it
        does not matter if the clocks differ.
    untold: without `Retry-After`, or if it can't be read, the wait is `first` seconds and doubles
        with each attempt, but is no longer than `longest`.
    attempts: while the service stays busy, a task is tried `retries + 1` times; then it raises
        `Busy`.
    others: any other bad answer ends the run at once, with its URL and status, in another process
        too.
    budget: inside `with retry_budget(seconds=...)` the tasks of a flow run, in all their processes,
        wait no longer than that in all; a retry that would exceed it is not made, and the task
        raises `Busy`. A retry counts as one second at least, and seconds are rounded up.
    removed: when the block ends, also with an error, its budget is removed from the server.
    async: async tasks wait the same way, and the event loop keeps running.

Prefect:
    fixed (3.8, 3.9): a callable `retry_delay_seconds` receives the number of retries, once, when
        the task is defined.
    returned (3.8, 3.9): a task that returns `AwaitingRetry(scheduled_time=...)` runs again at that
        time; but if it then fails, the call returns the old state and raises nothing.
    returned-kept (3.8, 3.9): with persisted results such a task does not run again: its run ends
        Cached, and its result is None.
    condition (3.8, 3.9): the retry starts when `retry_condition_fn` has returned; until then the
        run is Running.
    held (3.8, 3.9): a task run keeps its worker thread while it waits for a retry.

Not for:
    Lost connections: they are not retried. Waits that must not occupy a thread or process of the
    task runner: see `tasks/poll`. Services that punish early retries: set `longest` high. Many
    tasks that are all told the same moment: they come back together, so limit how many run at once.
    Tasks that the flow does not wait for inside the block, tasks of subflows, and tasks that are
    called outside a flow: no budget applies to them. Two budgets in one flow run at a time. A
    retried flow gets a new budget; a flow run whose process was killed leaves its own on the
    server, as a global concurrency limit.

Costs:
    One request to Prefect's server for each retry, and three for the budget; these stop the event
    loop of an async flow. A waiting task run is shown as Running; its log says how long it waits.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/retries
    - https://docs.prefect.io/v3/how-to-guides/workflows/global-concurrency-limits
    - RFC 9110, section 10.2.3: Retry-After
    - Prefect #13815: what the engine does with `retry_delay_seconds`
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from uuid import UUID

import httpx
from prefect import flow, get_client, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import get_state_exception


class BadAnswer(Exception):
    """An answer without a page; the arguments are its URL and its status."""

    # All arguments are positional: httpx's own error can't be unpickled in another process.


class Busy(BadAnswer):
    """An answer that asks to come back; the third argument is in how many seconds, or None."""


def seconds_told(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds `Retry-After` says to wait, or None if it says nothing readable."""
    told = headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        now = _moment(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (_moment(told) - now).total_seconds())
    except ValueError:
        return None


def _moment(text: str) -> datetime:
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def page_in(answer: httpx.Response) -> str:
    """Return the text of an answer, or raise `Busy` or `BadAnswer`."""
    if answer.status_code in (429, 503):
        raise Busy(str(answer.url), answer.status_code, seconds_told(answer.headers))
    if not answer.is_success:
        raise BadAnswer(str(answer.url), answer.status_code)
    return answer.text


def _granted(state: State[Any], task_run: TaskRun, longest: float, first: float) -> float | None:
    """Return how long to wait in seconds, or None if there is to be no retry."""
    # Not `state.result()`: inside an async task that is a coroutine and raises nothing.
    error = get_state_exception(state, _sync=True)  # type: ignore[call-arg]
    if not isinstance(error, Busy):
        return None
    told = error.args[2]
    # After 60 doublings `longest` is reached, and the power is not out of range.
    delay: float = first * 2.0 ** min(task_run.run_count - 1, 60) if told is None else told
    delay = min(delay, longest)
    try:
        # One slot is one second. Where no limit has this name, the server grants any number.
        with get_client(sync_client=True) as client:
            client.increment_concurrency_slots(
                [_budget(task_run.flow_run_id)], max(1, math.ceil(delay)), "concurrency"
            )
    except httpx.HTTPStatusError as refusal:
        # 423: not enough slots are left. 422: there were never so many.
        if refusal.response.status_code not in (422, 423):
            raise
        get_run_logger().warning("%r: no retry, the budget of the flow run is spent", error)
        return None
    get_run_logger().info("%r: the next attempt is in %g seconds", error, delay)
    return delay


def _budget(flow_run_id: UUID | str | None) -> str:
    return f"retry-budget-{flow_run_id}"


def wait_as_told(longest: float, first: float = 1.0) -> Callable[[Any, TaskRun, State[Any]], bool]:
    """Return a condition for `@task(retries=..., retry_condition_fn=wait_as_told(...))`.

    Args:
        longest: The longest wait before a retry, in seconds.
        first: The first wait in seconds if the service does not say how long.

    Returns:
        A function that waits, and then returns whether the failed task run is to be retried.
    """

    def may_retry(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
        delay = _granted(state, task_run, longest, first)
        time.sleep(delay or 0)
        return delay is not None

    return may_retry


def wait_as_told_async(
    longest: float, first: float = 1.0
) -> Callable[[Any, TaskRun, State[Any]], Awaitable[bool]]:
    """Return the same condition for async tasks."""

    async def may_retry(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
        delay = await asyncio.to_thread(_granted, state, task_run, longest, first)
        await asyncio.sleep(delay or 0)
        return delay is not None

    return may_retry


@contextmanager
def retry_budget(seconds: int) -> Iterator[None]:
    """Limit how many seconds the tasks of this flow run may wait for retries, all together."""
    if not flow_run.id:
        raise RuntimeError("use retry_budget(...) in the body of a flow")
    # The server keeps the budget: that is the one thing that all processes of the run share.
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(_budget(flow_run.id), seconds)
    try:
        yield
    finally:
        with get_client(sync_client=True) as client, suppress(ObjectNotFound):
            client.delete_global_concurrency_limit_by_name(_budget(flow_run.id))


@task(retries=5, retry_condition_fn=wait_as_told(longest=600))
def fetch_page(url: str) -> str:
    """Fetch a page."""
    return page_in(httpx.get(url))


@flow
def fetch_site(urls: list[str], budget: int = 3600) -> list[str | Exception]:
    """Fetch all pages; those that did not come are given as their errors."""
    with retry_budget(seconds=budget):
        pages = [fetch_page.submit(url) for url in urls]
        return [page.result(raise_on_failure=False) for page in pages]


@task(retries=5, retry_condition_fn=wait_as_told_async(longest=600))
async def fetch_page_async(url: str) -> str:
    """Fetch a page; the async twin of `fetch_page`."""
    async with httpx.AsyncClient() as client:
        return page_in(await client.get(url))


@flow
async def fetch_site_async(urls: list[str], budget: int = 3600) -> list[str | BaseException]:
    """Fetch all pages side by side in one thread."""
    with retry_budget(seconds=budget):
        pages = [fetch_page_async(url) for url in urls]
        return await asyncio.gather(*pages, return_exceptions=True)


class BusyShop(BaseHTTPRequestHandler):
    """A service that is busy at the first request for each page."""

    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        """Answer 503 the first time, later with the page."""
        self.send_response(200 if self.path in self.asked else 503)
        self.asked.add(self.path)
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(f"this is {self.path}".encode())


def main() -> None:
    """Show two pages that arrive a second later, and one for which no wait is allowed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyShop) as shop:
        threading.Thread(target=shop.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{shop.server_port}"
        print(fetch_site([f"{site}/home", f"{site}/news"]))
        print(asyncio.run(fetch_site_async([f"{site}/shop"], budget=0)))
        shop.shutdown()


if __name__ == "__main__":
    main()
