# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Run subflows side by side, sync ones on the task runner and async ones in the event loop.

Problem:
    A flow has no `submit`: subflows that are called in turn run in turn, and async ones that
    are awaited in turn do too. Threads of one's own overlap, but on a retry of the parent they
    may be given each other's results (Prefect counts subflows in the order of their calls).

Guarantees:
    overlap: sync subflows started with `submit_flow` run at the same time, as many as the task
        runner has room for.
    gathered: async subflows in `asyncio.gather` run at the same time, as long as they await.
    blocking: an async subflow that blocks (with `.result()` as much as with `time.sleep`) lets
        no other one run meanwhile.
    in-turn: stock: sync subflows that are called one after the other never overlap.
    order: results come in the order of the calls, whichever subflow ends first.
    failures: when one subflow fails, the others run to their end and their results are kept.
    family: each subflow's run is recorded as a child of the flow run that started it.

Not for:
    Many small pieces of work: a subflow costs several times what a task does. More subflows
    than the runner has workers, each of which submits to the same Dask cluster: they may wait
    for each other forever.

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
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.flows import Flow
from prefect.futures import PrefectFuture

R = TypeVar("R")


@task(cache_policy=NO_CACHE)
def run_flow(subflow: Flow[..., Any], parameters: dict[str, Any]) -> Any:
    """Call a flow from a task: a subflow of the flow that submitted the task."""
    return subflow(**parameters)


def submit_flow(subflow: Flow[..., R], **parameters: Any) -> PrefectFuture[R]:
    """Start a sync flow on the task runner of the flow that is running.

    Args:
        subflow: The flow to start.
        parameters: Its parameters; futures among them are resolved.

    Returns:
        The future of its value.
    """
    return run_flow.with_options(task_run_name=subflow.name).submit(subflow, parameters)


@flow
def survey(island: str) -> str:
    """Survey an island."""
    if not island:
        raise ValueError("an island without a name is on no map")
    return f"map of {island}"


@flow
async def survey_by_radio(island: str) -> str:
    """Survey an island where all the time goes into waiting for answers."""
    await asyncio.sleep(0)
    return f"map of {island}"


@flow
def survey_all(islands: list[str]) -> list[str | None]:
    """Survey islands side by side; None stands for each that failed."""
    surveys = [submit_flow(survey, island=island) for island in islands]
    outcomes = [each.result(raise_on_failure=False) for each in surveys]
    return [None if isinstance(outcome, Exception) else outcome for outcome in outcomes]


@flow
async def survey_all_by_radio(islands: list[str]) -> list[str | None]:
    """Survey islands side by side in one event loop; None stands for each that failed."""
    surveys = [survey_by_radio(island) for island in islands]
    outcomes = await asyncio.gather(*surveys, return_exceptions=True)
    return [None if isinstance(outcome, BaseException) else outcome for outcome in outcomes]


def main() -> None:
    """Show both ways."""
    print(survey_all(["Skye", "", "Mull"]))
    print(asyncio.run(survey_all_by_radio(["Skye", "Mull"])))


if __name__ == "__main__":
    main()
