# SPDX-License-Identifier: Apache-2.0
"""Executes a flow run in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flowgauge.mistake import Mistake
from flowgauge.services.service import Execute, Running

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State


def executes(load: Callable[[FlowRun], Flow[..., Any]]) -> Execute:
    """Return what executes flow runs in this process.

    Args:
        load: Returns the flow of a flow run.

    Returns:
        See `Execute`.
    """

    def execute(run: FlowRun, running: Running) -> State[Any] | None:
        from prefect.flow_engine import run_flow

        flow = load(run)
        with running(flow.isasync):
            state: Any = run_flow(flow, flow_run=run, return_type="state")
            ended: State[Any] | None = asyncio.run(state) if inspect.iscoroutine(state) else state
            return ended

    return execute


def loaded(run: FlowRun) -> Flow[..., Any]:
    """Load the flow of a deployment's flow run, as a worker's process does.

    Args:
        run: The flow run.

    Returns:
        The flow.

    Raises:
        Mistake: If the flow run needs a process of its own.
    """
    from prefect.client.orchestration import get_client
    from prefect.flows import load_flow_from_flow_run

    async def load() -> Flow[..., Any]:
        async with get_client() as client:
            assert run.deployment_id is not None
            deployment = await client.read_deployment(run.deployment_id)
            if variables := {**(deployment.job_variables or {}), **(run.job_variables or {})}:
                raise Mistake(
                    f"flow run {run.name!r} has job variables ({', '.join(sorted(variables))}),"
                    " which need a process of its own: write worker(…, processes=True)"
                )
            with _folder_kept():
                return await load_flow_from_flow_run(run, use_placeholder_flow=False)

    return asyncio.run(load())


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    """Return to the working directory at the end: pull steps change it."""
    before = os.getcwd()
    try:
        yield
    finally:
        os.chdir(before)
