# SPDX-License-Identifier: Apache-2.0
"""The hooks of the virtual clock in Prefect's engines."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import uuid
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flowgauge.clock.prefect_time import move_now
from flowgauge.clock.process import ClockProcess, current_run
from flowgauge.clock.sleep import skip_sleep_in
from flowgauge.compat.features import PrivateName, usable
from flowgauge.compat.names import DEADLINES, NOW, POLLS, UNSKIPPED, UNSKIPPED_WAITS


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

    for polls, names in ((False, DEADLINES), (True, POLLS)):
        for (module_name, sleeper), functions in _by_sleeper(names).items():
            module = importlib.import_module(module_name)
            stock = getattr(module, sleeper)
            sleep = _virtual_sleep(process, stock, functions, polls)
            replace(module, sleeper, _ModuleWith(stock, sleep=sleep))
    if usable(UNSKIPPED_WAITS, process.home):
        for module_name, sleeper, what in UNSKIPPED:
            module = importlib.import_module(module_name)
            stock = getattr(module, sleeper)
            replace(module, sleeper, _ModuleWith(stock, sleep=_reported(process, stock, what)))
    engines: tuple[type, ...] = (SyncTaskRunEngine, FlowRunEngine)
    for engine in engines:
        stock = engine.initialize_run  # type: ignore[attr-defined]
        replace(engine, "initialize_run", _tracked(process, stack, stock))
    engines = (AsyncTaskRunEngine, AsyncFlowRunEngine)
    for engine in engines:
        stock = engine.initialize_run
        replace(engine, "initialize_run", _tracked_async(process, stack, stock))
    replace(PrefectHttpxSyncClient, "send", _counted(process, PrefectHttpxSyncClient.send))
    replace(PrefectHttpxAsyncClient, "send", _counted_async(process, PrefectHttpxAsyncClient.send))
    return stack


def _by_sleeper(names: Iterable[PrivateName]) -> dict[tuple[str, str], set[str]]:
    """Return the waiting functions by module and the module whose `sleep` they call."""
    functions: dict[tuple[str, str], set[str]] = {}
    for name in names:
        functions.setdefault((name.module, name.uses[0]), set()).add(name.last)
    return functions


class _ModuleWith(types.ModuleType):
    """A module with some of its names replaced, as seen by a single importing module."""

    def __init__(self, stock: types.ModuleType, **names: Any) -> None:
        super().__init__(stock.__name__)
        self.__dict__.update(names)
        self._stock = stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


def _virtual_sleep(
    process: ClockProcess, stock: types.ModuleType, functions: Container[str], polls: bool
) -> Callable[[float], Any]:
    """Return a `sleep` that is virtual when called by some functions and stock otherwise."""
    is_async = stock.__name__ != "time"

    def sleep(seconds: float) -> Any:
        caller = sys._getframe(1).f_code.co_name
        if not process.time.running or caller not in functions or seconds <= 0:
            return stock.sleep(seconds)
        if is_async:
            return process.sleep_async(seconds, polls=polls)
        return process.sleep(seconds, polls=polls)

    return sleep


def _reported(process: ClockProcess, stock: types.ModuleType, what: str) -> Callable[[float], Any]:
    """Return the stock `sleep`, wrapped so that it reports its waits to the clock."""

    def sleep(seconds: float) -> Any:
        if process.time.running and seconds >= 1:
            process.tell(about="unskipped", sentence=f"a run that {what}, {seconds:g} s at a time")
        return stock.sleep(seconds)

    return sleep


def _describe(engine: Any, arguments: dict[str, Any]) -> tuple[str, str, str, Any]:
    """Return the key, name, kind and function of an engine's run."""
    if hasattr(engine, "flow"):
        return str(uuid.uuid4()), engine.flow.name, "flow", engine.flow.fn
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
    client: Any = getattr(runner, "client", None)
    if not hasattr(client, "nthreads"):
        return None
    if process.slots.get(client) is None:
        process.slots[client] = sum(client.nthreads().values())
    return process.slots[client]


def _counted(process: ClockProcess, stock: Any) -> Any:
    def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        with process.request():
            return stock(self, *args, **kwargs)

    return send


def _counted_async(process: ClockProcess, stock: Any) -> Any:
    async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        with process.request():
            return await stock(self, *args, **kwargs)

    return send
