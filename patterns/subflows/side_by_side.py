# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Run subflows side by side, sync ones on the task runner and async ones in the event loop.

Problem:
    A flow has no `submit`: subflows that are called one after the other run one after the other. In
    threads that you start yourself they overlap, but a retry of the parent runs all of them again,
    or, if their results are persisted, gives one the result of another.

Guarantees:
    overlap: sync subflows started with `submit_flow` run at the same time, as many as the task
        runner has room for.
    gathered: async subflows started with `start_flow` in `asyncio.gather` run at the same time,
        as long as they await.
    order: results come in the order of the calls, whichever subflow ends first.
    failures: when one subflow fails, the others run to their end; its error appears among their
        results.
    family: each subflow's run is recorded as a child of the flow run that started it.
    parameters: a subflow's parameters may have any names; futures among them arrive as values.
    refused: passing an async flow to `submit_flow`, or a sync one to `start_flow`, is a TypeError.
    retry-kept: when the parent is retried, a completed subflow is not run again if a call has the
        same parameters as before (and calls with futures come in the same order).
    retry-own: a call gets the result that this flow run had from a call of the same flow with the
        same parameters, in whatever order the retry makes its calls; of several equal calls each
        gets its own result.

Prefect:
    in-turn (3.8, 3.9): sync subflows that are called one after the other never overlap.
    blocking (3.8, 3.9): an async subflow that blocks (with `.result()` just as with `time.sleep`)
        lets no other one run meanwhile.

Not for:
    Many small pieces of work: a subflow costs several times what a task does. More subflows than
    the task runner has workers, each of which submits to the same Dask cluster: they may wait for
    each other forever. Futures that nobody waits for: subflows that have not started when the flow
    ends are dropped. Calls inside tasks: on processes and Dask each task counts its equal calls
    separately. Subflows that depend on more than their parameters, as closures and methods do.
    Parameters or results that can't be pickled, or pickle differently each time: their subflows run
    again. A call that is repeated in the same attempt because it failed: it counts as another call,
    so give the subflow `retries`. Retries on another machine, unless the result storage is shared,
    and retries of an outer flow, which start this one anew.

Costs:
    Row `subflows/side_by_side` of the report: one task and one subflow for each call.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-work-concurrently
    - Prefect #15415: subflows that run one after the other
    - Prefect #6689: there is no `Flow.submit`
    - Prefect #22259: subflows in threads that get each other's results on a retry
"""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Coroutine
from hashlib import sha256
from typing import Any, TypeVar

from prefect import flow, task
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flows import Flow
from prefect.futures import PrefectFuture
from prefect.utilities.collections import visit_collection
from prefect.utilities.hashing import hash_objects

R = TypeVar("R")


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


def key_of_call(context: TaskRunContext, given: dict[str, Any]) -> str | None:
    """Return a cache key of flow run, call and parameters, or None if these have no hash."""
    values = key_of(given["parameters"])
    return values and f"{context.task_run.flow_run_id}-{given['call']}-{values}"


@task(cache_key_fn=key_of_call, persist_result=True)
def run_flow(subflow: Flow[..., Any], parameters: dict[str, Any], call: str) -> Any:
    """Call a flow from a task; it becomes a subflow of the flow that submitted the task."""
    return subflow(**parameters)


@task(cache_key_fn=key_of_call, persist_result=True)
async def run_async_flow(subflow: Flow[..., Any], parameters: dict[str, Any], call: str) -> Any:
    """Call an async flow from a task."""
    return await subflow(**parameters)


def submit_flow(subflow: Flow[..., R], /, **parameters: Any) -> PrefectFuture[R]:
    """Start a sync flow on the task runner of the flow that is running.

    Args:
        subflow: The flow to start.
        **parameters: Its parameters; futures among them are resolved.

    Returns:
        A future of its result.

    Raises:
        TypeError: If the flow is async.
    """
    if subflow.isasync:
        raise TypeError(f"flow {subflow.name!r} is async: call start_flow")
    run = run_flow.with_options(task_run_name=subflow.name)
    return run.submit(subflow, parameters, _nth_call(subflow, parameters))


def start_flow(
    subflow: Flow[..., Coroutine[Any, Any, R]], /, **parameters: Any
) -> Coroutine[Any, Any, R]:
    """Return a coroutine that runs an async flow in the event loop when it is awaited.

    Args:
        subflow: The flow to run.
        **parameters: Its parameters.

    Returns:
        A coroutine that returns the flow's result.

    Raises:
        TypeError: If the flow is not async.
    """
    if not subflow.isasync:
        raise TypeError(f"flow {subflow.name!r} is not async: call submit_flow")
    run = run_async_flow.with_options(task_run_name=subflow.name)
    return run(subflow, parameters, _nth_call(subflow, parameters))


def _nth_call(subflow: Flow[..., Any], parameters: dict[str, Any]) -> str:
    """Identify a call by its flow, its parameters and its number among equal calls of this run."""
    run = FlowRunContext.get()
    if run is None:
        raise RuntimeError("start subflows inside a flow")
    # The result of a future is not known yet, and its id changes with each attempt.
    known = visit_collection(
        parameters, lambda each: isinstance(each, PrefectFuture) or each, return_data=True
    )
    call = str(key_of((subflow.name, hash_objects(subflow.fn.__code__), known)))
    counts = run.task_run_dynamic_keys  # Prefect's own counters, which start anew in a retry
    counts[call] = int(counts.get(call, 0)) + 1
    return f"{call}-{counts[call]}"


@flow
def survey(island: str) -> str:
    """Survey an island."""
    if not island:
        raise ValueError("an island without a name is on no map")
    return f"map of {island}"


@flow
async def survey_by_radio(island: str) -> str:
    """Survey an island, spending all the time waiting for answers."""
    await asyncio.sleep(0)
    if not island:
        raise ValueError("an island without a name has no call sign")
    return f"map of {island}"


@flow
def survey_all(islands: list[str]) -> list[str | Exception]:
    """Survey islands side by side; return an error for each survey that failed."""
    surveys = [submit_flow(survey, island=island) for island in islands]
    return [each.result(raise_on_failure=False) for each in surveys]


@flow
async def survey_all_by_radio(islands: list[str]) -> list[str | BaseException]:
    """Survey islands side by side in one event loop; return an error for each that failed."""
    surveys = [start_flow(survey_by_radio, island=island) for island in islands]
    return await asyncio.gather(*surveys, return_exceptions=True)


def main() -> None:
    """Survey islands with sync subflows, then with async ones."""
    print(survey_all(["Skye", "", "Mull"]))
    print(asyncio.run(survey_all_by_radio(["Skye", "Mull"])))


if __name__ == "__main__":
    main()
