# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Let a flow fail when any of its tasks failed, also when its results are nested.

Problem:
    Prefect 3 decides the final state of a flow by what its body returns or raises, and by
    nothing else. It looks at the futures in a flat list, but not at those in a dict, in a list
    of lists or beside another value: such a flow is Completed while its tasks failed.

Guarantees:
    settled: `settle` returns the results of all futures, in the shape in which it was given
        them: lists, tuples, sets, dicts, dataclasses and Pydantic models, in one another. What
        `map` returned becomes a plain list; in a set equal results are one, and one that can't be
        hashed is a TypeError.
    failed: if a future or state in such a shape did not complete, `settle` raises one
        ExceptionGroup with the error of each run that did not, and so the flow ends Failed.
    all-waited: before that every task has run to its end, also those after the first failure.
    unseen: an iterator or a coroutine, whose futures `settle` would not see, is a TypeError, and
        so is a future in a dict's view, a deque or a frozenset, or as a key of a dict.
    async: `await settle_async(...)` does the same, and the event loop goes on meanwhile.

Prefect:
    raised (3.8, 3.9): an error that leaves the body, also through `.result()`, fails the flow.
    forgotten (3.8, 3.9): failed tasks that are not returned, waited for or not, leave the flow
        Completed.
    flat (3.8, 3.9): a returned future, state, or flat list, tuple or set of nothing else fails
        the flow unless all of them completed.
    hidden (3.8, 3.9): failed futures in a nested list, in a dict, beside another value or in a
        generator leave the flow Completed.
    explicit (3.8, 3.9): a state that the body makes itself is the final state of the flow.
    upstream (3.8, 3.9): a returned future of a task that never ran, because the task before it
        failed, fails the flow.
    allowed (3.8, 3.9): a failure that a later task takes with `allow_failure` does not count, if
        that task is what is returned.

Not for:
    Futures in objects of other classes, which pass unseen, and in those that can't be made anew
    from their items or fields (`defaultdict`, a dataclass with `init=False`), which are a
    TypeError. Flows that are to go on after the first failure: ask each future for its state.

Costs:
    Row `flows/final_state` of the report: `settle` beside a flat list of futures.

Sources:
    - https://docs.prefect.io/v3/concepts/states
    - Prefect #23137: nested lists of failed futures
    - Prefect #14470 and #16373: failures that are not returned
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, PrefectFutureList, resolve_futures_to_results
from prefect.states import get_state_exception
from prefect.utilities.collections import visit_collection

UNSEEN = (KeysView, ValuesView, ItemsView, deque, frozenset)
"""What `visit_collection` passes by, and people put futures in."""


def settle(work: Any) -> Any:
    """Wait for all futures and return their results, or raise all their errors.

    Args:
        work: Futures, alone or in lists, tuples, sets, dicts, dataclasses and Pydantic models,
            nested as they may be, and beside other values.

    Returns:
        The same with the result of each future in its place.

    Raises:
        ExceptionGroup: If any of them did not complete; it holds one error for each.
        TypeError: If there may be futures where they are not seen.
    """
    errors: dict[UUID, Exception] = {}

    def note_error(value: Any) -> Any:
        if isinstance(value, PrefectFuture):
            value.wait()
            note_error(value.state)
        elif isinstance(value, State):
            if not value.is_completed():
                errors[value.id] = _error(value)
        else:
            _refuse_unseen(value)
        return value

    visit_collection(work, note_error, return_data=False)
    if errors:
        raise ExceptionGroup(f"{len(errors)} runs did not complete", list(errors.values()))
    return resolve_futures_to_results(visit_collection(work, _plain, return_data=True))


async def settle_async(work: Any) -> Any:
    """Do what `settle` does and leave the event loop to others: futures block while they wait."""
    return await asyncio.to_thread(settle, work)


def _refuse_unseen(value: object) -> None:
    """Raise a TypeError if there are, or may be, futures where they are not seen."""
    if isinstance(value, Awaitable):
        raise TypeError(f"what a {type(value).__name__} brings is not seen: await it first")
    where = f"a {type(value).__name__}"
    if isinstance(value, Iterator | AsyncIterator) and not isinstance(value, list):
        raise TypeError(f"futures in {where} can't be settled: make it a list")
    if isinstance(value, dict):
        where = "the keys of a dict"  # of equal results one would take the other's place
    elif not isinstance(value, UNSEEN):
        return

    def refuse(inner: Any) -> Any:
        if isinstance(inner, PrefectFuture | State):
            raise TypeError(f"futures in {where} can't be settled: make it a list")
        return _refuse_unseen(inner)

    visit_collection(list(value), refuse, return_data=False)


def _plain(value: Any) -> Any:
    """Return a plain list for the futures of a map: results need none of its methods."""
    return list(value) if isinstance(value, PrefectFutureList) else value


def _error(state: State[Any]) -> Exception:
    """Return what went wrong in a run, also where it never ran."""
    failed = state.is_failed() or state.is_crashed() or state.is_cancelled()
    # In an async flow it would return a coroutine.
    error = get_state_exception(state, _sync=True) if failed else None  # type: ignore[call-arg]
    return error if isinstance(error, Exception) else RuntimeError(str(state))


@task
def count_stock(shelf: str) -> int:
    """Count what lies on a shelf."""
    if shelf.startswith("locked"):
        raise PermissionError(f"shelf {shelf!r} can't be reached")
    return len(shelf)


@flow
def take_stock(shelves: dict[str, list[str]]) -> Any:
    """Count all shelves of all rooms; the flow fails if one can't be counted."""
    return settle({room: count_stock.map(names) for room, names in shelves.items()})


@flow
def take_stock_and_miss(shelves: dict[str, list[str]]) -> Any:
    """Do the same without `settle`: the flow is Completed whatever happened."""
    return {room: count_stock.map(names) for room, names in shelves.items()}


def main() -> None:
    """Show how the same failure ends a flow with and without `settle`."""
    shelves = {"cellar": ["wine", "locked safe"], "attic": ["toys"]}
    settled: State[Any] = take_stock(shelves, return_state=True)  # type: ignore[assignment]
    missed: State[Any] = take_stock_and_miss(shelves, return_state=True)  # type: ignore[assignment]
    print(f"with settle:    {settled.type.value}")
    print(f"without settle: {missed.type.value}")


if __name__ == "__main__":
    main()
