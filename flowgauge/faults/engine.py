# SPDX-License-Identifier: Apache-2.0
"""Where faults meet Prefect's task engine: the only place that knows its private names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch

import prefect
from prefect._internal.compatibility.blocks import call_explicitly_sync_block_method
from prefect._internal.result_records import ResultRecord
from prefect.events.worker import EventsWorker
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from prefect.transactions import AsyncTransaction, Transaction

from flowgauge.faults.connection import Connection
from flowgauge.faults.plan import (
    Crash,
    Fail,
    FailSometimes,
    Fault,
    FaultRefused,
    LoseConnection,
    Moment,
    Slow,
    describe,
)
from flowgauge.faults.process import FaultProcess

DELIVERY = 10.0
"""Seconds that Prefect has to send off what was there before a crash."""

_NEVER_HEARD_OF = (
    "on the runner processes an error that leaves Prefect's engine stops the pool, and whoever"
    " waits for the task waits for ever; use the other runners, or another point"
)


class FaultsError(RuntimeError):
    """An engine that faults can't reach; one line says why."""


class _Refusal(BaseException):
    """Leaves Prefect's engine without being retried; outside it is an ordinary error."""


def hooks(process: FaultProcess) -> contextlib.ExitStack:
    """Let faults strike in the task runs of this process.

    Args:
        process: This process's side of the faults.

    Returns:
        What takes the hooks away again when it is closed.

    Raises:
        FaultsError: If this Prefect has no such engine.
    """
    points = _Points(process)
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(points.connection.hooks())
        for owner, name, new in (
            (SyncTaskRunEngine, "start", _refusing),
            (AsyncTaskRunEngine, "start", _refusing_async),
            (SyncTaskRunEngine, "transaction_context", _before_body),
            (AsyncTaskRunEngine, "transaction_context", _before_body_async),
            (SyncTaskRunEngine, "handle_success", _after_effect),
            (AsyncTaskRunEngine, "handle_success", _after_effect_async),
            (SyncTaskRunEngine, "call_hooks", _after_completion),
            (AsyncTaskRunEngine, "call_hooks", _after_completion_async),
            (Transaction, "commit", _after_storing),
            (AsyncTransaction, "commit", _after_storing_async),
        ):
            stack.enter_context(patch.object(owner, name, new(points, getattr(owner, name))))
    except AttributeError as error:
        stack.close()
        raise FaultsError(
            f"faults do not know the engine of Prefect {prefect.__version__} ({error}); they were"
            " made for Prefect 3.8"
        ) from None
    return stack


class _Points:
    """Lets faults strike at the points of a task run."""

    def __init__(self, process: FaultProcess) -> None:
        self.process = process
        self.connection = Connection(process)

    def strike(self, engine: Any, at: Moment) -> Iterator[float]:
        """Strike, and yield the seconds to wait for each fault that only takes time."""
        for fault in self.due(engine, at):
            match fault.effect:
                case Slow(seconds):
                    yield seconds
                case Fail() | FailSometimes() if at == "after completion" and _pool_queue():
                    self.process.refuse(f"{fault.call}: {_NEVER_HEARD_OF}")
                case Fail(error=error) | FailSometimes(error=error):
                    raise pickle.loads(error)
                case LoseConnection(requests):
                    # Else what happened before would be what fails.
                    _deliver_events()
                    self.connection.lose(requests)
                case Crash():
                    self._crash(fault)

    def due(self, engine: Any, at: Moment) -> list[Fault]:
        return self.process.due(
            engine.task.name, at, str(engine.task_run.id), lambda: _subject(engine)
        )

    def wait(self, engine: Any, at: Moment) -> None:
        for seconds in self.strike(engine, at):
            time.sleep(seconds)

    async def wait_async(self, engine: Any, at: Moment) -> None:
        for seconds in self.strike(engine, at):
            await asyncio.sleep(seconds)

    def _crash(self, fault: Fault) -> None:
        if self.process.expendable:
            _deliver_events()
            _flush_pool_messages()
            os.kill(os.getpid(), signal.SIGKILL)
        line = (
            f"{fault.call}: the task runs in pytest's own process; submit it on the task runner"
            ' processes or dask-processes (@pytest.mark.runners("processes", "dask-processes"))'
        )
        self.process.refuse(line)
        raise _Refusal(line)


def _subject(engine: Any) -> str:
    """Return what a task run does. Prefect's own names and keys of runs are random."""
    if engine.task.task_run_name:
        return str(engine.task_run.name)
    return f"{engine.task.name}({describe(engine.parameters)})"


def _deliver_events() -> None:
    """Wait until Prefect has sent off the states that it has noted so far."""
    delivery = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    delivery.start()
    delivery.join(DELIVERY)


def _flush_pool_messages() -> None:
    """Hand over the events that a pool's worker sends through pytest's process.

    Killed while it does, it would take the queue's lock with it, and Prefect would hang.
    """
    if queue := _pool_queue():
        queue.close()
        queue.join_thread()


