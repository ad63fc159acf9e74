# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Call tasks, submit tasks, and lose none of their failures.

Problem:
    A task looks like a function, and called directly it is one. Submitted, it runs somewhere
    else, and Prefect 3 forgets it: nobody hears of a failure nobody asks for, and work that is
    still queued when the flow ends is dropped, while the flow is Completed.

Guarantees:
    call: a called task returns what its function returns and raises what it raises, in a flow
        and outside of one.
    plain: `.fn` is the function alone; it runs without Prefect, so no task run is recorded.
    record: a task run is recorded under its templated name, with its tags, its final state and
        the flow run it belongs to.
    inputs: futures among the arguments, also inside lists and dicts, arrive as their values.
    hints: arguments of a task are passed as they are; its type hints are not checked, unlike a
        flow's.
    surface: `submit` raises nothing; `.result()` raises the error that the task raised.
    inspect: with `raise_on_failure=False` or `return_state=True` a failed task gives its error
        or its state, and nothing is raised.
    waited: all that was submitted has run when `wait` returns, however little runs at a time.
    dropped: a flow that does not wait ends Completed though some of its tasks never ran.

Not for:
    Work that needs no retry, no record and no runner: a plain function costs nothing.

Costs:
    Rows `task-call`, `submit` and `map` of the report.

Sources:
    - https://docs.prefect.io/v3/concepts/tasks
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #14018 and #16373: futures that nobody waited for
"""

from __future__ import annotations

from prefect import flow, task
from prefect.futures import wait


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
    """Weigh parcels side by side and return what they cost together."""
    weights = [weigh.submit(parcel) for parcel in parcels]
    return price.submit(weights).result()  # type: ignore[arg-type]  # futures arrive as values


@flow
def weigh_what_can_be(parcels: list[str]) -> list[int | None]:
    """Weigh parcels side by side; None stands for each that could not be weighed."""
    weights = [weigh.submit(parcel) for parcel in parcels]
    wait(weights)
    return [weight.result() if weight.state.is_completed() else None for weight in weights]


def main() -> None:
    """Show a task without Prefect, tasks with it, and a failure that is asked for."""
    print(f"without Prefect: {weigh.fn('book')}")
    print(f"postage: {post(['book', 'lamp', 'piano'])}")
    print(f"weights: {weigh_what_can_be(['book', '', 'piano'])}")


if __name__ == "__main__":
    main()
