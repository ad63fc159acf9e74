# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Call tasks, submit tasks, and lose none of their failures.

Problem:
    A task looks like a function, and when it is called directly it behaves like one. When it is
    submitted, it runs somewhere else, and Prefect 3 forgets it: a failure goes unnoticed unless
    somebody asks for the result, and work that is still queued when the flow ends is dropped,
    although the flow is Completed.

Guarantees:
    record: each weighing is recorded under its templated name, with its tags, its final state and
        the flow run it belongs to.
    postage: `post` returns the total postage of all parcels, or raises the error that says why one
        could not be weighed.
    kept: `weigh_what_can_be` returns, in the order of the parcels, the weight of each one or the
        error that says why it could not be weighed.
    async: `post_async` does what `post` does; `result_of` waits without blocking the event loop.

Prefect:
    call (3.8, 3.9): a called task returns what its function returns and raises what it raises,
        inside and outside a flow.
    plain (3.8, 3.9): `.fn` is the plain function; it runs without Prefect, so no task run is
        recorded.
    inputs (3.8, 3.9): futures among the arguments, including those inside lists and dicts, arrive
        as their values.
    hints (3.8, 3.9): arguments of a task are passed as they are; its type hints are not
        checked, unlike a flow's.
    upstream (3.8, 3.9): a task that receives the future of a failed one never runs; `.result()`, or
        `submit` on a process pool, raises an error that does not say why.
    surface (3.8, 3.9): `submit` does not raise what the task raises; `.result()` does.
    inspect (3.8, 3.9): with `raise_on_failure=False` or `return_state=True` the error or the state
        of a failed task is returned, and nothing is raised.
    waited (3.8, 3.9): `wait` without a timeout returns when all tasks passed to it have run.
    dropped (3.8, 3.9): a flow that does not wait ends Completed although some of its tasks never
        ran.
    blocking (3.8, 3.9): `.result()` in an async flow blocks the event loop until the task ends.

Not for:
    Work that needs no retries, no record and no task runner: a plain function costs nothing.

Costs:
    Rows `task-call`, `submit` and `map` of the report.

Sources:
    - https://docs.prefect.io/v3/concepts/tasks
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #14018 and #16373: futures that nobody waited for
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from prefect import flow, task
from prefect.futures import PrefectFuture

R = TypeVar("R")


@task(task_run_name="weigh {parcel}", tags=["post"])
def weigh(parcel: str) -> int:
    """Return the weight of a parcel."""
    if not parcel:
        raise ValueError("there is no parcel on the scales")
    return len(parcel)


@task
def price(weights: list[int]) -> int:
    """Return the postage for parcels of these weights."""
    return 2 * sum(weights)


@flow
def post(parcels: list[str]) -> int:
    """Weigh parcels side by side and return their total postage."""
    weights = [weigh.submit(parcel) for parcel in parcels]
    for weight in weights:
        weight.result()  # raises the reason; the error from `price` would not give it
    return price.submit(weights).result()  # type: ignore[arg-type]  # futures arrive as values


@flow
def weigh_what_can_be(parcels: list[str]) -> list[int | Exception]:
    """Weigh parcels side by side; return an error for each one that could not be weighed."""
    weights = [weigh.submit(parcel) for parcel in parcels]
    return [weight.result(raise_on_failure=False) for weight in weights]


async def result_of(future: PrefectFuture[R]) -> R:
    """Return the result of a future, waiting in a thread so as not to block the event loop."""
    return await asyncio.to_thread(future.result)


@flow
async def post_async(parcels: list[str]) -> int:
    """Do what `post` does without blocking the event loop."""
    weights = [weigh.submit(parcel) for parcel in parcels]
    for weight in weights:
        await result_of(weight)
    return await result_of(price.submit(weights))  # type: ignore[arg-type]


def main() -> None:
    """Run a task without Prefect, tasks with it, and a flow that returns a failure as a value."""
    print(f"without Prefect: {weigh.fn('book')}")
    print(f"postage: {post(['book', 'lamp', 'piano'])}")
    print(f"postage: {asyncio.run(post_async(['book', 'lamp']))}")
    print(f"weights: {weigh_what_can_be(['book', '', 'piano'])}")


if __name__ == "__main__":
    main()
