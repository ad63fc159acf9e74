# SPDX-License-Identifier: Apache-2.0
"""Leases of concurrency slots: which process holds each, and giving back those of dead processes.

Prefect's server takes a slot back when its lease has not been renewed for minutes of real time.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from flowgauge.clock.slot_log import Code, Holding, SlotLog, note_free, note_held
from flowgauge.frames import outwards

if TYPE_CHECKING:
    from flowgauge.clock.process import ClockProcess

_TAKERS = {f"prefect.concurrency.{name}" for name in ("_sync", "_asyncio")}
"""The modules whose functions take slots."""


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
        note_held(process.home, str(lease_id), _holding(sys._getframe(1)))
        every = lease_duration * _leases._RENEWAL_FRACTION
        tell(about="lease", lease=str(lease_id), seconds=lease_duration, every=every)
        return stock_start(lease_id, lease_duration, *args, **options)

    @functools.wraps(stock_loop)
    def loop(lease_id: Any, *args: Any, **options: Any) -> None:
        try:
            stock_loop(lease_id, *args, **options)
        finally:
            tell(about="no lease", lease=str(lease_id))
            note_free(process.home, str(lease_id))

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(_leases, "_start_lease_renewal_thread", start))
    stack.enter_context(patch.object(_leases, "_lease_renewal_loop", loop))
    return stack


def _holding(frame: FrameType) -> Holding:
    """Return what the code whose lease begins in a frame holds; no limits if it can't be seen."""
    limits, slots = (), 0
    for outer in outwards(frame):
        if outer.f_code.co_name == "concurrency" and outer.f_globals["__name__"] in _TAKERS:
            limits, slots = tuple(outer.f_locals["names"]), outer.f_locals["occupy"]
            break
    return Holding(Code.here(), limits, slots, time.time())


def give_back_of_dead(home: Path, api_url: str, since: float) -> bool:
    """Give back the slots of processes that have ended.

    Args:
        home: The folder of the pytest run.
        api_url: The address of the API of the Prefect server.
        since: Seconds since the epoch.

    Returns:
        Whether a process that lives still holds slots that it took since then.
    """
    log = SlotLog(home)
    log.read_on()
    still_held = False
    for lease, holding in log.held.items():
        if holding.code.lives():
            still_held = still_held or holding.taken >= since
        else:
            give_back(api_url, lease)
            note_free(home, lease)
    return still_held


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
