# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Submit a few tasks at a time, and take each result as soon as it is there.

Problem:
    `fetch_page.map(range(10_000))` submits ten thousand tasks before the flow can look at the first
    result. All items, futures and results are in memory at once, and the first failure comes when
    there is nothing left to stop. A limit on the task runner's workers changes none of this: the
    tasks wait in its queue.

Guarantees:
    window: at most `at_most` tasks are submitted and not yet yielded. The next item is taken when
        there is room for it, so that items can be an endless iterator.
    each: each item is yielded once, with the future of its task, which got the item and the other
        arguments.
    first: a future is yielded when its task has ended: a slow task holds up none of the others.
    apart: a task that fails is yielded like the others; only its `.result()` raises its error.
    ended: a yielded future has ended: its state is final, and `.result()` does not wait.
    stop: when the loop is left by `break` or by an error, or when the items raise one, nothing else
        is submitted. The tasks in flight run to their end and are waited for; nobody sees their
        results.
    released: a future that was yielded is not kept while others still run, nor its result for long.
    async: `as_they_complete_async` does the same without blocking the event loop. A loop over it
        that may be left early needs `aclosing`.
    checked: an `at_most` below 1 is refused before the first item is taken.

Prefect:
    all-at-once (3.8, 3.9): `map` takes all items and submits all tasks before it returns.
    again (3.8, 3.9): `as_completed` wants all futures at once. If it is called anew for each
        result, what has ended stays in memory until the slowest of the others ends.
    collected (3.8, 3.9): the future of a thread or process pool is part of a reference cycle:
        what it holds is freed by Python's next garbage collection, not before.
    remembered (3.8, 3.9): for each task run in the flow's own process, the flow run keeps the state
        until it ends, without the result, and a thread pool keeps an event: a few KB per item.

Not for:
    Results in the order of the items: use `map`, or sort them. Work so small that a task run for
    each item costs more than the work: see `task_runners/chunked_map`. Fewer task runs on the
    server: there is still one for each item. A loop body that takes longer than the tasks: nothing
    is submitted while it runs. Items that have to be waited for: while the next one is awaited,
    nothing is yielded. Millions of items in one flow run: see `remembered`. Tasks that submit
    tasks of their own to a pool with no more workers than `at_most`: they may wait forever. Tasks
    that call `sys.exit`. A generator that is kept in a variable: use `closing`, or it waits for the
    tasks in flight only when the variable is gone.

Costs:
    Row `submit` of the report for each item, and one callback.

Sources:
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #12252 and #18883: a `map` over many items is too much for the server
    - Prefect #14241: `as_completed`
    - prefect-ray #76: a flow that submits 15,000 tasks hangs
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import aclosing, suppress
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect import flow, task
from prefect.futures import PrefectFuture
from prefect.tasks import Task

T = TypeVar("T")


def as_they_complete(
    task: Task[..., Any], items: Iterable[T], /, *, at_most: int, **arguments: Any
) -> Generator[tuple[T, PrefectFuture[Any]], None, None]:
    """Submit a task for each item, a few at a time.

    Args:
        task: The task; the item is its first argument.
        items: Values; may be endless.
        at_most: How many tasks are submitted at a time.
        **arguments: Other arguments of the task, the same for each item.

    Yields:
        An item and the future of its task, which has ended.

    Raises:
        ValueError: If `at_most` is below 1.
    """
    if at_most < 1:
        raise ValueError(f"at_most={at_most}: at least one task has to be submitted at a time")
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    window: dict[PrefectFuture[Any], T] = {}

    def take() -> tuple[T, PrefectFuture[Any]]:
        future = ended.get()
        item = window.pop(future)
        with suppress(Exception):  # `.result()` raises it
            future.wait()  # sets the state, which would otherwise be asked of the server
        return item, future

    try:
        for item in items:
            future = task.submit(item, **arguments)
            # One callback for each future; `as_completed` would add one for each result.
            future.add_done_callback(ended.put)
            window[future] = item
            del item, future  # or the last ones would live as long as the next item is awaited
            if len(window) == at_most or not ended.empty():
                yield take()
        while window:
            yield take()
    finally:
        while window:
            window.pop(ended.get(), None)


async def as_they_complete_async(
    task: Task[..., Any], items: Iterable[T], /, *, at_most: int, **arguments: Any
) -> AsyncGenerator[tuple[T, PrefectFuture[Any]], None]:
    """Do what `as_they_complete` does without blocking the event loop.

    Args:
        task: The task; the item is its first argument.
        items: Values; may be endless.
        at_most: How many tasks are submitted at a time.
        **arguments: Other arguments of the task, the same for each item.

    Yields:
        An item and the future of its task, which has ended.

    Raises:
        ValueError: If `at_most` is below 1.
    """
    if at_most < 1:
        raise ValueError(f"at_most={at_most}: at least one task has to be submitted at a time")
    loop = asyncio.get_running_loop()
    ended: asyncio.Queue[PrefectFuture[Any]] = asyncio.Queue()
    window: dict[PrefectFuture[Any], T] = {}

    def note(future: PrefectFuture[Any]) -> None:
        loop.call_soon_threadsafe(ended.put_nowait, future)

    async def take() -> tuple[T, PrefectFuture[Any]]:
        future = await ended.get()
        item = window.pop(future)
        with suppress(Exception):
            await asyncio.to_thread(future.wait)  # on Dask this fetches the result
        return item, future

    try:
        for item in items:
            future = task.submit(item, **arguments)
            future.add_done_callback(note)
            window[future] = item
            del item, future
            await asyncio.sleep(0)  # whatever else the event loop has to do
            if len(window) == at_most or not ended.empty():
                yield await take()
        while window:
            yield await take()
    finally:
        while window:
            window.pop(await ended.get(), None)


@task
def fetch_page(number: int, book: str) -> str:
    """Stand in for a slow download."""
    if number == 13:
        raise ConnectionError(f"{book} has lost page {number}")
    return f"{book}, page {number}"


@flow
def read_book(book: str, pages: int) -> tuple[int, list[int]]:
    """Return the number of letters on all pages of a book, and the pages that can't be fetched."""
    letters, lost = 0, []
    for number, page in as_they_complete(fetch_page, range(1, pages + 1), at_most=4, book=book):
        if page.state.is_completed():
            letters += len(page.result())
        else:
            lost.append(number)
    return letters, lost


@flow
async def find_page(book: str, text: str) -> int:
    """Return the number of the first page found that ends with a text; a failure ends the flow."""
    pages = as_they_complete_async(fetch_page, count(1), at_most=4, book=book)
    async with aclosing(pages):
        async for number, page in pages:
            if page.result().endswith(text):
                return number
    raise AssertionError("the pages are endless")


def main() -> None:
    """Read a book in which a page can't be fetched, and look for one until it is found."""
    letters, lost = read_book("Emma", 20)
    print(f"{letters} letters, without the pages {lost}")
    print(f"found on page {asyncio.run(find_page('Emma', 'page 7'))}")


if __name__ == "__main__":
    main()
