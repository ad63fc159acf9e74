# SPDX-License-Identifier: Apache-2.0
"""Watches a test, and ends what waits for ever."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from functools import partial

from flowgauge.deadlocks import dask
from flowgauge.deadlocks.deployments import VainWait, end, vain_waits
from flowgauge.deadlocks.threads import Threads
from flowgauge.deadlocks.waiting import Pool, deadlocked, told

PAUSE = 2.0
"""Seconds between two looks at a test that is still running."""


@contextlib.contextmanager
def watched(api_url: str | None) -> Iterator[list[str]]:
    """Look for deadlocks again and again until this is closed.

    A deadlock is believed if two looks in a row find the same task runs waiting for the same
    others, or the same waits for flow runs: what one look sees is not of one moment.

    Args:
        api_url: The address of the API of the Prefect server; None to look for deadlocks of task
            runs only.

    Yields:
        One line for each deadlock that was found. Its task runs got an error in place of an
            answer, and flow runs that nobody executes were cancelled.
    """
    found: list[str] = []
    over = threading.Event()
    # It has the settings of this thread.
    watch = partial(contextvars.copy_context().run, _watch, found, over, api_url)
    watcher = threading.Thread(target=watch, name="flowgauge-deadlocks")
    watcher.daemon = True
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _watch(found: list[str], over: threading.Event, api_url: str | None) -> None:
    before: list[Pool] = []
    vain_before: list[VainWait] = []
    while not over.wait(PAUSE):
        vain = vain_waits(api_url) if api_url else []
        if vain and vain == vain_before:
            found.extend(map(end, vain))
        vain_before = vain
        now, cancel = _look()
        if now and now == before:
            # Who waited may need a moment until the error is there, and is seen again.
            found.extend(line for line in map(told, now) if line not in found)
            cancel(frozenset().union(*(pool.submitted for pool in now)))
        before = now


def _look() -> tuple[list[Pool], Callable[[frozenset[str]], None]]:
    """Return the pools in which nothing can go on, and what cancels submitted task runs."""
    threads, clients = Threads(), dask.clients()
    clusters = [(client, pool) for client in clients if (pool := dask.pool_of(client))]

    def cancel(keys: frozenset[str]) -> None:
        threads.cancel(keys)
        for client, pool in clusters:
            dask.cancel(client, keys & pool.submitted)

    return deadlocked(threads.pools() + [pool for _, pool in clusters]), cancel
