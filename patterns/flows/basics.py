# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Give a flow typed parameters, a name for each run, a log and a result.

Problem:
    A flow is where input from outside comes in: a form, a schedule, another system. What is
    wrong with it should be said before the first task runs, and each run should be found by
    its name. The flow should still be testable as the function it is.

Guarantees:
    coerced: an order arrives as the types that the hints name, converted where Pydantic can, and
        stays as it was checked.
    refused: with an order that can't be converted, or has a field that there is none of, the run
        is Failed before its body begins, and ParameterTypeError is raised, unless
        `return_state=True` asks for the state.
    name: a run has the name that its template gives, with the converted parameters in it.
    log: what the flow logs carries the id and the name of the run.
    twins: `ship` and `ship_async` end the same.

Prefect:
    misfit (3.8, 3.9): a missing or an unknown parameter raises ParameterBindError, whatever
        `return_state` says, and no run is recorded.
    unchecked (3.8, 3.9): with `validate_parameters=False` parameters arrive as they were given.
    result (3.8, 3.9): a flow raises what its body raises and returns what that returns, unless
        it is a state, which is looked into, or a future, of which the state is returned; with
        `return_state=True` it returns the final state, and what the body raises is not raised.
    once (3.8, 3.9): a flow that fails is not run again unless it has `retries`.
    logger (3.8, 3.9): outside of a run there is no logger of the run.
    plain (3.8, 3.9): `.fn` is the function alone: nothing is checked and no run is recorded.

Not for:
    Steps inside a flow: those are tasks, which check no types and cost less.

Costs:
    Row `flow` of the report. With heartbeats on, as they are by default, each sync run takes
    about a second more at its end.

Sources:
    - https://docs.prefect.io/v3/concepts/flows
    - https://docs.prefect.io/v3/how-to-guides/workflows/add-logging
"""

from __future__ import annotations

import asyncio
import json

from prefect import flow, get_run_logger
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel, PositiveInt


class Order(BaseModel, extra="forbid", frozen=True):
    """So many pieces of an article."""

    article: str
    pieces: PositiveInt = 1


@flow(flow_run_name="ship {order.pieces} x {order.article} to {city}")
def ship(order: Order, city: str = "Lyon") -> str:
    """Ship an order and return what was done."""
    get_run_logger().info("packing %s", order.article)
    return f"{order.pieces} x {order.article} shipped to {city}"


@flow(flow_run_name="ship {order.pieces} x {order.article} to {city}")
async def ship_async(order: Order, city: str = "Lyon") -> str:
    """Ship an order and return what was done; the async twin of `ship`."""
    get_run_logger().info("packing %s", order.article)
    return f"{order.pieces} x {order.article} shipped to {city}"


def main() -> None:
    """Show orders as they come from outside: two good ones and a wrong one."""
    print(ship(json.loads('{"article": "lamp", "pieces": "3"}')))
    print(asyncio.run(ship_async(Order(article="book"), city="Porto")))
    try:
        ship(json.loads('{"article": "lamp", "pieces": "none"}'))
    except ParameterTypeError as error:
        print(error)


if __name__ == "__main__":
    main()
