# SPDX-License-Identifier: Apache-2.0
"""Watches a test, and ends task runs that wait for each other for ever."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from flowgauge.deadlocks import dask
from flowgauge.deadlocks.threads import Threads
from flowgauge.deadlocks.waiting import Pool, deadlocked, told

PAUSE = 2.0
"""Seconds between two looks at a test that is still running."""


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Look for deadlocks again and again until this is closed.

    A deadlock is believed if two looks in a row find the same task runs waiting for the same
    others: what one look sees is not of one moment.

    Yields:
        One line for each deadlock that was found. Its task runs got an error in place of an answer.
    """
    found: list[str] = []
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(found, over), name="flowgauge-deadlocks")
    watcher.daemon = True
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _watch(found: list[str], over: threading.Event) -> None:
    before: list[Pool] = []
    while not over.wait(PAUSE):
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
