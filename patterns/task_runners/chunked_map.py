# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "cloudpickle>=3,<4"]
# ///
"""Map over thousands of small items in few task runs, with a separate outcome for each item.

Problem:
    `task.map` creates a task run for every item, which costs milliseconds on threads and tens of
    milliseconds in other processes: too much for items that take one. Chunking by hand loses what
    `map` offers: one bad item fails its whole chunk, and a retry repeats all of it.

Guarantees:
    order: results are those of a plain loop, in the order of the items, for any chunk size.
    apart: an item that fails does not affect any other, not even by `sys.exit` or
        `asyncio.CancelledError`; each item's result or error is kept.
    errors: an error keeps its type, arguments and attributes even when it comes from another
        process, whatever its `__init__` takes; one that can't be pickled arrives from there as a
        RuntimeError that gives its type and message.
    retry: a failed item is retried alone, as often as requested; items that succeeded are not
        repeated.
    granularity: without a chunk size, one is chosen so that a chunk takes as long as requested, at
        the pace of the first items (100 at most); the very first item, which may pay for imports,
        does not count.
    runs: there is one task run for each chunk, named after its items, and none for single items.
        Without a chunk size, the task run of the first items is named after all items that it
        received.
    seen: a task run with a failed item is Failed, and its message names the first failed item.
    crash: if a chunk's task run ends without an answer, its items have that as their error.
    refused: invalid sizes, times and numbers are refused before anything is called, and so are
        tasks and `async def` callables of any kind as functions, and futures as items.

Not for:
    Items that need their own logs, states, cached results or place on the run's page: use `map`,
    which gives each a task run. Retries of one item that take hours: its chunk waits. Results that
    can't be pickled, where workers are other processes: their whole chunk fails with them. Async
    flows, whose event loop is blocked until all items are done. Retries of the flow: they process
    all items again.

Costs:
    Row `chunked-map` of the report: the share of the workers' time that is spent on the items,
    which take a millisecond each.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-work-concurrently
    - Prefect #18883 and #12252: the cost of a small task
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cloudpickle
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Failed

T = TypeVar("T")
R = TypeVar("R")

PILOT_ITEMS = 100
"""The largest number of items that are run first to estimate how long one takes."""

PILOT = 0.1
"""The share of a chunk's seconds that is spent on estimating how long an item takes."""


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """The outcome of one item: its value or its error.

    Attributes:
        value: What the function returned, or None if it failed.
        error: What it raised at the last attempt, or None if it succeeded. From another process it
            comes without a traceback, and as a RuntimeError if it can't be pickled.
        attempts: How often it was called; 0 if that is unknown because its chunk never answered.
    """

    value: R | None
    error: BaseException | None
    attempts: int

    def __reduce__(self) -> tuple[object, ...]:
        """Have the error pickled by its parts: many errors can't be unpickled otherwise."""
        packed = None if self.error is None else pack(self.error)
        return unpack, (self.value, packed, self.attempts)


@dataclass(frozen=True)
class Answer(Generic[R]):
    """What a task run returns: outcomes of the items it got to, and the seconds one item takes."""

    outcomes: tuple[Outcome[R], ...]
    item_seconds: float


class Chunk(Generic[T, R]):
    """Items, and the function that is called with each.

    This is not a tuple or a dataclass, because Prefect and Dask would search those for futures,
    item by item; what Prefect's `quote` hides from that search, Dask turns into a plain tuple.
    """

    def __init__(self, function: Callable[[T], R], items: Sequence[T], first: int) -> None:
        """Store a function, its items, and the number of the first one."""
        self.function, self.items, self.first = function, items, first
        called = getattr(function, "__name__", type(function).__name__)
        self.name = f"{called}[{first}:{first + len(items)}]"


