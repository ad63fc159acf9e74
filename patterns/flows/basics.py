# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Give a flow typed parameters, a name for each run, a log and a result.

Problem:
    A flow is where input from outside comes in: from a form, a schedule, another system. Invalid
    input should be reported before the first task runs, and each run should be easy to find by its
    name. The flow should still be testable as a plain function.

Guarantees:
    coerced: an order arrives with the types that the hints name, converted where Pydantic can, and
        can't be changed once validated.
    refused: if an order can't be converted or has an unknown field, the run is Failed before its
        body starts, and ParameterTypeError is raised, unless `return_state=True` returns the state
        instead.
    name: a run gets its name from its template, filled in with the converted parameters.
    log: log lines of the flow carry the id and the name of the run.
    twins: `ship` and `ship_async` end in the same way.

Prefect:
    misfit (3.8, 3.9): a missing or an unknown parameter raises ParameterBindError, whatever
        `return_state` is, and no run is recorded.
    unchecked (3.8, 3.9): with `validate_parameters=False` parameters arrive as they were passed.
    result (3.8, 3.9): a flow raises what its body raises and returns what its body returns, except
        that a returned state is unwrapped and a returned future becomes its state; with
        `return_state=True` the flow returns the final state, and an error of its body is not
        raised.
    once (3.8, 3.9): a flow that fails is not run again unless it has `retries`.
    logger (3.8, 3.9): outside a run there is no run logger.
    plain (3.8, 3.9): `.fn` is the plain function: nothing is checked and no run is recorded.

Not for:
    Steps inside a flow: use tasks, which don't check types and cost less.

Costs:
    Row `flow` of the report. With heartbeats on, which is the default, each sync run takes about a
    second longer to end.

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
    """An order: a number of pieces of one article."""

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
    """Ship orders as they come from outside: two valid ones and an invalid one."""
    print(ship(json.loads('{"article": "lamp", "pieces": "3"}')))
    print(asyncio.run(ship_async(Order(article="book"), city="Porto")))
    try:
        ship(json.loads('{"article": "lamp", "pieces": "none"}'))
    except ParameterTypeError as error:
        print(error)


if __name__ == "__main__":
    main()
