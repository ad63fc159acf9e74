# SPDX-License-Identifier: Apache-2.0
"""The slot of a killed process is free when its lease is over, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.concurrency.sync import concurrency
from prefect.task_runners import TaskRunner

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.faults.points import kill_this_process

LEASE = 300.0
"""Seconds that a lease lasts by default."""
POLL = 60.0
"""More than the seconds after which a run asks for a slot again, by default."""


def limit_to_one(name: str) -> None:
    """Create a limit with one slot."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)


@task
def hold(limit: str, killed: Path) -> str:
    """Take the slot; the first process that has it is killed."""
    with concurrency(limit, strict=True):
        if not killed.exists():
            killed.touch()
            kill_this_process()
        return "held"


@pytest.mark.runners("processes")
def test_another_run_gets_the_slot_of_a_killed_worker(
    virtual_clock: VirtualClock, task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """The next flow run waits until the lease of the killed worker is over; that takes no time."""
    limit_to_one("pool")

    @flow(task_runner=task_runner)
    def holds() -> str:
        return hold.submit("pool", tmp_path / "killed").result()

    assert holds(return_state=True).is_failed()
    assert virtual_clock.elapsed < LEASE / 2
    assert holds() == "held"
    assert LEASE - 5 <= virtual_clock.elapsed <= LEASE + POLL
    assert not virtual_clock.unskipped


@pytest.mark.runners("dask-processes")
def test_a_task_that_dask_repeats_gets_its_own_slot_back(
    virtual_clock: VirtualClock, task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task whose worker was killed waits for the slot that it still has, which takes no time."""
    limit_to_one("dask")

    @flow(task_runner=task_runner)
    def holds() -> str:
        return hold.submit("dask", tmp_path / "killed").result()

    assert holds() == "held"
    assert LEASE - 5 <= virtual_clock.elapsed <= LEASE + POLL
    assert not virtual_clock.unskipped


@task(retries=1, retry_delay_seconds=3 * LEASE, tags=["kept"])
def fail_once(failed: Path) -> None:
    """Fail the first time; the slot of the tag is kept until the retry."""
    if not failed.exists():
        failed.touch()
        raise ValueError("not yet")


@pytest.mark.runners("processes", "threads")
def test_nobody_takes_the_slot_of_a_process_that_lives(
    virtual_clock: VirtualClock, task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task keeps its slot for longer than a lease lasts in virtual time; others come after it."""
    limit_to_one("tag:kept")

    @flow(task_runner=task_runner)
    def in_turn() -> None:
        for future in [fail_once.submit(tmp_path / name) for name in ("first", "second")]:
            future.result()

    in_turn()
    assert virtual_clock.elapsed >= 2 * 3 * LEASE
