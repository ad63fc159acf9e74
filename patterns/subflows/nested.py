# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Call a flow in a flow, and keep its work when the outer flow is retried.

Problem:
    A flow called in another one is a run of its own: with its own page, its own task runner
    and its own retries. What ties it to its parent is easy to get wrong: it does not inherit
    the parent's task runner, and when the parent is retried it is run again from the start.

Guarantees:
    child: a subflow's run is recorded as a child of the flow run that called it.
    value: a subflow returns its value to its caller.
    fails: what a subflow raises is raised in its parent, and fails it unless it is caught.
    state: with `return_state=True` the parent gets the state of a failed subflow and goes on.
    futures: futures given as parameters arrive in the subflow as values, checked like others.
    own-runner: a subflow runs its tasks on its own task runner, and on threads if it names
        none, whatever its parent's runner is.
    retry-kept: when the parent is retried, a subflow that had completed is not run again if
        its result is persisted.
    retry-again: without a persisted result it is run again, as a new flow run.

Not for:
    Subflows that should overlap: called in turn, each ends before the next begins. See
    `subflows/side_by_side`.

Costs:
    Row `subflow` of the report, and row `persisted-result`.

Sources:
    - https://docs.prefect.io/v3/concepts/flows#nested-flows
    - Prefect #23152: retries of the parent and of a subflow that had completed
    - Prefect #16059: a flow retry starts from the first task again
"""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.runtime import flow_run


@task
def count_seats(bus: str) -> int:
    """Return how many seats a bus has."""
    return 10 * len(bus)


@flow(persist_result=True)
def book(bus: str, seats: int) -> str:
    """Book all seats of a bus."""
    if not seats:
        raise ValueError(f"bus {bus!r} has no seats")
    return f"{seats} seats in bus {bus!r}, booked by {flow_run.name}"


@flow(retries=1)
def plan_trip(bus: str) -> str:
    """Book a bus; the first attempt fails after that, and the booking is not made twice."""
    seats: Any = count_seats.submit(bus)
    booking: str = book(bus, seats)
    if flow_run.run_count == 1:
        raise ConnectionError("no answer from the hotel")
    return booking


def main() -> None:
    """Show that the retried parent has the booking of its first attempt."""
    print(plan_trip("42"))


if __name__ == "__main__":
    main()
