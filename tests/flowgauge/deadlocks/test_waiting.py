# SPDX-License-Identifier: Apache-2.0
"""Which task runs can't go on, compared with a simulation of the same pools."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.deadlocks.waiting import Awaited, Pool, Waiting, deadlocked, told


def pool(width: int, waits: dict[str, list[str]], submitted: set[str]) -> Pool:
    """Return a pool in which each key of `waits` waits for the first of those to end."""
    waiting = {
        key: Waiting("branch", tuple(Awaited(each, "leaf") for each in awaited), "flow.py:7")
        for key, awaited in waits.items()
    }
    return Pool("ThreadPoolTaskRunner", width, waiting, frozenset(submitted))


@st.composite
def all_pools(draw: st.DrawFn) -> tuple[list[Pool], dict[str, set[str]]]:
    """Return pools, and by the name of each those of its task runs that compute."""
    runs, busy, sizes, queues = [], {}, {}, {}
    for name in "ab"[: draw(st.integers(1, 2))]:
        sizes[name] = draw(st.integers(1, 3))
        taken = [f"{name}{n}" for n in range(draw(st.integers(0, sizes[name])))]
        busy[name] = set(draw(st.lists(st.sampled_from(taken), max_size=1)) if taken else [])
        # A place that is free while something is submitted is about to be taken.
        queued = draw(st.integers(0, 3)) if len(taken) == sizes[name] else 0
        queues[name] = {f"{name}q{n}" for n in range(queued)}
        runs += [*taken, *queues[name]]
    if not runs:
        return [], busy
    some = st.lists(st.sampled_from(runs), min_size=1, max_size=2, unique=True)
    pools = [
        Pool(
            name,
            sizes[name],
            {
                run: Waiting(run, tuple(Awaited(each, each) for each in draw(some)), "")
                for run in runs
                if run[0] == name and run not in queues[name] and run not in busy[name]
            },
            frozenset(queues[name]),
        )
        for name in busy
    ]
    return pools, busy


def left_when_nothing_goes_on(pools: list[Pool], busy: dict[str, set[str]]) -> dict[str, set[str]]:
    """Execute the pools until nothing goes on; return what still waits in each."""
    ended: set[str] = set()
    places = {each.name: {*each.waiting} | busy[each.name] for each in pools}
    queues = {each.name: [*each.submitted] for each in pools}
    waits = {key: each for one in pools for key, each in one.waiting.items()}
    while True:
        before = len(ended)
        for one in pools:
            for run in [*places[one.name]]:
                if run not in waits or any(a.key in ended for a in waits[run].awaited):
                    places[one.name].remove(run)
                    ended.add(run)
            while queues[one.name] and len(places[one.name]) < one.width:
                places[one.name].add(queues[one.name].pop())
        if len(ended) == before and not any(
            run not in waits for taken in places.values() for run in taken
        ):
            return places


@given(all_pools())
def test_only_what_never_goes_on_is_deadlocked(
    drawn: tuple[list[Pool], dict[str, set[str]]],
) -> None:
    """A pool is deadlocked if and only if task runs that never end take all its places."""
    pools, busy = drawn
    left = left_when_nothing_goes_on(pools, busy)
    expected = {one.name: left[one.name] for one in pools if len(left[one.name]) == one.width}
    assert {one.name: {*one.waiting} for one in deadlocked(pools)} == expected


def test_a_pool_without_workers_is_not_deadlocked() -> None:
    """A cluster that has lost its workers gets others: nothing is said of it."""
    assert deadlocked([pool(0, {}, {"l1"}), pool(1, {"b1": ["l1"]}, set())]) == []


def test_a_line_names_the_tasks_the_width_and_what_to_do() -> None:
    """The line tells each pair of tasks once, where it waits, the width and the ways out."""
    line = told(pool(2, {"b1": ["l1"], "b2": ["l2"]}, {"l1", "l2"}))
    assert line == (
        "deadlock in ThreadPoolTaskRunner: all 2 places are taken by tasks that wait for tasks"
        " without a place: 'branch' waits for 'leaf' (flow.py:7). Call those tasks directly, wait"
        " for them in the flow, or use more workers than tasks that wait (Prefect #17060, #14143)"
    )
    assert "its only place is taken" in told(pool(1, {"b1": ["l1"]}, {"l1"}))
