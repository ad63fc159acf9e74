# SPDX-License-Identifier: Apache-2.0
"""Code that holds slots while it waits for others for ever is found, ended and told."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.clock.leases import Holding
from flowgauge.deadlocks.limits import SlotWait, stuck, told

LIMITS = ("a", "b", "c")


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[SlotWait], list[Holding], dict[str, int]]:
    """Draw who holds slots and who waits for some; no limit has more slots taken than it has."""
    capacities = {name: draw(st.integers(1, 3)) for name in LIMITS}
    free = dict(capacities)
    holdings = []
    for thread in range(draw(st.integers(1, 5))):
        for name in draw(st.sets(st.sampled_from(LIMITS))):
            if free[name]:
                slots = draw(st.integers(1, free[name]))
                free[name] -= slots
                holdings.append(Holding(thread, (name,), slots))
    waits = []
    for thread in draw(st.sets(st.integers(0, 5))):
        names = tuple(sorted(draw(st.sets(st.sampled_from((*LIMITS, "none")), min_size=1))))
        most = min((capacities[name] for name in names if name in capacities), default=1)
        waits.append(SlotWait(thread, f"t{thread}", names, draw(st.integers(1, most)), "x.py:1"))
    return waits, holdings, capacities


def ends(
    waits: list[SlotWait], holdings: list[Holding], capacities: dict[str, int]
) -> Iterator[SlotWait]:
    """Let everybody who can go on do so, and give back all slots; yield those who did."""
    waiting = {wait.thread for wait in waits}
    held = [h for h in holdings if h.thread in waiting]
    left = list(waits)
    while left:
        free = {
            name: capacity - sum(h.slots for h in held if name in h.limits)
            for name, capacity in capacities.items()
        }
        goes_on = next(
            (w for w in left if all(free.get(name, w.slots) >= w.slots for name in w.limits)), None
        )
        if goes_on is None:
            return
        left.remove(goes_on)
        held = [h for h in held if h.thread != goes_on.thread]
        yield goes_on


@given(situations())
def test_who_is_stuck_is_who_never_goes_on(
    situation: tuple[list[SlotWait], list[Holding], dict[str, int]],
) -> None:
    """It is the same as in a simulation, in which one after the other goes on if it can."""
    went_on = list(ends(*situation))
    assert stuck(*situation) == [wait for wait in situation[0] if wait not in went_on]


def test_the_line_says_who_holds_what() -> None:
    """It names what each one holds, what it waits for and where, and what to do."""
    waits = [SlotWait(1, "'copy'", ("db",), 1, "a.py:3"), SlotWait(2, "'load'", ("api",), 1, "b:4")]
    line = told(waits, [Holding(1, ("api",), 1), Holding(2, ("db",), 1)])
    assert line == (
        "deadlock of concurrency limits: 'copy' holds 'api' and waits for 'db' (a.py:3); 'load'"
        " holds 'db' and waits for 'api' (b:4). Take them in the same order everywhere, or all at"
        " once: concurrency([…])"
    )
