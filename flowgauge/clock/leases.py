# SPDX-License-Identifier: Apache-2.0
"""Leases of concurrency slots: which process holds each, and giving back those of dead processes.

Prefect's server takes a slot back when its lease has not been renewed for minutes of real time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import psutil

from flowgauge.append_log import locked, values_from, write_value
from flowgauge.frames import outwards

if TYPE_CHECKING:
    from flowgauge.clock.process import ClockProcess

_LOG = "leases.jsonl"

SYNC = "prefect.concurrency._sync"
"""The module whose functions take slots for sync code."""

held_here: dict[str, Holding] = {}
"""What sync code of this process holds, by lease."""


@dataclass(frozen=True)
class Holding:
    """The slots that code in a thread holds.

    Attributes:
        thread: The identifier of the thread.
        limits: The names of the concurrency limits.
        slots: How many slots of each of them.
    """

    thread: int
    limits: tuple[str, ...]
    slots: int


def noted_leases(process: ClockProcess, *, expendable: bool) -> contextlib.ExitStack:
    """Note which leases this process holds, and tell the clock if it may be killed.

    Args:
        process: This process's side of the clock.
        expendable: Whether a test may kill this process.

    Returns:
        A stack that ends that when closed.
    """
    from prefect.concurrency import _leases

    stock_start: Any = _leases._start_lease_renewal_thread
    stock_loop: Any = _leases._lease_renewal_loop

    def tell(**message: Any) -> None:
        if expendable and process.time.running:
            process.tell(**message)

    @functools.wraps(stock_start)
    def start(lease_id: Any, lease_duration: float, *args: Any, **options: Any) -> Any:
        pid = os.getpid()
        _note(process.home, str(lease_id), pid, psutil.Process(pid).create_time(), time.time())
        every = lease_duration * _leases._RENEWAL_FRACTION
        tell(about="lease", lease=str(lease_id), seconds=lease_duration, every=every)
        if holding := _holding(sys._getframe(1)):
            held_here[str(lease_id)] = holding
        return stock_start(lease_id, lease_duration, *args, **options)

    @functools.wraps(stock_loop)
    def loop(lease_id: Any, *args: Any, **options: Any) -> None:
        try:
            stock_loop(lease_id, *args, **options)
        finally:
            held_here.pop(str(lease_id), None)
            tell(about="no lease", lease=str(lease_id))
            _note(process.home, str(lease_id))

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(_leases, "_start_lease_renewal_thread", start))
    stack.enter_context(patch.object(_leases, "_lease_renewal_loop", loop))
    return stack


def _holding(frame: FrameType) -> Holding | None:
    """Return what the code whose lease begins in a frame holds, if it is sync."""
    for outer in outwards(frame):
        if outer.f_code.co_name == "concurrency" and outer.f_globals["__name__"] == SYNC:
            limits, slots = outer.f_locals["names"], outer.f_locals["occupy"]
            return Holding(threading.get_ident(), tuple(limits), slots)
    return None


def _note(home: Path, lease: str, *holder: float) -> None:
    # A process may outlive its pytest run.
    if home.is_dir():
        with locked(home / _LOG) as log:
            write_value(log, [lease, *holder])


def give_back_of_dead(home: Path, api_url: str, since: float) -> bool:
    """Give back the slots of processes that have ended.

    Args:
        home: The folder of the pytest run.
        api_url: The address of the API of the Prefect server.
        since: Seconds since the epoch.

    Returns:
        Whether a process that lives still holds slots that it took since then.
    """
    lines, _ = values_from(home / _LOG, 0)
    held: dict[str, list[Any]] = {}
    for lease, *holder in lines:
        held[lease] = holder
        if not holder:
            del held[lease]
    still_held = False
    for lease, (pid, created, taken) in held.items():
        if _lives(pid, created):
            still_held = still_held or taken >= since
        else:
            give_back(api_url, lease)
            _note(home, lease)
    return still_held


def _lives(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        # Another process may have got the same id.
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def give_back(api_url: str, lease: str) -> None:
    """Give back the slots of a lease, which may be over.

    Args:
        api_url: The address of the API of the Prefect server.
        lease: The id of the lease.

    Raises:
        httpx.HTTPError: If the server does not do it.
    """
    import httpx

    # Not by Prefect's client: the clock would count this request as that of a run.
    with httpx.Client(base_url=f"{api_url}/", trust_env=False) as client:
        path = "v2/concurrency_limits/decrement-with-lease"
        client.post(path, json={"lease_id": lease}).raise_for_status()
