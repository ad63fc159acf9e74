# SPDX-License-Identifier: Apache-2.0
"""Which task runs hold slots of concurrency limits while they wait for others, for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flowgauge.clock.slot_log import Code, Holding, SlotWait


def stuck(
    waits: Sequence[SlotWait], holdings: Iterable[Holding], capacities: Mapping[str, int]
) -> list[SlotWait]:
    """Return the waits that never end, because each needs slots that another of them holds.

    Slots that anything else holds are assumed to be given back some time.

    Args:
        waits: All waits, as they were seen at one moment.
        holdings: All slots that are held.
        capacities: The number of slots of each limit; a limit that is missing is not a limit.

    Returns:
        Those waits.
    """
    held = list(holdings)
    left = list(waits)

    def can_go_on(wait: SlotWait) -> bool:
        waiting = {each.code for each in left}
        return all(
            sum(h.slots for h in held if name in h.limits and h.code in waiting) + wait.slots
            <= capacities[name]
            for name in wait.limits
            if name in capacities
        )

    while free := [wait for wait in left if can_go_on(wait)]:
        left = [wait for wait in left if wait not in free]
    return left


def told(waits: Iterable[SlotWait], holdings: Iterable[Holding]) -> str:
    """Return one line that says who holds what and waits for what, and what to do.

    Args:
        waits: Waits that never end.
        holdings: All slots that are held.

    Returns:
        The line.
    """
    held: dict[Code, list[str]] = {}
    for holding in holdings:
        held.setdefault(holding.code, []).extend(holding.limits)
    lines = sorted(
        f"{wait.name} holds {_names(held.get(wait.code, []))} and waits for"
        f" {_names(wait.limits)} ({wait.where})"
        for wait in waits
    )
    return (
        f"deadlock of concurrency limits: {'; '.join(lines)}. Take them in the same order"
        " everywhere, or all at once: concurrency([…])"
    )


def _names(limits: Iterable[str]) -> str:
    return " and ".join(sorted({repr(limit) for limit in limits})) or "none"
