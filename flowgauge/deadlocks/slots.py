# SPDX-License-Identifier: Apache-2.0
"""What the code in this process's threads waits for slots of concurrency limits for.

Only sync code is seen, and only that of this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flowgauge.clock.leases import SYNC, Holding, held_here
from flowgauge.clock.sightings import is_blocked
from flowgauge.deadlocks.limits import SlotWait, stuck, told
from flowgauge.deadlocks.waits import place_in
from flowgauge.frames import frames_by_thread, outwards

if TYPE_CHECKING:
    from types import FrameType

    from prefect.client.orchestration import SyncPrefectClient

_RUNS = {
    ("prefect.task_engine", "run_task_sync"): "task",
    ("prefect.flow_engine", "run_flow_sync"): "flow",
}


def stuck_waits() -> list[SlotWait]:
    """Return the waits for slots that never end."""
    threads = frames_by_thread().items()
    waits = [wait for thread, frame in threads if (wait := _wait_in(thread, frame))]
    holders = {holding.thread for holding in held_here.values()}
    if not any(wait.thread in holders for wait in waits):
        return []
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        names = {name for wait in waits for name in wait.limits}
        found = {name: _capacity(client, name) for name in names}
    capacities = {name: number for name, number in found.items() if number is not None}
    return stuck(waits, list(held_here.values()), capacities)


def held_by(waits: list[SlotWait]) -> dict[str, Holding]:
    """Return what the code that waits holds.

    Args:
        waits: Waits for slots.

    Returns:
        The slots, by lease.
    """
    threads = {wait.thread for wait in waits}
    return {lease: each for lease, each in list(held_here.items()) if each.thread in threads}


def end(waits: list[SlotWait], held: Mapping[str, Holding]) -> str:
    """Give the slots back that others wait for, so that the waits end.

    Args:
        waits: Waits that never end.
        held: What the code that waits holds, by lease.

    Returns:
        One line that says who holds what and waits for what, and what to do.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for lease in held:
            client.release_concurrency_slots_with_lease(UUID(lease))
    return told(waits, held.values())


def _wait_in(thread: int, frame: FrameType) -> SlotWait | None:
    if not is_blocked(frame):
        return None
    frames = list(outwards(frame))
    for outer in frames:
        module, name = outer.f_globals.get("__name__"), outer.f_code.co_name
        if (module, name) == (SYNC, "acquire_concurrency_slots_with_lease"):
            wanted = outer.f_locals
            limits = ("timeout_seconds", "max_retries")
            if wanted["mode"] != "concurrency" or any(wanted[n] is not None for n in limits):
                return None
            names, slots = tuple(wanted["names"]), wanted["slots"]
            return SlotWait(thread, _name(frames), names, slots, place_in(frames))
    return None


def _name(frames: list[FrameType]) -> str:
    """Return what people call the innermost run in a thread."""
    for frame in frames:
        kind = _RUNS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        if kind is not None:
            run: Any = frame.f_locals[kind]
            return f"{kind} {run.name!r}"
    return "code outside of a flow"


def _capacity(client: SyncPrefectClient, name: str) -> int | None:
    """Return how many slots a limit has; None if there is no such limit, or it is not active."""
    from prefect.exceptions import ObjectNotFound

    try:
        limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None
    return limit.limit if limit.active else None
