# SPDX-License-Identifier: Apache-2.0
"""Watches a test, and ends what waits for ever."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flowgauge.deadlocks import dask, deployments
from flowgauge.deadlocks.deployments import VainWait
from flowgauge.deadlocks.slots import Slots
from flowgauge.deadlocks.threads import Threads
from flowgauge.deadlocks.waiting import Pool, deadlocked, told

Look = Callable[[], tuple[list[Any], Callable[[], list[str]]]]
"""Returns what waits for ever, and what ends that and returns a line for each."""

PAUSE = 2.0
"""Seconds between two looks at a test that is still running."""


@contextlib.contextmanager
def watched(*, slots_of: Path | None, api_url: str | None) -> Iterator[list[str]]:
    """Look for deadlocks again and again until this is closed.

    A deadlock is believed if two looks in a row find the same task runs waiting for the same
    others, or the same waits for flow runs: what one look sees is not of one moment.

    Args:
        slots_of: The folder of the pytest run, to look for code of all its processes that waits for
            slots that never get free; None for not to.
        api_url: The address of the API of the Prefect server, to look for waits for flow runs that
            nobody executes; None for not to.

    Yields:
        One line for each deadlock that was found. It is over: task runs got an error in place of
            an answer, slots were given back, flow runs cancelled.
    """
    found: list[str] = []
    over = threading.Event()
    clusters: set[str] = set()
    looks: list[Look] = [partial(_at_pools, clusters)]
    if slots_of is not None:
        looks.append(partial(_at_slots, Slots(slots_of)))
    if api_url is not None:
        looks.append(partial(_at_deployments, api_url))
    # It has the settings of this thread.
    watch = partial(contextvars.copy_context().run, _watch, found, over, looks)
    watcher = threading.Thread(target=watch, name="flowgauge-deadlocks")
    watcher.daemon = True
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        for address in clusters:
            with contextlib.suppress(Exception):  # It may be closed by now.
                dask.clear(address)


def _watch(found: list[str], over: threading.Event, looks: Sequence[Look]) -> None:
    before: list[list[Any]] = [[] for _ in looks]
    ended: list[list[Any]] = [[] for _ in looks]
    while not over.wait(PAUSE):
        for number, look in enumerate(looks):
            now, end = look()
            if now and now == before[number]:
                lines = end()
                # Who waited may need a moment until it goes on, and is seen again.
                if now != ended[number]:
                    found.extend(line for line in lines if line not in found)
                ended[number] = now
            before[number] = now


def _at_pools(told_of: set[str]) -> tuple[list[Pool], Callable[[], list[str]]]:
    """Return the pools in which nothing can go on, and what cancels their submitted task runs.

    The addresses of the Dask clusters among them are added to a set then.
    """
    threads, clients = Threads(), dask.clients()
    clusters = [(client, pool) for client in clients if (pool := dask.pool_of(client))]
    stuck = deadlocked(threads.pools() + [pool for _, pool in clusters])

    def end() -> list[str]:
        keys = frozenset().union(*(pool.submitted for pool in stuck))
        threads.cancel(keys)
        for client, pool in clusters:
            dask.cancel(client, keys & pool.submitted)
        told_of.update(dask.address_of(client) for client, pool in clusters if pool in stuck)
        return list(map(told, stuck))

    return stuck, end


def _at_slots(slots: Slots) -> tuple[list[object], Callable[[], list[str]]]:
    """Return the waits for slots that never end, with the leases, and what gives these back."""
    stuck, held = slots.stuck()
    return [*stuck, *held], lambda: [slots.end(stuck, held)]


def _at_deployments(api_url: str) -> tuple[list[VainWait], Callable[[], list[str]]]:
    """Return the waits for flow runs that nobody executes, and what cancels these."""
    vain = deployments.vain_waits(api_url)
    return vain, lambda: list(map(deployments.end, vain))
