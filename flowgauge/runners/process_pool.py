# SPDX-License-Identifier: Apache-2.0
"""Prefect's process pool with workers that need not import Prefect again."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Self
from unittest.mock import patch

import prefect.task_runners
from prefect.task_runners import ProcessPoolTaskRunner

# Each worker runs the parent's script again, since most Pythons don't preload `__main__`
# (python/cpython#126631); pytest's script imports pytest. What is missing is passed over.
_PRELOADED = [
    "__main__",
    "pytest",
    "prefect.main",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "flowgauge.compat.integrations",
    __name__,
]
_starting = threading.Lock()


def preloaded_context() -> multiprocessing.context.ForkServerContext:
    """Return a way to start processes that have Prefect imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


class _ForkServer:
    """What `prefect.task_runners` sees as `multiprocessing` while a pool starts."""

    @staticmethod
    def get_context(method: str) -> multiprocessing.context.BaseContext:
        return preloaded_context()


class PreloadedProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """The stock runner, its workers forked from one process that has Prefect imported.

    `ProcessPoolTaskRunner.__enter__` fixes the start method to spawn, so every flow run pays
    seconds for workers that import Prefect. Everything else is the stock runner's.
    """

    def __enter__(self) -> Self:
        with _starting, patch.object(prefect.task_runners, "multiprocessing", _ForkServer):
            return super().__enter__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and super().__eq__(other)

    __hash__ = ProcessPoolTaskRunner.__hash__
