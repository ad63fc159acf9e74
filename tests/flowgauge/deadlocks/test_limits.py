# SPDX-License-Identifier: Apache-2.0
"""Code that holds slots while it waits for others for ever is found, ended and told."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.clock.slot_log import Code, Holding, SlotWait
from flowgauge.deadlocks.limits import stuck, told

LIMITS = ("a", "b", "c")


def code(number: int) -> Code:
    """Return the code of one of three threads in one of two processes."""
    return Code(pid=number % 2, created=0.0, thread=number // 2)


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
                holdings.append(Holding(code(thread), (name,), slots, 0.0))
    waits = []
    for thread in draw(st.sets(st.integers(0, 5))):
        names = tuple(sorted(draw(st.sets(st.sampled_from((*LIMITS, "none")), min_size=1))))
        most = min((capacities[name] for name in names if name in capacities), default=1)
        slots = draw(st.integers(1, most))
        waits.append(SlotWait(code(thread), f"t{thread}", names, slots, "x.py:1"))
    return waits, holdings, capacities


def ends(
    waits: list[SlotWait], holdings: list[Holding], capacities: dict[str, int]
) -> Iterator[SlotWait]:
    """Let everybody who can go on do so, and give back all slots; yield those who did."""
    waiting = {wait.code for wait in waits}
    held = [h for h in holdings if h.code in waiting]
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
        held = [h for h in held if h.code != goes_on.code]
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
    waits = [
        SlotWait(code(1), "'copy'", ("db",), 1, "a.py:3"),
        SlotWait(code(2), "'load'", ("api",), 1, "b:4"),
    ]
    held = [Holding(code(1), ("api",), 1, 0.0), Holding(code(2), ("db",), 1, 0.0)]
    line = told(waits, held)
    assert line == (
        "deadlock of concurrency limits: 'copy' holds 'api' and waits for 'db' (a.py:3); 'load'"
        " holds 'db' and waits for 'api' (b:4). Take them in the same order everywhere, or all at"
        " once: concurrency([…])"
    )
