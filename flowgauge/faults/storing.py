# SPDX-License-Identifier: Apache-2.0
"""The moments before and after a task's result is stored, whichever transaction commits it."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect._internal.compatibility.blocks import call_explicitly_sync_block_method
from prefect._internal.result_records import ResultRecord

from flowgauge.faults.points import Points


def watch_storing(points: Points, engine: Any, transaction: Any) -> None:
    """Register a commit hook, which runs even if an enclosing transaction does the commit."""
    if transaction.is_staged() and points.process.plan is not None:
        # After the task's own hooks, so that nothing happens between this one and the storing.
        transaction.on_commit_hooks.append(_Storing(points, engine))


def _stores(transaction: Any) -> bool:
    return bool(transaction.store and transaction.key and transaction.write_on_commit)


def _storings(transaction: Any) -> list[_Storing]:
    return [hook for hook in transaction.on_commit_hooks if isinstance(hook, _Storing)]


class _Storing:
    """A commit hook: the moment before a result is stored, and the one after."""

    log_on_run = False

    def __init__(self, points: Points, engine: Any) -> None:
        self._points = points
        self._engine = engine

    def __call__(self, transaction: Any) -> None:
        if _stores(transaction):
            self._points.wait(self._engine, "before the result is stored")

    def stored(self, transaction: Any) -> None:
        for _ in self._points.due(self._engine, "after the result is stored"):
            _corrupt(transaction)


def _corrupt(transaction: Any) -> None:
    """Truncate what a transaction stored to half, and drop the copy in memory."""
    staged, store = transaction._staged_value, transaction.store
    is_record = isinstance(staged, ResultRecord)
    key = staged.metadata.storage_key if is_record else transaction.key
    storage = store.result_storage
    content = call_explicitly_sync_block_method(storage, "read_path", (key,), {})
    half = {"content": content[: len(content) // 2]}
    call_explicitly_sync_block_method(storage, "write_path", (key,), half)
    store.cache.pop(key, None)


def after_storing(points: Points, stock: Any) -> Any:
    """Return `Transaction.commit`, extended by the moment after a result is stored."""

    def commit(self: Any) -> bool:
        committed: bool = stock(self)
        if committed and _stores(self):
            for storing in _storings(self):
                storing.stored(self)
        return committed

    return commit


def after_storing_async(points: Points, stock: Any) -> Any:
    """Return `AsyncTransaction.commit`, extended by the moment after a result is stored."""

    async def commit(self: Any) -> bool:
        committed: bool = await stock(self)
        if committed and _stores(self):
            for storing in _storings(self):
                await asyncio.to_thread(storing.stored, self)
        return committed

    return commit
