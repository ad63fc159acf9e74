# SPDX-License-Identifier: Apache-2.0
"""The hooks of faults in Prefect's task engine: the methods that they wrap."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch

from prefect import task_engine
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from prefect.transactions import AsyncTransaction, Transaction

from flowgauge.faults.errors import FaultRefused, Refusal
from flowgauge.faults.points import Points
from flowgauge.faults.process import FaultProcess
from flowgauge.faults.storing import after_storing, after_storing_async, watch_storing
from flowgauge.faults.stubs import stubbed, stubbed_async, stubbed_generator


def hooks(process: FaultProcess) -> contextlib.ExitStack:
    """Make faults strike in the task runs of this process.

    Args:
        process: This process's side of the faults. The feature `FAULTS` of
            `flowgauge.compat.names` must work here.

    Returns:
        A stack that removes the hooks when closed.
    """
    points = Points(process)
    stack = contextlib.ExitStack()
    stack.enter_context(points.connection.hooks())
    for owner, name, new in (
        (SyncTaskRunEngine, "start", _refusing),
        (AsyncTaskRunEngine, "start", _refusing_async),
        (SyncTaskRunEngine, "transaction_context", _before_body),
        (AsyncTaskRunEngine, "transaction_context", _before_body_async),
        (SyncTaskRunEngine, "call_task_fn", stubbed),
        (AsyncTaskRunEngine, "call_task_fn", stubbed_async),
        (task_engine, "run_generator_task_sync", stubbed_generator),
        (task_engine, "run_generator_task_async", stubbed_generator),
        (SyncTaskRunEngine, "handle_success", _after_effect),
        (AsyncTaskRunEngine, "handle_success", _after_effect_async),
        (SyncTaskRunEngine, "call_hooks", _after_completion),
        (AsyncTaskRunEngine, "call_hooks", _after_completion_async),
        (Transaction, "commit", after_storing),
        (AsyncTransaction, "commit", after_storing_async),
    ):
        stack.enter_context(patch.object(owner, name, new(points, getattr(owner, name))))
    return stack


def _has_body(engine: Any, transaction: Any) -> bool:
    return not transaction.is_committed() or engine.task.isgenerator


def _refusing(points: Points, stock: Any) -> Any:
    @contextlib.contextmanager
    def start(self: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        try:
            with stock(self, *args, **kwargs):
                yield
        except Refusal as refusal:
            raise FaultRefused(str(refusal)) from None

    return start


def _refusing_async(points: Points, stock: Any) -> Any:
    @contextlib.asynccontextmanager
    async def start(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[None]:
        try:
            async with stock(self, *args, **kwargs):
                yield
        except Refusal as refusal:
            raise FaultRefused(str(refusal)) from None

    return start


def _before_body(points: Points, stock: Any) -> Any:
    @contextlib.contextmanager
    def transaction_context(self: Any) -> Iterator[Any]:
        points.process.note_task(self.task.name)
        with stock(self) as transaction:
            if _has_body(self, transaction):
                points.wait(self, "before the body")
            yield transaction

    return transaction_context


def _before_body_async(points: Points, stock: Any) -> Any:
    @contextlib.asynccontextmanager
    async def transaction_context(self: Any) -> AsyncIterator[Any]:
        points.process.note_task(self.task.name)
        async with stock(self) as transaction:
            if _has_body(self, transaction):
                await points.wait_async(self, "before the body")
            yield transaction

    return transaction_context


def _after_effect(points: Points, stock: Any) -> Any:
    def handle_success(self: Any, result: Any, transaction: Any) -> Any:
        if _has_body(self, transaction):
            points.wait(self, "after the effect")
        returned = stock(self, result, transaction=transaction)
        watch_storing(points, self, transaction)
        return returned

    return handle_success


def _after_effect_async(points: Points, stock: Any) -> Any:
    async def handle_success(self: Any, result: Any, transaction: Any) -> Any:
        if _has_body(self, transaction):
            await points.wait_async(self, "after the effect")
        returned = await stock(self, result, transaction=transaction)
        watch_storing(points, self, transaction)
        return returned

    return handle_success


def _after_completion(points: Points, stock: Any) -> Any:
    def call_hooks(self: Any, state: Any = None) -> None:
        if state is None and _is_completed(self):
            points.wait(self, "after completion")
        stock(self, state)

    return call_hooks


def _after_completion_async(points: Points, stock: Any) -> Any:
    async def call_hooks(self: Any, state: Any = None) -> None:
        if state is None and _is_completed(self):
            await points.wait_async(self, "after completion")
        await stock(self, state)

    return call_hooks


def _is_completed(engine: Any) -> bool:
    return bool(engine.state.is_completed()) and engine.state.name != "Cached"
