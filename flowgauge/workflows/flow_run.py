# SPDX-License-Identifier: Apache-2.0
"""Reads the record of a flow run from a Prefect server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.compat.server_in_use import server_in_use
from flowgauge.mistake import Mistake
from flowgauge.workflows.recorded import RecordedRun

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, TaskRun

PAGE = 200
"""How many task runs a server returns at most for one request."""
_RECENT, _PAUSE_SECONDS = timedelta(seconds=10), 2.0
"""For how long after the end of a flow run its task runs may be missing, and the time between two
looks."""


def read_flow_run(flow_run_id: str) -> tuple[str, list[RecordedRun]]:
    """Read a flow run from the server that Prefect's settings name.

    Args:
        flow_run_id: The id of the flow run.

    Returns:
        The name of its flow, and its task runs.

    Raises:
        Mistake: If no server is set or it can't be reached, or the flow run is unknown, has not
            ended, or ran no tasks; one line.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        run_id = UUID(flow_run_id)
    except ValueError:
        raise Mistake(
            f"{flow_run_id}: not the id of a flow run; `prefect flow-run ls` lists them"
        ) from None
    with server_in_use("to read from") as client:
        try:
            run = client.read_flow_run(run_id)
        except ObjectNotFound:
            api = str(client.api_url).rstrip("/")
            raise Mistake(f"{api} has no flow run {flow_run_id}") from None
        if run.state is None or not run.state.is_final():
            state = "no state" if run.state is None else f"the state {run.state.name}"
            raise Mistake(f"flow run {run.name!r} has not ended: it has {state}")
        runs = _stored_runs(client, run)
        if not runs:
            raise Mistake(f"flow run {run.name!r} ran no tasks")
        return client.read_flow(run.flow_id).name, runs


def _stored_runs(client: SyncPrefectClient, flow_run: FlowRun) -> list[RecordedRun]:
    """Return the task runs of a flow run that has ended, once the server has stored them.

    A server makes task runs from events, seconds after they happened, and does not know how many
    there will be. So those of a flow run that ended a moment ago are read again until they stay
    the same.
    """
    runs, began = _runs_of(client, flow_run), time.monotonic()
    ended = flow_run.end_time or datetime.now(UTC)
    # Clocks may differ, so the age alone is no limit.
    while datetime.now(UTC) - ended < _RECENT and time.monotonic() - began < _RECENT.seconds:
        # Not `time.sleep`: a test may have made that virtual.
        threading.Event().wait(_PAUSE_SECONDS)
        before, runs = runs, _runs_of(client, flow_run)
        if runs and runs == before:
            break
    return runs


def _runs_of(client: SyncPrefectClient, flow_run: FlowRun) -> list[RecordedRun]:
    """Return the task runs of a flow run, in the order in which they started."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterParentFlowRunId,
    )
    from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

    own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    task_runs: list[TaskRun] = _all_pages(
        partial(client.read_task_runs, flow_run_filter=own, sort=TaskRunSort.ID_DESC)
    )
    inner = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    subflow_runs: list[FlowRun] = _all_pages(
        partial(client.read_flow_runs, flow_run_filter=inner, sort=FlowRunSort.ID_DESC)
    )
    subflows = {run.parent_task_run_id: run for run in subflow_runs}
    in_order = sorted(task_runs, key=lambda run: str(run.start_time or run.created))
    return [_recorded(client, run, subflows.get(run.id)) for run in in_order]


def _all_pages(read: Callable[..., list[Any]]) -> list[Any]:
    """Return everything that a request finds, page by page."""
    found: list[Any] = []
    while len(page := read(limit=PAGE, offset=len(found))) == PAGE:
        found += page
    return found + page


def _recorded(client: SyncPrefectClient, run: TaskRun, subflow: FlowRun | None) -> RecordedRun:
    inputs: dict[str, set[str]] = {"__parents__": set(), "wait_for": set(), "": set()}
    for name, values in run.task_inputs.items():
        ids = {str(each.id) for each in values if each.input_type == "task_run"}
        inputs[name if name in inputs else ""] |= ids
    return RecordedRun(
        str(run.id),
        run.name,
        (run if subflow is None else subflow).total_run_time.total_seconds(),
        reads=frozenset(inputs[""]),
        waits_for=frozenset(inputs["wait_for"]),
        inside=next(iter(inputs["__parents__"]), ""),
        subflow=() if subflow is None else tuple(_runs_of(client, subflow)),
        output_bytes=_stored_bytes(run),
    )


def _stored_bytes(run: TaskRun) -> int:
    """Return the size of a result, if it is stored in a folder of this machine; otherwise 0."""
    from prefect.settings import get_current_settings

    key = getattr(getattr(run.state, "data", None), "storage_key", None)
    if key is None:
        return 0
    # A key in storage that is not the default one is a whole path, or leads to no file here.
    file = get_current_settings().results.local_storage_path / key
    return file.stat().st_size if file.is_file() else 0