def chunked_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    chunk_size: int | None = None,
    chunk_seconds: float = 1.0,
    retries: int = 0,
    retry_delay_seconds: float = 0.0,
) -> list[Outcome[R]]:
    """Call a function with each item, in chunks, on the task runner of the enclosing flow.

    Args:
        function: What is called in the workers; for a task, pass its `fn`.
        items: Values, not futures.
        chunk_size: Items per task run; by default as many as take `chunk_seconds`.
        chunk_seconds: How long a task run should take if no size is given.
        retries: How often a failed item is tried again.
        retry_delay_seconds: How long a chunk waits before it tries its failed items again.

    Returns:
        The outcome of each item, in order.

    Raises:
        ValueError: If a size, a time or a number of retries makes no sense.
        TypeError: If the function is a task or async, an item is a future, or `chunk_size` or
            `retries` is not an integer.
    """
    for name, number in {"chunk_size": chunk_size or 0, "retries": retries}.items():
        try:
            operator.index(number)
        except TypeError:
            raise TypeError(f"{name}={number!r} is not an integer") from None
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: a chunk has one item or more")
    if not 0 < chunk_seconds < math.inf or retries < 0 or not 0 <= retry_delay_seconds < math.inf:
        raise ValueError(
            "chunk_seconds is finite and above 0, retries and retry_delay_seconds are not below it"
        )
    if isinstance(inner(function), Task) or is_async(inner(function)):
        raise TypeError(
            "give a task's `fn`, and of an async function one that runs it by `asyncio.run`"
        )
    given = list(items)
    if any(isinstance(item, PrefectFuture) for item in given):
        raise TypeError("items are values, not futures: take the result of each")

    def submit(
        start: int, size: int, seconds: float = math.inf
    ) -> PrefectFuture[Answer[R] | State[Answer[R]]]:
        work = Chunk(function, given[start : start + size], start)
        return run_chunk.submit(work, retries, retry_delay_seconds, seconds)

    outcomes: list[Outcome[R]] = []
    sizes: Iterator[int] = itertools.repeat(chunk_size or 1)
    while chunk_size is None and len(outcomes) < len(given):
        tried = min(PILOT_ITEMS, len(given) - len(outcomes))
        pilot = answer(submit(len(outcomes), tried, PILOT * chunk_seconds), tried)
        outcomes += pilot.outcomes
        # A chunk that never answered gives no estimate.
        if pilot.item_seconds < math.inf:
            size = max(1, round(chunk_seconds / max(pilot.item_seconds, 1e-6)))
            sizes = tapered(len(given) - len(outcomes), size)
            break
    chunks = []
    start = len(outcomes)
    while start < len(given):
        size = min(next(sizes), len(given) - start)
        chunks.append((size, submit(start, size)))
        start += size
    for size, future in chunks:
        outcomes += answer(future, size).outcomes
    return outcomes


def inner(function: Callable[[T], R]) -> Callable[..., object]:
    """Return the function that is called in the end, unwrapped from any `functools.partial`."""
    called: Callable[..., object] = function
    while isinstance(called, functools.partial):
        called = called.func
    return called


