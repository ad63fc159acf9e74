# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Call a flow in a flow, and keep its work when the outer flow is retried.

Problem:
    A retried flow runs its subflows again. With `persist_result=True` on a subflow Prefect keeps
    its results, but looks them up by the order of the calls: a retry that calls with other
    parameters, or in another order, gets the results of other calls, without an error.

Guarantees:
    retry-kept: when the parent is retried, a completed subflow that was called through `book_once`
        is not run again if a call has the same parameters as before.
    retry-own: a call gets the result that this flow run had from a call with the same parameters,
        in whatever order the retry makes its calls; of several equal calls each gets its own
        result, even if one of them failed and was made again.
    retry-failed: a failed subflow is run again, also when its task is retried, and so is a subflow
        whose parameters or result can't be pickled.
    async: an async subflow in an async task with the same cache key function is kept in the same
        way, even when started by `asyncio.gather`.
    child: each subflow is a separate flow run, recorded as a child of the flow that called it.

Prefect:
    order (3.8, 3.9): persisted results of subflows that the flow calls directly are matched by the
        order of the calls; the parameters are not compared.
    retry-again (3.8, 3.9): without a persisted result a subflow is run again, as a new run.
    fails (3.8, 3.9): what a subflow raises is raised in its parent, and fails it unless caught.
    state (3.8, 3.9): with `return_state=True` the parent gets the state of a failed subflow and
        goes on.
    futures (3.8, 3.9): futures passed as parameters arrive in the subflow as values, which are
        validated like others.
    own-runner (3.8, 3.9): a subflow runs its tasks on its own task runner, or on threads if it
        names none, whatever its parent's task runner is.

Not for:
    Subflows that should overlap: see `subflows/side_by_side`. `book_once.submit`: equal calls are
    counted where the task runs, not where it is submitted. Retries of an outer flow, which start
    this one anew. A retry on another machine, unless the result storage is shared. Subflows, and
    tasks that call them, that depend on more than their parameters, as closures and methods do. A
    manual retry after the file was changed, even by a line above the task: all subflows run again.
    Parameters that pickle differently each time (in another process, a set or a Pydantic model,
    which contains one; a dict in another order): their subflows run again.

Costs:
    Row `subflow` of the report, and row `persisted-result`.

Sources:
    - https://docs.prefect.io/v3/concepts/flows#nested-flows
    - Prefect #22259 and #18601: subflows that get each other's results or parameters on a retry
    - Prefect #16059: a flow retry starts from the first task again
"""

from __future__ import annotations

import io
import pickle
from hashlib import sha256
from typing import Any

from prefect import flow, task
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import flow_run


def key_of(value: object) -> str | None:
    """Return a hash of a value's contents and types, or None if it can't be pickled."""
    pickled = io.BytesIO()
    pickler = pickle.Pickler(pickled, protocol=5)
    # Otherwise one string twice in a list would hash differently from the string and a copy.
    pickler.fast = True
    try:
        pickler.dump(value)
    except Exception:  # a class may raise anything when it is pickled
        return None
    return sha256(pickled.getvalue()).hexdigest()


def nth_equal_call(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """Return a cache key for the first, second, … call of a task with these parameters.

    Args:
        context: The context of the task run.
        parameters: The parameters of the call.

    Returns:
        The key, or None, so that nothing is kept, if there is no flow run or no hash.
    """
    run = FlowRunContext.get()
    call = key_of((context.task.task_key, parameters))
    if run is None or call is None:
        return None
    # Stored among Prefect's own counters, which start anew in a retry.
    runs: Any = run.task_run_dynamic_keys.setdefault(call, [])  # type: ignore[arg-type]
    # A retry of the task keeps the place of its first attempt.
    mine = [each.id == context.task_run.id for each in runs]
    # A call that failed leaves its place to the next equal one.
    failed = [each.state.is_final() and not each.state.is_completed() for each in runs]
    place = [*(mine if any(mine) else failed), True].index(True)
    runs[place : place + 1] = [context.task_run]
    return f"{context.task_run.flow_run_id}-{call}-{place}"


@flow
def book(bus: str, seats: int) -> str:
    """Book seats of a bus."""
    if not seats:
        raise ValueError(f"bus {bus!r} has no seats")
    return f"{seats} seats in bus {bus!r}, booked by {flow_run.name}"


@task(cache_key_fn=nth_equal_call, persist_result=True)
def book_once(bus: str, seats: int) -> str:
    """Call the subflow, unless an earlier attempt of the flow has made this call."""
    return book(bus, seats)


@flow(retries=1)
def plan_trip(buses: list[str]) -> list[str]:
    """Book buses; the first attempt then fails, and the second books them in reverse order."""
    first = flow_run.run_count == 1
    bookings = [book_once(bus, 10) for bus in (buses if first else reversed(buses))]
    print(f"attempt {flow_run.run_count}: {bookings}")
    if first:
        raise ConnectionError("no answer from the hotel")
    return bookings


def main() -> None:
    """Show that the second attempt reuses the bookings of the first."""
    plan_trip(["42", "7"])


if __name__ == "__main__":
    main()
