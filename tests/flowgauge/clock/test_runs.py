# SPDX-License-Identifier: Apache-2.0
"""When time may be skipped, decided from what processes report."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.clock.runs import Doing, Lease, Runs, RunStatus, Wait

IDLE = RunStatus("waits")
RUNNING = RunStatus("running")


def flow_with_task() -> Runs:
    """Return the runs of a flow whose submitted task waits until second 60."""
    runs = Runs()
    runs.begin(1, "flow", "etl", "flow", None)
    runs.submit(1, "task", "flow", (), 2)
    runs.begin(2, "task", "load", "task", None)
    runs.wait(2, 1, Wait(60.0, "task"))
    return runs


def test_a_flow_that_waits_for_its_waiting_task_is_not_busy() -> None:
    """If a flow only waits for a task that waits for a deadline, time may be skipped to it."""
    runs = flow_with_task()
    waits = RunStatus("waits for runs", frozenset({"task"}))
    assert runs.busy({"flow": waits}) == []
    assert runs.skippable_until() == 60.0


def test_a_flow_whose_awaited_task_has_ended_is_about_to_wake() -> None:
    """A wait for a run that has ended is over, even if the thread has not noticed yet."""
    runs = flow_with_task()
    runs.submit(1, "quick", "flow", (), 2)
    runs.begin(2, "quick", "count", "task", None)
    runs.end("quick")
    waits = RunStatus("waits for runs", frozenset({"quick", "task"}))
    assert runs.busy({"flow": waits}) == ["flow"]


@given(doing=st.sampled_from(["running", "waits", "under another run", "waits for runs"]))
def test_a_flow_with_a_waiting_task_is_busy_only_if_its_code_runs(doing: Doing) -> None:
    """A flow with a waiting task is busy if and only if its own code runs."""
    runs = flow_with_task()
    assert bool(runs.busy({"flow": RunStatus(doing)})) == (doing == "running")


def test_a_task_that_waits_for_something_unknown_is_busy() -> None:
    """A task that waits without a known reason, perhaps for its own threads, is busy."""
    runs = flow_with_task()
    runs.begin(3, "other", "crunch", "task", None)
    assert runs.busy({"flow": IDLE, "other": IDLE}) == ["other"]


def test_a_task_that_waits_for_a_slot_is_not_busy() -> None:
    """A task that waits in a process that keeps asking for a concurrency slot is not busy."""
    runs = flow_with_task()
    runs.begin(3, "other", "crunch", "task", None)
    assert runs.busy({"flow": IDLE, "other": IDLE}, polling=frozenset({3})) == []


def test_a_run_that_is_not_reported_is_busy() -> None:
    """A run about which its process reports nothing may be doing anything, so it is busy."""
    assert flow_with_task().busy({}) == ["flow"]


@pytest.mark.parametrize(
    ("slots", "upstream", "begins"),
    [
        (2, (), True),
        (1, (), False),
        (None, (), True),
        (2, ("task",), False),
    ],
)
def test_a_submitted_run_is_about_to_begin_if_it_can(
    slots: int | None, upstream: tuple[str, ...], begins: bool
) -> None:
    """A submitted run is expected to begin unless all workers or one of its inputs wait."""
    runs = flow_with_task()
    runs.submit(1, "next", "flow", upstream, slots)
    assert runs.about_to_begin() == (["next"] if begins else [])


def test_messages_may_come_in_any_order() -> None:
    """A run that begins or ends before its submission is known is not expected to begin again."""
    runs = Runs()
    runs.begin(1, "flow", "etl", "flow", None)
    runs.begin(2, "task", "load", "task", None)
    runs.end("task")
    runs.submit(1, "task", "flow", (), 2)
    assert runs.about_to_begin() == []
    runs.begin(2, "late", "load", "task", None)
    runs.submit(1, "late", "flow", (), 2)
    assert runs.about_to_begin() == []
    assert runs.live["late"].parent == "flow"


def test_the_waits_of_a_dead_process_are_dropped() -> None:
    """When a worker dies, its waits are dropped and its runs may begin again elsewhere."""
    runs = flow_with_task()
    runs.drop(2, now=0.0)
    assert runs.skippable_until() is None
    assert "task" not in runs.live
    assert runs.about_to_begin() == ["task"]


@pytest.mark.parametrize(("killed_at", "ends"), [(0.0, 300.0), (224.0, 300.0), (500.0, 750.0)])
def test_a_lease_is_over_when_a_dead_process_has_not_renewed_it(
    killed_at: float, ends: float
) -> None:
    """A lease ends 300 s after the last renewal, of one every 225 s, that the process lived for.

    Those who poll for a slot look again then.
    """
    runs = Runs()
    runs.leases["of the dead"] = Lease(2, since=0.0, seconds=300.0, every=225.0)
    runs.leases["of the living"] = Lease(1, since=0.0, seconds=300.0, every=225.0)
    runs.wait(1, 1, Wait(60.0, poller=7, slot=True))
    runs.wake(1, 1)
    runs.wait(1, 2, Wait(2000.0, poller=7, slot=True))
    assert runs.skippable_until() is None
    runs.drop(2, now=killed_at)
    assert runs.skippable_until() == ends
    assert runs.leases_over(ends - 1) == []
    assert runs.leases_over(ends) == ["of the dead"]
    assert runs.skippable_until() == 2000.0


def test_only_who_asks_for_a_slot_waits_for_the_end_of_a_lease() -> None:
    """Time is not skipped to the end of a lease if no run polls for a slot."""
    runs = Runs()
    runs.leases["of the dead"] = Lease(2, since=0.0, seconds=300.0, every=225.0)
    runs.drop(2, now=0.0)
    runs.wait(1, 1, Wait(900.0, run="flow"))
    assert runs.skippable_until() == 900.0


def test_the_end_of_a_flow_ends_what_it_submitted() -> None:
    """A task that had not begun when its flow ended is no longer expected to begin."""
    runs = flow_with_task()
    runs.submit(1, "forgotten", "flow", (), 2)
    runs.end("flow")
    assert runs.about_to_begin() == []


def test_a_poll_is_skipped_at_first_and_when_something_happens() -> None:
    """The first wait of a poll is skipped; each other one only after something else happened."""
    runs = Runs()
    runs.begin(1, "task", "load", "task", None)
    runs.wait(1, 1, Wait(30.0, poller=7))
    assert runs.skippable_until() == 30.0
    happenings: list[Callable[[], None]] = [lambda: runs.end("task"), lambda: runs.change()]
    for number, happens in enumerate(happenings, start=2):
        runs.wake(1, number - 1)
        runs.wait(1, number, Wait(60.0, poller=7))
        assert runs.skippable_until() is None
        happens()
        assert runs.skippable_until() == 60.0


def test_what_happens_before_a_poll_waits_again_is_seen() -> None:
    """What happens while somebody looks is worth another look."""
    runs = Runs()
    runs.wait(1, 1, Wait(30.0, poller=7))
    runs.wake(1, 1)
    runs.change()
    runs.wait(1, 2, Wait(60.0, poller=7))
    assert runs.skippable_until() == 60.0


def test_two_polls_do_not_wake_each_other() -> None:
    """A poll, and a wait for someone else that has an end, are no news for another one."""
    runs = Runs()
    for poller in (1, 2):
        runs.wait(1, poller, Wait(30.0, poller=poller))
        runs.wake(1, poller)
    for poller in (1, 2):
        runs.wait(1, poller, Wait(60.0, poller=poller))
        runs.wait(1, 10 + poller, Wait(90.0, gives_up=True))
    assert runs.skippable_until() == 90.0


@given(
    deadlines=st.lists(st.floats(0, 1e9), min_size=1),
    polls=st.lists(st.floats(0, 1e9)),
    ends=st.lists(st.floats(0, 1e9)),
)
def test_the_earliest_deadline_is_first(
    deadlines: list[float], polls: list[float], ends: list[float]
) -> None:
    """Time is skipped to the earliest wait; it is told who gives up then."""
    runs = Runs()
    waits = [
        *(Wait(deadline) for deadline in deadlines),
        *(Wait(deadline, poller=number) for number, deadline in enumerate(polls)),
        *(Wait(deadline, gives_up=True) for deadline in ends),
    ]
    for number, wait in enumerate(waits):
        runs.wait(1, number, wait)
    until = min(deadlines + polls + ends)
    assert runs.skippable_until() == until
    assert [wait.deadline for wait in runs.giving_up(until)] == [e for e in ends if e == until]


@given(
    start=st.floats(1, 100),
    other=st.one_of(st.none(), st.floats(1, 100)),
    poller=st.booleans(),
)
def test_time_is_not_skipped_for_what_waits_for_work_alone(
    start: float, other: float | None, poller: bool
) -> None:
    """A scheduled start is skipped to if and only if somebody else waits, and not beyond it."""
    runs = Runs()
    runs.wait(1, 1, Wait(start, poller=1, idle=True))
    if other is not None:
        runs.wait(1, 2, Wait(other, poller=2 if poller else None))
    until = None if other is None else min(start, other)
    assert runs.skippable_until() == until
    if poller and other is not None:
        # A poll that has seen everything does not let time pass by itself, but somebody waits.
        runs.wake(1, 2)
        runs.wait(1, 2, Wait(other, poller=2))
        assert runs.skippable_until() == start


def test_nothing_is_skipped_to_without_a_deadline() -> None:
    """What waits for work without a scheduled start is not skipped to, whoever else waits."""
    runs = Runs()
    runs.wait(1, 1, Wait(math.inf, poller=1, idle=True))
    runs.wait(1, 2, Wait(math.inf))
    assert runs.skippable_until() is None


@pytest.mark.parametrize("work", [True, False])
def test_what_waits_for_work_is_woken_by_new_work(work: bool) -> None:
    """It is over once something may have been scheduled, and then waits for the next time."""
    runs = Runs()
    runs.wait(1, 1, Wait(90.0, poller=1, idle=True))
    assert runs.due(10.0) == []
    runs.change(work)
    assert runs.due(10.0) == [(1, 1)] * work
    runs.wake(1, 1)
    runs.wait(1, 2, Wait(90.0, poller=1, idle=True))
    assert runs.due(10.0) == []
    assert runs.due(90.0) == [(1, 2)]
