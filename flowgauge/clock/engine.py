# SPDX-License-Identifier: Apache-2.0
"""The hooks of the virtual clock in Prefect's engines."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flowgauge.clock.prefect_time import move_now
from flowgauge.clock.process import ClockProcess, current_run
from flowgauge.clock.sleep import skip_sleep_in
from flowgauge.clock.waits import replace_waits
from flowgauge.compat.features import usable
from flowgauge.compat.names import LOG_TIMES, NOW


def follow_time(home: str) -> None:
    """Make Prefect's `now` return virtual time in a process that runs no tasks or flows.

    Does nothing if this Prefect lacks the name that is needed.

    Args:
        home: The folder of the pytest run.
    """
    if not NOW.missing():
        move_now(ClockProcess(Path(home)).time)


def clock_hooks(process: ClockProcess) -> contextlib.ExitStack:
    """Make the engines in this process wait in virtual time and report their runs to the clock.

    Args:
        process: This process's side of the clock. The feature `VIRTUAL_CLOCK` of
            `flowgauge.compat.names` must work here.

    Returns:
        A stack that removes the hooks when closed.
    """
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
    from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
    from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine

    move_now(process.time)
    stack = contextlib.ExitStack()

    def replace(owner: Any, name: str, new: Any) -> None:
        stack.enter_context(patch.object(owner, name, new))

    replace_waits(process, stack)
    engines: tuple[type, ...] = (SyncTaskRunEngine, FlowRunEngine)
    for engine in engines:
        stock = engine.initialize_run  # type: ignore[attr-defined]
        replace(engine, "initialize_run", _tracked(process, stack, stock))
    engines = (AsyncTaskRunEngine, AsyncFlowRunEngine)
    for engine in engines:
        stock = engine.initialize_run
        replace(engine, "initialize_run", _tracked_async(process, stack, stock))
    if usable(LOG_TIMES, process.home):
        from prefect.logging import handlers
        from prefect.types._datetime import from_timestamp

        replace(handlers, "from_timestamp", _moved(process, from_timestamp))
    replace(PrefectHttpxSyncClient, "send", _counted(process, PrefectHttpxSyncClient.send))
    replace(PrefectHttpxAsyncClient, "send", _counted_async(process, PrefectHttpxAsyncClient.send))
    return stack


def _moved(process: ClockProcess, stock: Callable[[float], Any]) -> Callable[[float], Any]:
    """Return the stock function that makes a time of a timestamp, in virtual time."""
    return lambda timestamp: stock(timestamp + process.time.ahead)


def _describe(engine: Any, arguments: dict[str, Any]) -> tuple[str, str, str, Any]:
    """Return the key, name, kind and function of an engine's run."""
    if hasattr(engine, "flow"):
        known = getattr(engine.flow_run, "id", None)
        return str(known or uuid.uuid4()), engine.flow.name, "flow", engine.flow.fn
    key = arguments.get("task_run_id") or uuid.uuid4()
    return str(key), engine.task.name, "task", engine.task.fn


def _tracked(process: ClockProcess, stack: contextlib.ExitStack, stock: Any) -> Any:
    @contextlib.contextmanager
    def initialize_run(self: Any, **arguments: Any) -> Iterator[Any]:
        if not process.time.running:
            with stock(self, **arguments) as run:
                yield run
            return
        key, name, kind, function = _describe(self, arguments)
        _prepare(process, stack, self, function)
        with process.run(key, name, kind, is_async=False), stock(self, **arguments) as run:
            yield run

    return initialize_run


def _tracked_async(process: ClockProcess, stack: contextlib.ExitStack, stock: Any) -> Any:
    @contextlib.asynccontextmanager
    async def initialize_run(self: Any, **arguments: Any) -> AsyncIterator[Any]:
        if not process.time.running:
            async with stock(self, **arguments) as run:
                yield run
            return
        key, name, kind, function = _describe(self, arguments)
        _prepare(process, stack, self, function)
        with process.run(key, name, kind, is_async=True):
            async with stock(self, **arguments) as run:
                yield run

    return initialize_run


def _prepare(
    process: ClockProcess, stack: contextlib.ExitStack, engine: Any, function: Any
) -> None:
    """Make a flow announce the tasks it submits, and skip `sleep` in its code if enabled."""
    if hasattr(engine, "flow"):
        runner = type(engine.flow.task_runner)
        if not hasattr(runner.submit, "announces"):
            stack.enter_context(patch.object(runner, "submit", _announced(process, runner.submit)))
    if process.time.skips_sleep:
        skip_sleep_in(process, stack, getattr(function, "__globals__", {}))


def _announced(process: ClockProcess, stock: Any) -> Any:
    def submit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not process.time.running:
            return stock(self, *args, **kwargs)
        upstream = _futures_in((args, kwargs))
        with process.submission():
            future = stock(self, *args, **kwargs)
        process.tell(
            about="submit",
            key=str(future.task_run_id),
            parent=current_run.get(),
            upstream=upstream,
            slots=_slots(process, self),
        )
        return future

    submit.announces = True  # type: ignore[attr-defined]
    return submit


def _futures_in(arguments: Any) -> list[str]:
    from prefect.futures import PrefectFuture
    from prefect.utilities.collections import visit_collection

    task_run_ids = []

    def visit(value: Any) -> Any:
        if isinstance(value, PrefectFuture):
            task_run_ids.append(str(value.task_run_id))
        return value

    visit_collection(arguments, visit_fn=visit, return_data=False)
    return task_run_ids


def _slots(process: ClockProcess, runner: Any) -> int | None:
    """Return how many tasks a runner runs at once; None if it does not say."""
    if (workers := getattr(runner, "_max_workers", None)) is not None:
        return int(workers)
    # Imported only by flows that use it, because that takes seconds.
    module: Any = sys.modules.get("prefect_ray.task_runners")
    if module and isinstance(runner, module.RayTaskRunner):
        return int(module.ray.cluster_resources().get("CPU", 1))
    client: Any = getattr(runner, "client", None)
    if not hasattr(client, "nthreads"):
        return None
    if process.slots.get(client) is None:
        process.slots[client] = sum(client.nthreads().values())
    return process.slots[client]


def _counted(process: ClockProcess, stock: Any) -> Any:
    def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with process.request():
            try:
                return stock(self, request, *args, **kwargs)
            finally:
                _tell_change(process, request)

    return send


def _counted_async(process: ClockProcess, stock: Any) -> Any:
    async def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with process.request():
            try:
                return await stock(self, request, *args, **kwargs)
            finally:
                _tell_change(process, request)

    return send


_CHANGES = (
    "/set_state",
    "/create_flow_run",
    "/schedules",
    "/resume",
    "/input",
    "/decrement",
    "/decrement-with-lease",
)
"""How the paths end of POST requests that change what somebody else may wait for."""


def _tell_change(process: ClockProcess, request: Any) -> None:
    path = request.url.path
    if not process.time.running or not (
        request.method in ("PATCH", "DELETE") or path.endswith(_CHANGES)
    ):
        return
    # Most of what becomes of a flow run does not schedule one.
    is_work = "/flow_runs/" not in path or path.endswith("/resume")
    process.tell(about="change", work=is_work or b'"SCHEDULED"' in request.content)
