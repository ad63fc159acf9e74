# SPDX-License-Identifier: Apache-2.0
"""Workers of a process pool are forked from a process that has already imported Prefect."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from flowgauge.runners.process_pool import preloaded_context


class Worker(NamedTuple):
    """What a worker has when it starts."""

    process: int
    parent: int
    modules: frozenset[str]
    looked_for_integrations: bool


def begin() -> Worker:
    """Return what this worker has."""
    collections = sys.modules.get("prefect._internal.plugins.collections")
    looked = getattr(collections, "_collections", None) is not None
    return Worker(os.getpid(), os.getppid(), frozenset(sys.modules), looked)


def test_workers_start_with_prefect_imported() -> None:
    """A worker starts with Prefect's engines and the installed integrations already imported."""
    with ProcessPoolExecutor(1, mp_context=preloaded_context()) as pool:
        first = pool.submit(begin).result()
    with ProcessPoolExecutor(1, mp_context=preloaded_context()) as pool:
        second = pool.submit(begin).result()
    assert first.process != second.process
    assert first.parent == second.parent != os.getpid()
    for worker in (first, second):
        assert worker.modules >= {"prefect.main", "prefect.flow_engine", "prefect.task_engine"}
        assert "prefect_dask" in worker.modules
        assert worker.looked_for_integrations
