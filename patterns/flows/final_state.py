# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Let a flow fail when any of its tasks failed, even if its results are nested.

Problem:
    Prefect 3 decides the final state of a flow by what its body returns or raises, and by nothing
    else. It checks the futures in a flat list, but not those in a dict, in a list of lists or next
    to another value: such a flow is Completed although its tasks failed.

Guarantees:
    settled: `settle` returns the results of all futures in the structure in which it received them:
        lists, tuples, sets, dicts, dataclasses and Pydantic models, nested in one another. What
        `map` returned becomes a plain list; in a set, equal results become one, and a result that
        can't be hashed is a TypeError.
    failed: if a future or state in such a structure did not complete, `settle` raises a single
        ExceptionGroup with the error of each run that did not complete, so the flow ends Failed.
    all-waited: before `settle` raises, every task has run to its end, including those after the
        first failure.
    unseen: an iterator or a coroutine, whose futures `settle` would not see, is a TypeError; so is
        a future in a dict view, a deque or a frozenset, or as the key of a dict.
    async: `await settle_async(...)` does the same without blocking the event loop.

Prefect:
    raised (3.8, 3.9): an error that leaves the body, including one raised by `.result()`, fails the
        flow.
    forgotten (3.8, 3.9): failed tasks that are not returned leave the flow Completed, whether they
        were waited for or not.
    flat (3.8, 3.9): a returned future, state, or flat list, tuple or set of only these fails the
        flow unless all of them completed.
    hidden (3.8, 3.9): failed futures in a nested list, in a dict, next to another value or in a
        generator leave the flow Completed.
    explicit (3.8, 3.9): a state that the body creates and returns is the final state of the flow.
    upstream (3.8, 3.9): a returned future of a task that never ran, because the task before it
        failed, fails the flow.
    called (3.8, 3.9): a task that is called, not submitted, after a failed one never runs, returns
        None, and leaves the flow Completed. Submit it and `settle` its future, or call it with
        `return_state=True` and `settle` that.
    allowed (3.8, 3.9): a failure that a later task accepts with `allow_failure` does not count if
        the flow returns that later task's future.

Not for:
    Futures in objects of other classes, which go unnoticed, and in objects that can't be rebuilt
    from their items or fields (`defaultdict`, a dataclass with `init=False`), which are a
    TypeError. Flows that should continue after the first failure: check the state of each future.

Costs:
    Row `flows/final_state` of the report: `settle` compared with a flat list of futures.

Sources:
    - https://docs.prefect.io/v3/concepts/states
    - Prefect #23137: nested lists of failed futures
    - Prefect #14470 and #16373: failures that are not returned
    - Prefect #16848 and #21117: tasks that never ran
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
"""Collections that people put futures in, but `visit_collection` does not look into."""


def settle(work: Any) -> Any:
    """Wait for all futures and return their results, or raise all their errors.

    Args:
        work: Futures, alone or in lists, tuples, sets, dicts, dataclasses and Pydantic models,
            nested in any way and mixed with other values.

    Returns:
        The same structure, with each future replaced by its result.

    Raises:
        ExceptionGroup: If any run did not complete; it holds one error for each of these.
        TypeError: If `work` hides futures from `settle`, or may do so.
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
    """Do what `settle` does in a thread: waiting for futures would block the event loop."""
    return await asyncio.to_thread(settle, work)


def _refuse_unseen(value: object) -> None:
    """Raise a TypeError if a value hides futures from `settle`, or may do so."""
    if isinstance(value, Awaitable):
        raise TypeError(f"a {type(value).__name__} is not looked into: await it first")
    where = f"a {type(value).__name__}"
    if isinstance(value, Iterator | AsyncIterator) and not isinstance(value, list):
        raise TypeError(f"futures in {where} can't be settled: make it a list")
    if isinstance(value, dict):
        where = "the keys of a dict"  # equal results would overwrite each other
    elif not isinstance(value, UNSEEN):
        return

    def refuse(inner: Any) -> Any:
        if isinstance(inner, PrefectFuture | State):
            raise TypeError(f"futures in {where} can't be settled: make it a list")
        return _refuse_unseen(inner)

    visit_collection(list(value), refuse, return_data=False)


def _plain(value: Any) -> Any:
    """Return a plain list in place of a map's list of futures, whose methods results don't need."""
    return list(value) if isinstance(value, PrefectFutureList) else value


def _error(state: State[Any]) -> Exception:
    """Return the error of a run, even if the run never started."""
    failed = state.is_failed() or state.is_crashed() or state.is_cancelled()
    # Without `_sync` this would return a coroutine in an async flow.
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
    """Do the same without `settle`: the flow is Completed whatever happens."""
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
