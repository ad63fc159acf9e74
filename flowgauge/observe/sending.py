# SPDX-License-Identifier: Apache-2.0
"""The hooks that note what a process gives to Prefect to send; see `flowgauge.observe.sent`."""

from __future__ import annotations

import contextlib
import functools
from typing import Any
from unittest.mock import patch
from uuid import UUID

from flowgauge.observe.sent import Sent


def sending_hooks(sent: Sent) -> contextlib.ExitStack:
    """Make this process note the logs and events that it gives to Prefect, when that is wanted.

    Args:
        sent: Where to note them. The feature `SENT` of `flowgauge.compat.names` must work here.

    Returns:
        A stack that removes the hooks when closed.
    """
    from prefect import flow_engine
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler, APILogWorker
    from prefect.logging.loggers import flow_run_logger

    stack = contextlib.ExitStack()
    for owner, name, new in (
        (flow_engine, "flow_run_logger", _noted_flow_run(sent, flow_run_logger)),
        (APILogHandler, "prepare", _noted_log(sent, APILogHandler.prepare)),
        (APILogWorker, "max_batch_size", _sent_at_once(sent, APILogWorker.max_batch_size)),
        (EventsWorker, "send", _noted_event(sent, EventsWorker.send)),
    ):
        stack.enter_context(patch.object(owner, name, new))
    return stack


def _noted_flow_run(sent: Sent, stock: Any) -> Any:
    @functools.wraps(stock)
    def flow_run_logger(flow_run: Any = None, *args: Any, **kwargs: Any) -> Any:
        if flow_run is not None:
            sent.note("flow run", str(flow_run.id))
        return stock(flow_run, *args, **kwargs)

    return flow_run_logger


def _noted_log(sent: Sent, stock: Any) -> Any:
    @functools.wraps(stock)
    def prepare(self: Any, record: Any) -> Any:
        log = stock(self, record)
        if sent.wanted:
            flow, task = _run_context()
            names = {
                "task": getattr(record, "task_name", None) or _name(task, "task"),
                "flow": getattr(record, "flow_name", None) or _name(flow, "flow"),
            }
            sent.note("log", {key: value for key, value in log.items() if key[0] != "_"}, **names)
        return log

    return prepare


def _sent_at_once(sent: Sent, stock: Any) -> property:
    def max_batch_size(self: Any) -> int:
        """Return 1 if nothing else waits: Prefect would wait for more, for two seconds."""
        size: int = stock.fget(self)
        return 1 if sent.wanted and self._queue.empty() else size

    return property(max_batch_size)


def _noted_event(sent: Sent, stock: Any) -> Any:
    @functools.wraps(stock)
    def send(self: Any, event: Any) -> None:
        if sent.wanted:
            flow, task = _run_context()
            task_run = getattr(task, "task_run", None)
            flow_run = getattr(flow, "flow_run", None)
            # As Prefect chooses the runs to which it relates the event.
            flow_run_id = getattr(flow_run, "id", None) or getattr(task_run, "flow_run_id", None)
            runs = [flow_run_id, getattr(task_run, "id", None), *_run_of(event)]
            texts = [str(run_id) for run_id in dict.fromkeys(runs) if run_id]
            sent.note("event", str(event.id), name=event.event, runs=texts)
        stock(self, event)

    return send


def _run_context() -> tuple[Any, Any]:
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get(), TaskRunContext.get()


def _name(context: Any, kind: str) -> str:
    return str(getattr(getattr(context, kind, None), "name", ""))


def _run_of(event: Any) -> list[UUID]:
    """Return the run that is the resource of an event, if it is one."""
    for kind in ("prefect.flow-run.", "prefect.task-run."):
        if event.resource.id.startswith(kind):
            with contextlib.suppress(ValueError):
                return [UUID(event.resource.id.removeprefix(kind))]
    return []