def is_async(function: Callable[..., object]) -> bool:
    """Return whether a function is declared as async, itself or by its `__call__`."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, type(function).__call__)
    )


def tapered(items: int, size: int) -> Iterator[int]:
    """Cut items into chunks, halving the last ones so that workers end at about the same time.

    Args:
        items: The number of items.
        size: The number of items in a chunk.

    Yields:
        The number of items in each chunk.
    """
    while items > 0:
        cut = size if items > size else max(math.ceil(items / 2), math.ceil(size / 8))
        yield min(cut, items)
        items -= cut


def values(outcomes: Iterable[Outcome[R]]) -> list[R]:
    """Return the values of items that all succeeded.

    Args:
        outcomes: What `chunked_map` returned.

    Returns:
        The value of each item.

    Raises:
        BaseException: The error of the first item that failed.
    """
    found = list(outcomes)
    for outcome in found:
        if outcome.error is not None:
            raise outcome.error
    return [outcome.value for outcome in found]  # type: ignore[misc]


# `retries=0` overrides the retries of the settings, which would repeat all items.
@task(cache_policy=NO_CACHE, task_run_name="{chunk.name}", retries=0)
def run_chunk(
    chunk: Chunk[T, R],
    retries: int,
    retry_delay_seconds: float,
    seconds: float,
) -> Answer[R] | State[Answer[R]]:
    """Call a function with each item of a chunk, and again with those that failed.

    Args:
        chunk: The function and the items.
        retries: How often a failed item is tried again.
        retry_delay_seconds: The time to wait before each round of retries.
        seconds: The time after which no further item is started, counted from the end of the first.

    Returns:
        The outcomes of the items it got to; in a Failed state if one failed.
    """
    begun = time.perf_counter()
    outcomes: list[Outcome[R]] = []
    ends: list[float] = []
    for item in chunk.items:
        outcomes.append(attempt(chunk.function, item, 1))
        ends.append(time.perf_counter())
        if len(ends) > 1 and ends[-1] - ends[0] >= seconds:
            break
    for tried in range(1, retries + 1):
        failed = [index for index, outcome in enumerate(outcomes) if outcome.error is not None]
        if failed:
            time.sleep(retry_delay_seconds)
        for index in failed:
            outcomes[index] = attempt(chunk.function, chunk.items[index], tried + 1)
    # The time of the first item may include what it imports or opens.
    item_seconds = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0] - begun
    found = Answer(tuple(outcomes), item_seconds)
    failed = [index for index, outcome in enumerate(outcomes) if outcome.error is not None]
    if not failed:
        return found
    first, error = chunk.first + failed[0], outcomes[failed[0]].error
    message = f"{len(failed)} of {len(outcomes)} items failed, the first is {first}: {error!r}"
    return Failed(message=message, data=found)


def attempt(function: Callable[[T], R], item: T, number: int) -> Outcome[R]:
    """Call a function with an item, and keep what it returns or raises."""
    try:
        return Outcome(function(item), None, number)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        # Prefect ends runs by its own subclass of `asyncio.CancelledError`: let that through.
        if isinstance(error, asyncio.CancelledError) and type(error) is not asyncio.CancelledError:
            raise
        return Outcome(None, error, number)


def pack(error: BaseException) -> bytes:
    """Pickle an error by its parts, or else in its own way, or else only its type and message."""
    parts = built_in(type(error)).__reduce__(error)[1:]
    for way in ((type(error), *parts), error):
        with suppress(Exception):
            packed: bytes = cloudpickle.dumps(way)
            unpack(None, packed, 0)
            return packed
    packed = cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return packed


def unpack(value: R | None, packed: bytes | None, attempts: int) -> Outcome[R]:
    """Return an outcome, rebuilding its error without the error's own `__init__`."""
    error = None if packed is None else cloudpickle.loads(packed)
    if isinstance(error, tuple):
        error = rebuilt(*error)
    return Outcome(value, error, attempts)


def rebuilt(
    kind: type[BaseException],
    arguments: tuple[object, ...],
    attributes: dict[str, object] | None = None,
) -> BaseException:
    """Rebuild an error without calling its own `__init__`, which may take other arguments."""
    error: BaseException = built_in(kind).__new__(kind, *arguments)
    built_in(kind).__init__(error, *arguments)
    error.__setstate__(attributes)
    return error


def built_in(kind: type[BaseException]) -> Any:
    """Return the first built-in class among an error's types."""
    return next(each for each in kind.__mro__ if each.__module__ == "builtins")


def answer(future: PrefectFuture[Answer[R] | State[Answer[R]]], items: int) -> Answer[R]:
    """Wait for a task run and return its answer; if it has none, each item gets its error."""
    found: object
    try:
        found = future.result(raise_on_failure=False)
    except Exception as raised:
        found = raised
    if isinstance(found, Answer):
        return found
    error = found if isinstance(found, Exception) else RuntimeError(f"no answer: {found!r}")
    return Answer((Outcome(None, error, 0),) * items, math.inf)


def count_letters(word: str) -> int:
    """Count the letters of a word."""
    if not word.isalpha():
        raise ValueError(f"{word!r} is not a word")
    return len(word)


@flow
def count_all(words: list[str]) -> list[int]:
    """Count the letters of all words, skipping what is not a word; raise any other error."""
    outcomes = chunked_map(count_letters, words, chunk_size=100)
    return values(each for each in outcomes if not isinstance(each.error, ValueError))


def main() -> None:
    """Count the letters of a few hundred words, one of which is not a word."""
    words = [*("tide" * (1 + n % 3) for n in range(500)), "4711"]
    print(f"{sum(count_all(words))} letters in {len(words) - 1} words")


if __name__ == "__main__":
    main()
