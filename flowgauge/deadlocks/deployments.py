# SPDX-License-Identifier: Apache-2.0
"""Waits for flow runs of deployments that nobody executes.

Such a wait is certain only if nobody can start a worker meanwhile: no other code of the test, and
no process that the test has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.clock.awaited_run import somebody_on
from flowgauge.clock.outside import code_outside, event_loop_in
from flowgauge.event_loop import awaited_frames
from flowgauge.frames import frames_by_thread, outwards, place_in
from flowgauge.leftovers import processes
from flowgauge.leftovers.pools import WORKER, lasting_processes

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

_WAITS = {
    ("prefect.deployments.flow_runs", "run_deployment"),
    ("prefect.deployments.flow_runs", "arun_deployment"),
    ("prefect.flow_runs", "wait_for_flow_run"),
}
"""The modules and names of the functions that wait for a flow run."""

SERVICE_THREAD = "flowgauge-service-"
"""How the names of the threads of services begin; the name of the deployment or pool follows."""

_LONG = 3600.0
"""Seconds; nobody waits in a test until a longer time limit is over."""


@dataclass(frozen=True)
class VainWait:
    """The wait for a flow run that nobody executes.

    Attributes:
        flow_run: The id of the flow run.
        where: File and line of the code that waits.
    """

    flow_run: str
    where: str


def vain_waits(api_url: str) -> list[VainWait]:
    """Return the waits of this process that nobody will end.

    Args:
        api_url: The address of the API of the Prefect server.

    Returns:
        The waits; none if somebody may still start a worker.
    """
    threads = frames_by_thread()
    in_threads = {t: wait for t, f in threads.items() if (wait := _wait_of(list(outwards(f))))}
    waits = {*in_threads.values(), *_waits_in_loops(threads.values())}
    if not waits or code_outside(in_threads):
        return []
    vain = [wait for wait in waits if not somebody_on(api_url, wait.flow_run, math.inf)]
    # The children last, because that takes long.
    vain = [wait for wait in vain if not _has_service(wait)]
    if not vain or _pool_works(threads, in_threads) or _children():
        return []
    return sorted(vain, key=lambda wait: (wait.where, wait.flow_run))


def end(wait: VainWait) -> str:
    """Cancel the flow run that is waited for, so that the wait ends.

    Args:
        wait: A wait that nobody will end.

    Returns:
        One line that says what is waited for, and what to do.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(wait.flow_run))
        name = _deployment_name(client, run)
        state: State[Any] = Cancelled(message="nobody executes it, and a test waits for it")
        client.set_flow_run_state(run.id, state, force=True)
    return (
        f"flow run {run.name!r}{name and f' of deployment {name!r}'} is waited for ({wait.where}),"
        " but nobody executes it: start one of the fixtures serve and worker before that, or give"
        " the wait a time limit"
    )


def _deployment_name(client: SyncPrefectClient, run: FlowRun) -> str:
    if run.deployment_id is None:
        return ""
    deployment = client.read_deployment(run.deployment_id)
    return f"{client.read_flow(run.flow_id).name}/{deployment.name}"


def _has_service(wait: VainWait) -> bool:
    """Return whether a service of the test executes the flow run, or is about to look for it."""
    from prefect.client.orchestration import get_client

    names = [thread.name.partition(SERVICE_THREAD) for thread in threading.enumerate()]
    services = {name for _, found, name in names if found}
    if not services:
        return False
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(wait.flow_run))
        return bool(services & {run.work_pool_name, _deployment_name(client, run)})


def _pool_works(threads: Mapping[int, FrameType], waiting: Container[int]) -> bool:
    """Return whether a thread of a pool works; it may do for the test what is no code of the test.

    For instance, it may start a service in `asyncio.to_thread`.
    """
    return any(
        thread not in waiting
        and frame.f_code is not WORKER
        and any(outer.f_code is WORKER for outer in outwards(frame))
        for thread, frame in threads.items()
    )


def _children() -> dict[int, str]:
    """Return the processes that tests and fixtures have started, but for idle workers of pools."""
    expected = lasting_processes(processes.nannies())
    return processes.descendants(processes.running() - expected)


def _waits_in_loops(frames: Iterable[FrameType]) -> Iterator[VainWait]:
    """Yield the waits in the event loops of threads, whose innermost frames are given."""
    for loop in filter(None, map(event_loop_in, frames)):
        tasks: set[asyncio.Task[Any]] = set()
        with contextlib.suppress(RuntimeError):  # It changes meanwhile; there is a second look.
            tasks = asyncio.all_tasks(loop)
        for task in tasks:
            if wait := _wait_of(list(awaited_frames(task.get_coro()))[::-1]):
                yield wait


def _wait_of(frames: list[FrameType]) -> VainWait | None:
    """Return the wait in frames, the innermost first, if it has no time limit that matters."""
    for frame in frames:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _WAITS:
            run, limit = frame.f_locals.get("flow_run_id"), frame.f_locals.get("timeout")
            if run is None or (limit is not None and limit < _LONG):
                return None
            return VainWait(str(run), place_in(frames))
    return None
