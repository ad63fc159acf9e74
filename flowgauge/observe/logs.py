# SPDX-License-Identifier: Apache-2.0
"""What was logged in a flow run, on any task runner."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from re import Pattern
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.observe.runs import Patience, Reader, RunStates, flow_runs_below, states_of
from flowgauge.observe.search import Search, searched
from flowgauge.observe.sent import Sent, SentLog, identity, lives

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log

_PAGE = 200
"""The number of log lines that the API returns at most, by default."""
_LAST_LINE = "Finished in state "
"""How the last line begins that Prefect logs in a flow run."""


@dataclass(frozen=True)
class LogLine:
    """A line that was logged in a flow run or task run.

    Attributes:
        time: When; virtual if the test uses the virtual clock.
        level: For instance "WARNING".
        message: The text.
        logger: The logger's name, for instance "prefect.task_runs".
        task: The name of the task, or "" if the line is the flow's own.
        flow: The name of the flow, or "" if a task ran without one.
        run_id: The id of the task run, or of the flow run if the line is the flow's own.
    """

    time: datetime
    level: str
    message: str
    logger: str
    task: str
    flow: str
    run_id: UUID

    def __contains__(self, text: str) -> bool:
        """Return whether a text is in the message."""
        return text in self.message

    def __str__(self) -> str:
        """Return the level, the task or flow, and the message."""
        return f"{self.level:8} {self.task or self.flow}: {self.message}"


@dataclass(frozen=True)
class Logs:
    """The lines that were logged in a run, first to last.

    Attributes:
        run: A readable description of the run.
        lines: The lines.
    """

    run: str
    lines: tuple[LogLine, ...]

    def contains(
        self,
        text: str | Pattern[str],
        *,
        level: str | None = None,
        task: str | None = None,
        flow: str | None = None,
    ) -> Search:
        """Search for a line.

        Args:
            text: A part of its message, or a pattern that matches some of it.
            level: Its level, for instance "WARNING".
            task: The name of its task; "" for a line that is the flow's own.
            flow: The name of its flow.

        Returns:
            A result to `assert`: falsy if there is no such line, and it says which there are.
        """
        named = {"level": level, "task": task, "flow": flow}
        criteria = {name: value for name, value in named.items() if value is not None}
        checked = []
        for line in self.lines:
            said = text in line.message if isinstance(text, str) else text.search(line.message)
            holds = {"message": bool(said)}
            holds |= {name: getattr(line, name) == value for name, value in criteria.items()}
            checked.append((line.message, holds))
        what = repr(text) if isinstance(text, str) else f"match of {text.pattern!r}"
        with_these = "".join(f", {name} {value!r}" for name, value in criteria.items())
        wanted = f"line with {what}{with_these}"
        return searched("logs", self.run, self.lines, wanted, text, checked)

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.lines)

    def __iter__(self) -> Iterator[LogLine]:
        """Return the lines, first to last."""
        return iter(self.lines)

    def __str__(self) -> str:
        """Return the lines as text."""
        return "\n".join(map(str, self.lines))


class LogsError(LookupError):
    """A run whose logs can't be read; the one-line message says why and what to do."""


_READER = Reader("run_logs", LogsError)


