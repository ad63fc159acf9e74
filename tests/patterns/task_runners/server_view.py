# SPDX-License-Identifier: Apache-2.0
"""Everything that the server knows of a flow run, so that two runs can be compared."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from flowgauge.waiting import patience

SETTLED_SECONDS = 60.0
"""How long the server may report different things of two runs before they count as different."""
_PAGE = 200
_DRAWN_BY_LOT = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "<id>"),
    (r"\b[0-9a-f]{32,64}\b", "<hash>"),
    (r"\d{4}-\d\d-\d\d[T ][\d:.]+(Z|\+00:00)?", "<time>"),
    (r"\b\d+\.\d+(e-\d+)?\b", "<seconds>"),
    (r"-[0-9a-f]{3}\b", ""),
)
"""What differs between any two runs: ids, keys, times, the letters that Prefect adds to names."""


Line = tuple[int, str, str]
Event = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Known:
    """What the server knows of a task run, with labels for ids and without random parts.

    Attributes:
        name: Its name, without the letters that Prefect adds.
        tags: Its tags.
        attempts: How often it ran.
        states: Names and messages of its states.
        inputs: The labels of the task runs that it depends on, by parameter.
        logs: Level, logger and text of its log lines, in order.
        events: The names, payloads and related resources of its events, in order.
    """

    name: str
    tags: tuple[str, ...]
    attempts: int
    states: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    logs: tuple[Line, ...]
    events: tuple[Event, ...]


Knowledge = tuple[dict[str, list[Known]], dict[str, tuple[Line, ...]]]


def known(flow_run_id: str, labels: dict[str, str]) -> Knowledge:
    """Ask the server for everything it knows of a flow run, its subflows, and their task runs.

    Args:
        flow_run_id: The flow run.
        labels: Labels of its task runs, by id; the others are labelled with their names.

    Returns:
        Task runs by label, which several may share, and the log lines of the flow runs
        themselves, by flow.
    """
    with get_client(sync_client=True) as client:
        flow_runs = list(_with_subflows(client, uuid.UUID(flow_run_id)))
        lots = [client.read_flow_run(each).name for each in flow_runs]
        runs = [run for each in flow_runs for run in _task_runs(client, each)]
        names = {str(run.id): labels.get(str(run.id), plain(run.name)) for run in runs}
        logs = list(_logs(client, [str(each) for each in flow_runs], lots))
        found: dict[str, list[Known]] = {}
        for run in runs:
            lines = [line for line in logs if line["task_run_id"] == str(run.id)]
            found.setdefault(names[str(run.id)], []).append(
                Known(
                    name=plain(run.name),
                    tags=tuple(sorted(run.tags)),
                    attempts=run.run_count,
                    states=tuple(
                        (state.name or "", plain(state.message or ""))
                        for state in client.read_task_run_states(run.id)
                    ),
                    inputs=tuple(sorted(_inputs(run, names).items())),
                    logs=tuple(map(_line, lines)),
                    events=tuple(_events(client, run)),
                )
            )
        own = {
            f"flow {number}": tuple(
                _line(line)
                for line in logs
                if line["flow_run_id"] == str(each) and not line["task_run_id"]
            )
            for number, each in enumerate(flow_runs)
        }
    return {label: sorted(runs, key=repr) for label, runs in sorted(found.items())}, own


def _with_subflows(client: SyncPrefectClient, flow_run_id: uuid.UUID) -> Iterator[uuid.UUID]:
    yield flow_run_id
    for run in _task_runs(client, flow_run_id):
        if run.state and (child := run.state.state_details.child_flow_run_id):
            yield from _with_subflows(client, child)


def _task_runs(client: SyncPrefectClient, flow_run_id: uuid.UUID) -> list[TaskRun]:
    own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    return client.read_task_runs(flow_run_filter=own)


def _logs(
    client: SyncPrefectClient, flow_run_ids: list[str], names: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the log lines of flow runs, oldest first, without the names that Prefect made up."""
    asked = {"logs": {"flow_run_id": {"any_": flow_run_ids}}, "sort": "TIMESTAMP_ASC"}
    for page in range(0, 2000, _PAGE):
        body = asked | {"offset": page, "limit": _PAGE}
        for line in client.request("POST", "/logs/filter", json=body).json():
            for name in names:
                line["message"] = line["message"].replace(name, "<name>")
            yield line


def _line(line: dict[str, Any]) -> Line:
    return line["level"], line["name"], plain(line["message"])


def _events(client: SyncPrefectClient, run: TaskRun) -> Iterator[Event]:
    asked = {"resource": {"id": [f"prefect.task-run.{run.id}"]}, "order": "ASC"}
    body = {"filter": asked, "limit": 50}
    for event in client.request("POST", "/events/filter", json=body).json()["events"]:
        related = (
            f"{each['prefect.resource.role']} {plain(each['prefect.resource.id'])}"
            for each in event["related"]
        )
        said = plain(json.dumps(event["payload"], sort_keys=True))
        yield event["event"], said, tuple(sorted(related))


def _inputs(run: TaskRun, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {
        parameter: tuple(sorted(names.get(str(getattr(each, "id", "")), "value") for each in given))
        for parameter, given in run.task_inputs.items()
    }


def plain(text: str) -> str:
    """Return a text without random parts and times."""
    for pattern, instead in _DRAWN_BY_LOT:
        text = re.sub(pattern, instead, text)
    return text


def is_whole(found: Knowledge) -> bool:
    """Return whether all runs have logged their end; a subflow's task run logs it elsewhere."""
    runs, own = found
    said = [run.logs for each in runs.values() for run in each if not run.name.startswith("inner")]
    return bool(runs) and all(
        any("Finished in state" in text for *_, text in lines) for lines in [*said, *own.values()]
    )


def settled(theirs: tuple[str, dict[str, str]], ours: tuple[str, dict[str, str]]) -> Any:
    """Ask about two runs until both are complete and the same, or the deadline; return both."""
    deadline = time.monotonic() + patience(SETTLED_SECONDS)
    while True:
        found = known(*theirs), known(*ours)
        if (found[0] == found[1] and is_whole(found[0])) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
