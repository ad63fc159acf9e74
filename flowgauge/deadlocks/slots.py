# SPDX-License-Identifier: Apache-2.0
"""The code of all processes of a pytest run that waits for slots of concurrency limits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from flowgauge.clock.slot_log import Holding, SlotLog, SlotWait
from flowgauge.deadlocks.limits import stuck, told

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


class Slots:
    """Who holds slots of concurrency limits and who waits for some, as it is at one moment."""

    def __init__(self, home: Path) -> None:
        """Find the log of a pytest run.

        Args:
            home: The folder of the pytest run.
        """
        self._log = SlotLog(home)

    def stuck(self) -> tuple[list[SlotWait], dict[str, Holding]]:
        """Return the waits that never end, and what the code that waits holds, by lease."""
        self._log.read_on()
        held = self._log.held
        holders = {holding.code for holding in held.values()}
        waits = [wait for wait in self._log.waits if wait.code.lives()]
        if not any(wait.code in holders for wait in waits):
            return [], {}
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            names = {name for wait in waits for name in wait.limits}
            found = {name: _capacity(client, name) for name in names}
        capacities = {name: number for name, number in found.items() if number is not None}
        waits = stuck(waits, held.values(), capacities)
        codes = {wait.code for wait in waits}
        return waits, {lease: each for lease, each in held.items() if each.code in codes}

    def end(self, waits: list[SlotWait], held: dict[str, Holding]) -> str:
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


def _capacity(client: SyncPrefectClient, name: str) -> int | None:
    """Return how many slots a limit has; None if there is no such limit, or it is not active."""
    from prefect.exceptions import ObjectNotFound

    try:
        limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None
    return limit.limit if limit.active else None
