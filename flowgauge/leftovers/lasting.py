# SPDX-License-Identifier: Apache-2.0
"""What a test starts, but not for itself: it ends with a fixture, an event loop or a module."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from concurrent.futures import thread as pool_threads
from types import ModuleType
from typing import Any

from flowgauge.frames import SITE, STDLIB

_clients: weakref.WeakSet[Any] = weakref.WeakSet()


def keep(value: object) -> None:
    """Note the value of a fixture that outlives a test, if it is a client of Prefect or httpx.

    Args:
        value: The value.
    """
    if _is_client(value):
        _clients.add(value)


def _is_client(value: object) -> bool:
    return type(value).__module__.startswith(("prefect.client.", "httpx"))


def ports_of_kept_clients() -> set[int]:
    """Return the local ports of clients that were noted or are globals of a project's module."""
    return {port for client in [*_clients, *_clients_of_modules()] for port in _ports(client)}


def _clients_of_modules() -> list[object]:
    found: list[object] = []
    for module in list(sys.modules.values()):
        # Not by `getattr`: a module may import others when it is asked.
        names = dict(vars(module)) if isinstance(module, ModuleType) else {}
        file = names.get("__file__") or STDLIB
        if not file.startswith((STDLIB, *SITE)):
            found += filter(_is_client, names.values())
    return found


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
