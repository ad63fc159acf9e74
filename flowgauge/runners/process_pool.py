# SPDX-License-Identifier: Apache-2.0
"""Prefect's process pool, with workers that start with Prefect imported."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Self
from unittest.mock import patch

import prefect.task_runners
from prefect.task_runners import ProcessPoolTaskRunner

# Each worker runs the parent's script again, because most Python versions don't preload `__main__`
# (python/cpython#126631); pytest's script imports pytest. Missing modules are skipped.
_PRELOADED = [
    "__main__",
    "pytest",
    "prefect.main",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "flowgauge.compat.integrations",
    "flowgauge.runners.before_fork",
    __name__,
]
_starting = threading.Lock()


def preloaded_context() -> multiprocessing.context.ForkServerContext:
    """Return a multiprocessing context whose processes start with Prefect imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


class _ForkServer:
    """Stands in for `multiprocessing` in `prefect.task_runners` while a pool starts."""

    @staticmethod
    def get_context(method: str) -> multiprocessing.context.BaseContext:
        return preloaded_context()


class PreloadedProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """The stock task runner, with workers forked from one process that has Prefect imported.

    `ProcessPoolTaskRunner.__enter__` fixes the start method to spawn, so every flow run waits
    seconds for its workers to import Prefect. Everything else is as in the stock task runner.
    """

    def __enter__(self) -> Self:
        with _starting, patch.object(prefect.task_runners, "multiprocessing", _ForkServer):
            return super().__enter__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and super().__eq__(other)

    __hash__ = ProcessPoolTaskRunner.__hash__
