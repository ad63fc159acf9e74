# SPDX-License-Identifier: Apache-2.0
"""What the task runs on a Dask cluster wait for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from flowgauge.clock.sightings import is_blocked
from flowgauge.deadlocks.waiting import Awaited, Pool, Waiting
from flowgauge.deadlocks.waits import futures_in, wait_in
from flowgauge.frames import frames_by_thread, outwards
from flowgauge.waiting import patience

if TYPE_CHECKING:
    from distributed import Client, Worker

ANSWER = 5.0
"""Seconds within which a cluster must answer; otherwise it is asked again later."""


_FIXED = ("tcp://127.", "inproc://")
"""How the addresses of schedulers begin whose clusters get no more workers by themselves."""


_CLEARED_WITHIN = 10.0
"""Seconds after which a cluster on which something still computes is left as it is;
`FLOWGAUGE_PATIENCE` scales them."""

_widest: dict[str, int] = {}
"""How many tasks each cluster has been seen to execute at once, by the address of its scheduler."""


@dataclass(frozen=True)
class Look:
    """What a worker sees.

    Attributes:
        threads: How many tasks it executes at once.
        waiting: The task runs that take a place and wait, by their Dask keys.
        executing: The keys of all task runs that have begun, and not ended.
    """

    threads: int
    waiting: dict[str, Waiting]
    executing: frozenset[str]


def clients() -> list[Client]:
    """Return a client of each Dask cluster whose futures this process waits for."""
    if "distributed" not in sys.modules:
        return []
    found = {
        address_of(client): client
        for frame in frames_by_thread().values()
        if is_blocked(frame)
        for future in futures_in(outwards(frame))
        if (client := getattr(getattr(future, "wrapped_future", None), "client", None))
    }
    return list(found.values())


def pool_of(client: Client) -> Pool | None:
    """Return a Dask cluster as a pool, asking all its workers.

    Args:
        client: A client of the cluster.

    Returns:
        The pool; None if the cluster does not answer, or may get more workers.
    """
    adapts = getattr(client.cluster, "_adaptive", None) is not None
    if adapts or not address_of(client).startswith(_FIXED):
        return None
    try:
        looks: list[Look] = list(_ask(client, client._run, look_at).values())
        waiting = {key: each for look in looks for key, each in look.waiting.items()}
        awaited = {each.key for one in waiting.values() for each in one.awaited}
        submitted: set[str] = _ask(client, client._run_on_scheduler, queued, keys=awaited)
    except Exception:
        # It is busy or closing, or its workers cannot import Flowgauge.
        return None
    executing = {key for look in looks for key in look.executing}
    width = sum(look.threads for look in looks)
    widest = _widest[address_of(client)] = max(width, _widest.get(address_of(client), 0))
    if width < widest:
        return None  # It has lost a worker, and may start another one.
    return Pool("the Dask cluster", width, waiting, frozenset(submitted - executing))


def address_of(client: Client) -> str:
    """Return the address of the scheduler of a client's cluster.

    Args:
        client: The client.

    Returns:
        The address; empty if it is closed.
    """
    return str(getattr(client.scheduler, "address", ""))


def cancel(client: Client, keys: Iterable[str]) -> None:
    """Cancel submitted task runs, so that who waits for them on a worker gets an error.

    Args:
        client: A client of the cluster.
        keys: Their Dask keys.
    """
    from distributed import Future

    # Not only for this client: those who wait have others.
    client.cancel([Future(key, client) for key in keys], force=True)


def clear(address: str) -> None:
    """Cancel all that has not ended on a cluster of this process, until nothing runs there.

    A task run that begins when others are cancelled may submit tasks and wait for them for ever:
    Dask may have queued them behind it. Its place would be lost for all later tests.

    Args:
        address: The address of the scheduler of a cluster on which a deadlock was told.
    """
    from distributed import Client, SpecCluster

    # Others may use a cluster that runs elsewhere.
    if address not in {cluster.scheduler_address for cluster in set(SpecCluster._instances)}:
        return
    deadline = time.monotonic() + patience(_CLEARED_WITHIN)
    with Client(address, timeout=ANSWER, set_as_default=False) as client:
        while time.monotonic() < deadline:
            looks: list[Look] = list(_ask(client, client._run, look_at).values())
            left: set[str] = _ask(client, client._run_on_scheduler, queued)
            if not left and not any(look.executing for look in looks):
                return
            cancel(client, left)
            time.sleep(0.02)


def _ask(client: Client, call: Any, *args: Any, **kwargs: Any) -> Any:
    return client.sync(call, *args, callback_timeout=ANSWER, **kwargs)


def queued(keys: Iterable[str] | None = None, *, dask_scheduler: Any = None) -> set[str]:
    """Return those of the tasks that have not ended; a scheduler executes this.

    Args:
        keys: The keys of tasks; by default those of all.
        dask_scheduler: The scheduler, which passes itself.

    Returns:
        The keys of those tasks.
    """
    tasks = dask_scheduler.tasks
    chosen = list(tasks) if keys is None else keys
    states = {key: task.state for key in chosen if (task := tasks.get(key))}
    return {key for key, state in states.items() if state in ("queued", "processing", "waiting")}


def look_at(*, dask_worker: Worker | None = None) -> Look:
    """Return what the task runs on a worker wait for; the worker executes this.

    Args:
        dask_worker: The worker, which passes itself.

    Returns:
        What it sees.
    """
    assert dask_worker is not None
    with dask_worker.active_threads_lock:
        keys = dict(dask_worker.active_threads)
    # A task may have left its place.
    pools = [tuple(pool._threads) for pool in dask_worker.executors.values()]  # type: ignore[attr-defined]
    places = {thread.ident for threads in pools for thread in threads}
    state = dask_worker.state
    executing = {task.key for tasks in (state.executing, state.long_running) for task in tasks}
    waiting = {
        str(keys[thread]): each
        for thread, frame in frames_by_thread().items()
        if thread in keys and thread in places and (each := _waiting(frame))
    }
    return Look(state.nthreads, waiting, frozenset(map(str, executing | {*keys.values()})))


def _waiting(frame: FrameType) -> Waiting | None:
    from dask.utils import key_split

    wait = wait_in(frame)
    # Dask looks up from its waits, and meets the time limit of the task then.
    if wait is None or wait.limited:
        return None
    dask: list[Any] = [getattr(future, "wrapped_future", None) for future in wait.futures]
    keys = [str(future.key) for future in dask if hasattr(future, "key")]
    if len(keys) < len(dask):
        return None  # It also waits for something that is not on the cluster.
    awaited = tuple(Awaited(key, key_split(key)) for key in keys)
    return Waiting(wait.task.name, awaited, wait.where)