def _pool_queue() -> Any:
    """Return the queue to pytest's process, None outside the workers of a process pool."""
    _, options = EventsWorker._client_override or (None, ())
    return dict(options).get("event_queue")


def _has_body(engine: Any, transaction: Any) -> bool:
    return not transaction.is_committed() or engine.task.isgenerator


def _refusing(points: _Points, stock: Any) -> Any:
    @contextlib.contextmanager
    def start(self: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        try:
            with stock(self, *args, **kwargs):
                yield
        except _Refusal as refusal:
            raise FaultRefused(str(refusal)) from None

    return start


def _refusing_async(points: _Points, stock: Any) -> Any:
    @contextlib.asynccontextmanager
    async def start(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[None]:
        try:
            async with stock(self, *args, **kwargs):
                yield
        except _Refusal as refusal:
            raise FaultRefused(str(refusal)) from None

    return start


def _before_body(points: _Points, stock: Any) -> Any:
    @contextlib.contextmanager
    def transaction_context(self: Any) -> Iterator[Any]:
        points.process.note_task(self.task.name)
        with stock(self) as transaction:
            if _has_body(self, transaction):
                points.wait(self, "before the body")
            yield transaction

    return transaction_context


def _before_body_async(points: _Points, stock: Any) -> Any:
    @contextlib.asynccontextmanager
    async def transaction_context(self: Any) -> AsyncIterator[Any]:
        points.process.note_task(self.task.name)
        async with stock(self) as transaction:
            if _has_body(self, transaction):
                await points.wait_async(self, "before the body")
            yield transaction

    return transaction_context


def _after_effect(points: _Points, stock: Any) -> Any:
    def handle_success(self: Any, result: Any, transaction: Any) -> Any:
        if _has_body(self, transaction):
            points.wait(self, "after the effect")
        returned = stock(self, result, transaction=transaction)
        _watch_storing(points, self, transaction)
        return returned

    return handle_success


def _after_effect_async(points: _Points, stock: Any) -> Any:
    async def handle_success(self: Any, result: Any, transaction: Any) -> Any:
        if _has_body(self, transaction):
            await points.wait_async(self, "after the effect")
        returned = await stock(self, result, transaction=transaction)
        _watch_storing(points, self, transaction)
        return returned

    return handle_success


def _after_completion(points: _Points, stock: Any) -> Any:
    def call_hooks(self: Any, state: Any = None) -> None:
        if state is None and _is_completed(self):
            points.wait(self, "after completion")
        stock(self, state)

    return call_hooks


def _after_completion_async(points: _Points, stock: Any) -> Any:
    async def call_hooks(self: Any, state: Any = None) -> None:
        if state is None and _is_completed(self):
            await points.wait_async(self, "after completion")
        await stock(self, state)

    return call_hooks


def _is_completed(engine: Any) -> bool:
    return bool(engine.state.is_completed()) and engine.state.name != "Cached"


def _after_storing(points: _Points, stock: Any) -> Any:
    def commit(self: Any) -> bool:
        committed: bool = stock(self)
        if committed and _stores(self):
            for storing in _storings(self):
                storing.stored(self)
        return committed

    return commit


def _after_storing_async(points: _Points, stock: Any) -> Any:
    async def commit(self: Any) -> bool:
        committed: bool = await stock(self)
        if committed and _stores(self):
            for storing in _storings(self):
                await asyncio.to_thread(storing.stored, self)
        return committed

    return commit


def _watch_storing(points: _Points, engine: Any, transaction: Any) -> None:
    """Come back when the transaction is committed, be it by another one around it."""
    if transaction.is_staged() and points.process.plan is not None:
        # After the task's own hooks: nothing comes between this one and the storage.
        transaction.on_commit_hooks.append(_Storing(points, engine))


def _stores(transaction: Any) -> bool:
    return bool(transaction.store and transaction.key and transaction.write_on_commit)


def _storings(transaction: Any) -> list[_Storing]:
    return [hook for hook in transaction.on_commit_hooks if isinstance(hook, _Storing)]


class _Storing:
    """A commit hook: the moment before a result is stored, and the one after."""

    log_on_run = False

    def __init__(self, points: _Points, engine: Any) -> None:
        self._points = points
        self._engine = engine

    def __call__(self, transaction: Any) -> None:
        if _stores(transaction):
            self._points.wait(self._engine, "before the result is stored")

    def stored(self, transaction: Any) -> None:
        for _ in self._points.due(self._engine, "after the result is stored"):
            _corrupt(transaction)


def _corrupt(transaction: Any) -> None:
    """Cut what a transaction stored in half, and forget the copy in memory."""
    staged, store = transaction._staged_value, transaction.store
    stored = isinstance(staged, ResultRecord)
    key = staged.metadata.storage_key if stored else transaction.key
    storage = store.result_storage
    content = call_explicitly_sync_block_method(storage, "read_path", (key,), {})
    half = {"content": content[: len(content) // 2]}
    call_explicitly_sync_block_method(storage, "write_path", (key,), half)
    store.cache.pop(key, None)
