# SPDX-License-Identifier: Apache-2.0
"""The runs of this thread's event loop."""

from __future__ import annotations

import asyncio

import pytest
from prefect import flow, task
from prefect.context import FlowRunContext, TaskRunContext

from flowgauge.event_loop import held_up


def test_without_an_event_loop_nothing_is_held_up() -> None:
    """Where no event loop runs, there are no runs to hold up."""
    assert held_up() == {}


@pytest.mark.usefixtures("prefect_server")
def test_runs_of_other_tasks_of_the_loop_are_held_up() -> None:
    """A flow run and its task run beside this code are held up, one that awaits it is not."""
    begun, over = asyncio.Event(), asyncio.Event()
    ids: dict[str, str] = {}

    @task
    async def wait() -> None:
        context = TaskRunContext.get()
        assert context is not None
        ids[str(context.task_run.id)] = "task run"
        begun.set()
        await over.wait()

    @flow
    async def waits() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ids[str(context.flow_run.id)] = "flow run"
        await wait()

    @flow
    async def looks() -> tuple[dict[str, str], dict[str, str]]:
        beside = asyncio.create_task(waits())
        await begun.wait()
        held_up_then = held_up()
        over.set()
        await beside
        return held_up_then, held_up()

    assert asyncio.run(looks()) == (ids, {})
    assert sorted(ids.values()) == ["flow run", "task run"]