def read_logs(run: Any, sent: Sent, *, timeout: float | None = None) -> Logs:
    """Read what was logged in a run, once all of it has reached the server.

    A process that is killed loses what it had not sent.

    Args:
        run: A flow run or task run, its id, one of its states, or a future. Of a flow run, the
            logs of its task runs and subflow runs, and theirs, are included.
        sent: What the processes of this pytest run sent.
        timeout: Seconds to wait for the run to end and for the logs; by default a minute,
            multiplied by the environment variable `FLOWGAUGE_PATIENCE` if it is set.

    Returns:
        The logs.

    Raises:
        LogsError: If `run` is not a run, or its logs do not reach the server in time.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED

    wait = Patience(timeout)
    with get_client(sync_client=True) as client:
        ended = states_of(client, run, _READER, wait)
        marker: UUID | None = None
        while True:
            flow_runs = flow_runs_below(client, ended.id) if ended.kind == "flow" else []
            # Before the server's, so that none is logged in between.
            noted = sent.logs([run.id for run in flow_runs] or [ended.id])
            stored = _stored(client, ended, flow_runs)
            missing = _missing(noted, stored)
            unheard = _unheard(flow_runs, sent, stored)
            lost = [log for log in missing if not lives(log.pid)]
            if len(lost) == len(missing) and not unheard:
                # What a process pool's worker logged before it ended is sent by this process.
                if not lost or (marker and _read(client, "flow_run_id", [marker])):
                    break
                marker = marker or _send_marker()
            if wait.over:
                raise _READER.refuse(_why_not(ended, missing, unheard, wait))
            wait.pause()
        if not stored and not PREFECT_LOGGING_TO_API_ENABLED.value():
            raise _READER.refuse(
                "PREFECT_LOGGING_TO_API_ENABLED is false, so no logs reach the server; set it to"
                " true in tests that read logs"
            )
        return Logs(str(ended), _lines(client, stored, noted, flow_runs))


def _stored(client: SyncPrefectClient, ended: RunStates, flow_runs: list[FlowRun]) -> list[Log]:
    if ended.kind == "task":
        return _read(client, "task_run_id", [ended.id])
    return _read(client, "flow_run_id", [run.id for run in flow_runs])


def _read(client: SyncPrefectClient, kind: str, run_ids: list[UUID]) -> list[Log]:
    from prefect.client.schemas.filters import LogFilter
    from prefect.client.schemas.sorting import LogSort

    found: dict[UUID, Log] = {}
    wanted = LogFilter.model_validate({kind: {"any_": run_ids}})
    offset = 0
    while page := client.read_logs(wanted, _PAGE, offset, LogSort.TIMESTAMP_ASC):
        found |= {log.id: log for log in page}
        offset += len(page)
        if len(page) < _PAGE:
            break
    return list(found.values())


def _identity(log: Log) -> tuple[Any, ...]:
    times = (log.timestamp, log.level, log.name, log.message)
    return identity(log.flow_run_id, log.task_run_id, *times)


def _missing(noted: list[SentLog], stored: list[Log]) -> list[SentLog]:
    there = Counter(map(_identity, stored))
    missing = []
    for log in noted:
        if there[log.line]:
            there[log.line] -= 1
        else:
            missing.append(log)
    return missing


def _unheard(flow_runs: list[FlowRun], sent: Sent, stored: list[Log]) -> list[FlowRun]:
    """Return the flow runs that may log more, for all that can be known from their last lines."""
    heard = sent.flow_runs()
    last = {log.flow_run_id for log in stored if log.message.startswith(_LAST_LINE)}
    return [
        run
        for run in flow_runs
        if run.id not in heard | last and run.state_name in {"Completed", "Failed"}
    ]


def _send_marker() -> UUID:
    """Send a line of no run, behind all that this process has to send, and return where it is."""
    from prefect.client.schemas.actions import LogCreate
    from prefect.logging.handlers import APILogWorker
    from prefect.types._datetime import now

    marker = uuid.uuid4()
    line = {"name": "flowgauge", "level": logging.DEBUG, "message": "", "timestamp": now()}
    log = LogCreate.model_validate({**line, "flow_run_id": marker})
    APILogWorker.instance().send(log.model_dump(mode="json"))
    return marker


def _why_not(
    ended: RunStates, missing: list[SentLog], unheard: list[FlowRun], wait: Patience
) -> str:
    if missing:
        return (
            f"{len(missing)} lines of {ended} did not reach the server within {wait.seconds:g} s,"
            f" such as {missing[0].line[-1]!r:.80}; if the server's log shows no error, wait"
            " longer with timeout="
        )
    run = unheard[0]
    return (
        f"the last line of flow run {run.id} ({_LAST_LINE}…) was not there within"
        f" {wait.seconds:g} s; it ran before a test asked for run_logs or in a process that"
        " flowgauge did not start: ask for run_logs first, and there log at level INFO"
    )


def _lines(
    client: SyncPrefectClient, stored: list[Log], noted: list[SentLog], flow_runs: list[FlowRun]
) -> tuple[LogLine, ...]:
    """Return the lines in the order in which they were logged."""
    by_identity: dict[tuple[Any, ...], list[SentLog]] = {}
    for sent in noted:
        by_identity.setdefault(sent.line, []).append(sent)
    names = _Names(client, flow_runs)
    lines = []
    for log in stored:
        same = by_identity.get(_identity(log), [])
        sent_log = same.pop(0) if same else None
        task, flow = (sent_log.task, sent_log.flow) if sent_log else names.of(log)
        run_id = log.task_run_id or log.flow_run_id
        assert run_id is not None
        level = logging.getLevelName(log.level)
        task = task if log.task_run_id else ""
        line = LogLine(log.timestamp, level, log.message, log.name, task, flow, run_id)
        lines.append((log.timestamp, sent_log.place if sent_log else 0, line))
    return tuple(line for *_, line in sorted(lines, key=lambda entry: entry[:2]))


class _Names:
    """The names of tasks and flows that ran in processes which note nothing."""

    def __init__(self, client: SyncPrefectClient, flow_runs: list[FlowRun]) -> None:
        self._client = client
        self._flow_ids = {run.id: run.flow_id for run in flow_runs}
        self._names: dict[UUID, str] = {}

    def of(self, log: Log) -> tuple[str, str]:
        """Return the names of a line's task and flow; "" for what the server does not know."""
        return self._task(log.task_run_id), self._flow(log.flow_run_id)

    def _task(self, run_id: UUID | None) -> str:
        from prefect.exceptions import ObjectNotFound

        if run_id is not None and run_id not in self._names:
            try:
                # Prefect appends a part of the run's key to the name of its task.
                name = self._client.read_task_run(run_id).name.rpartition("-")[0]
            except ObjectNotFound:
                name = ""
            self._names[run_id] = name
        return self._names[run_id] if run_id else ""

    def _flow(self, run_id: UUID | None) -> str:
        flow_id = self._flow_ids.get(run_id) if run_id else None
        if flow_id is None:
            return ""
        if flow_id not in self._names:
            self._names[flow_id] = self._client.read_flow(flow_id).name
        return self._names[flow_id]
