# SPDX-License-Identifier: Apache-2.0
"""Pools of threads and processes that somebody keeps and that have nothing to do.

A pool that nobody keeps ends by itself. What is left was made to last, by a module or a library: it
ends with Python.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from concurrent.futures import thread as pool_threads
from types import FrameType
from typing import Any

from flowgauge.leftovers import processes

WORKER = pool_threads._worker.__code__
"""What a thread of a pool executes; it is the innermost frame of one without work."""

_MANAGER = "_ExecutorManagerThread"
"""The thread behind a pool of processes, in `concurrent.futures` and in joblib's loky."""
_TRACKER = "loky.backend.resource_tracker"


def waits_for_work(thread: threading.Thread, frame: FrameType) -> bool:
    """Return whether a thread belongs to a pool and has nothing to do.

    Args:
        thread: The thread.
        frame: Its innermost frame.

    Returns:
        Whether it does.
    """
    return frame.f_code is WORKER or _manages_an_idle_pool(thread)


def lasting_processes(nannies: Iterable[Any]) -> set[int]:
    """Return the ids of processes that are nobody's leftovers.

    Args:
        nannies: The nannies of Dask's workers, which keep these running.

    Returns:
        Those of Python itself, of these nannies, and of pools that have nothing to do.
    """
    return processes.of_python() | {nanny.pid for nanny in nannies} | _waiting_workers()


def _waiting_workers() -> set[int]:
    """Return the ids of the processes of pools that have nothing to do, and of loky's tracker."""
    managers: list[Any] = [t for t in threading.enumerate() if _manages_an_idle_pool(t)]
    trackers: list[Any] = [
        module._resource_tracker for name, module in list(sys.modules.items()) if _TRACKER in name
    ]
    pids = {pid for manager in managers for pid in list(manager.processes)}
    return pids | {tracker._pid for tracker in trackers if tracker._pid is not None}


def _manages_an_idle_pool(thread: Any) -> bool:
    return type(thread).__name__ == _MANAGER and not thread.pending_work_items
