# SPDX-License-Identifier: Apache-2.0
"""What a test starts, but not for itself: it ends with a fixture or an event loop of the run."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from concurrent.futures import thread as pool_threads
from typing import Any

_clients: weakref.WeakSet[Any] = weakref.WeakSet()


def keep(value: object) -> None:
    """Note the value of a fixture that outlives a test, if it is a client of Prefect or httpx.

    Args:
        value: The value.
    """
    if type(value).__module__.startswith(("prefect.client.", "httpx")):
        _clients.add(value)


def ports_of_kept_clients() -> set[int]:
    """Return the local ports of the connections that the noted clients hold."""
    return {port for client in list(_clients) for port in _ports(client)}


def _ports(client: Any) -> set[int]:
    """Return the local ports of a client; none if its libraries have other names for its parts."""
    transport = getattr(getattr(client, "_client", client), "_transport", None)
    ports = set()
    for connection in getattr(getattr(transport, "_pool", None), "connections", ()):
        stream = getattr(getattr(connection, "_connection", None), "_network_stream", None)
        if stream is not None and (address := stream.get_extra_info("client_addr")):
            ports.add(address[1])
    return ports


def ends_with_a_runner(thread: threading.Thread) -> bool:
    """Return whether a thread belongs to the event loop of an `asyncio.Runner`.

    Plugins for async tests keep such a runner for a test, a module or a session; when they close
    it, the threads of its loop's default executor end.

    Args:
        thread: The thread.

    Returns:
        Whether it is one of the default executor, and the loop is open.
    """
    asyncio: Any = sys.modules.get("asyncio")
    queue = pool_threads._threads_queues.get(thread)
    if asyncio is None or queue is None:
        return False
    # A runner can't be asked for a loop that it has not made: it would make one.
    runners: list[Any] = [x for x in gc.get_objects() if issubclass(type(x), asyncio.Runner)]
    loops = [getattr(runner, "_loop", None) for runner in runners]
    return any(
        getattr(getattr(loop, "_default_executor", None), "_work_queue", None) is queue
        for loop in loops
        if loop is not None and not loop.is_closed()
    )
