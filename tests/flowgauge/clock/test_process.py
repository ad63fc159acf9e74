# SPDX-License-Identifier: Apache-2.0
"""What a process sees of its runs: what their threads do, judging from their stack frames."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from prefect.futures import PrefectConcurrentFuture, as_completed, wait

from flowgauge.clock.sightings import look_at
from flowgauge.waiting import wait_until

HOUR = 3600.0


class OwnFuture(PrefectConcurrentFuture[int]):
    """The future of a custom task runner, which waits in its own code."""

    def __init__(self) -> None:
        self.ending: Future[int] = Future()
        super().__init__(uuid.uuid4(), self.ending)
        self.over = threading.Event()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the task run."""
        self.over.wait(timeout)

    def end(self) -> None:
        """Let its task run end."""
        self.over.set()
        self.ending.set_result(0)


def awaited_by(waits: Callable[[], object], end: Callable[[], object], doing: str) -> list[str]:
    """Return the runs that a thread waits for, once it is seen to wait."""
    thread = threading.Thread(target=waits, daemon=True)
    thread.start()

    def seen() -> list[list[str]]:
        frame = sys._current_frames()[thread.ident or 0]
        what, awaited, _ = look_at(frame, is_async=False)
        return [awaited] if what == doing else []

    try:
        return wait_until(seen, f"a thread that {doing}")[0]
    finally:
        end()
        thread.join()


def test_a_thread_that_waits_for_a_custom_future_waits_for_its_run() -> None:
    """A wait is recognised by the class of the future, wherever its code is."""
    future = OwnFuture()
    awaited = awaited_by(lambda: future.wait(), future.end, "waits for runs")
    assert awaited == [str(future.task_run_id)]


@pytest.mark.parametrize(
    "waits",
    [
        lambda futures: wait(futures, timeout=HOUR),
        lambda futures: list(as_completed(futures, HOUR)),
    ],
    ids=["wait", "as_completed"],
)
def test_a_thread_that_waits_for_many_futures_waits_for_all_their_runs(
    waits: Callable[[list[OwnFuture]], object],
) -> None:
    """A thread in Prefect's `wait` or `as_completed` waits for the runs of all pending futures."""
    futures = [OwnFuture(), OwnFuture()]

    def end() -> None:
        for future in futures:
            future.end()

    awaited = awaited_by(lambda: waits(futures), end, "waits for runs")
    assert sorted(awaited) == sorted(str(future.task_run_id) for future in futures)


def test_a_thread_that_waits_for_something_else_waits_for_no_run() -> None:
    """A thread that waits for an event does not wait for a run."""
    over = threading.Event()
    assert awaited_by(over.wait, over.set, "waits") == []
