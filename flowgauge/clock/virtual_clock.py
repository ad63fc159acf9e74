# SPDX-License-Identifier: Apache-2.0
"""The object behind the `virtual_clock` fixture: reads and advances virtual time."""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgauge.clock.coordinator import Coordinator
from flowgauge.clock.engine import clock_hooks
from flowgauge.clock.process import ClockProcess
from flowgauge.event_loop import held_up
from flowgauge.mistake import Mistake


class UnskippedWait(UserWarning):
    """A wait that took real time although the test uses the virtual clock."""


class VirtualClock:
    """Time that passes as usual, except that every wait of Prefect's engines is skipped.

    Retries, scheduled starts, cache expiry and the timestamps of states follow it. The actual work
    of tasks takes real time.
    """

    def __init__(self, process: ClockProcess, unskipped: dict[str, None]) -> None:
        """Start at real time."""
        self._process = process
        self.unskipped = unskipped
        self._start = time.time()

    def now(self) -> datetime.datetime:
        """Return virtual time, in UTC."""
        return datetime.datetime.fromtimestamp(self._process.time.now(), datetime.UTC)

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the test requested the clock, or its example of `@given` began."""
        return self._process.time.now() - self._start

    def begin_example(self) -> None:
        """Begin with an example of Hypothesis: `elapsed` counts from now on."""
        self._start = self._process.time.now()

    @property
    def skipped(self) -> float:
        """Seconds skipped so far."""
        return self._process.time.ahead

    def advance(self, seconds: float | datetime.timedelta) -> None:
        """Advance time; a wait that ends on the way wakes at its own deadline.

        Args:
            seconds: By how much.

        Raises:
            ValueError: If `seconds` is negative.
            Mistake: If a run is executed by the event loop that this call would block.
        """
        if isinstance(seconds, datetime.timedelta):
            seconds = seconds.total_seconds()
        if seconds < 0:
            raise ValueError(f"virtual_clock.advance({seconds:g}): time does not go back")
        if runs := held_up():
            kind = next(iter(runs.values()))
            raise Mistake(
                f"virtual_clock.advance: a {kind} stands still while this call blocks its event"
                " loop; write `await asyncio.to_thread(virtual_clock.advance, …)`"
            )
        self._process.sleep(seconds)

    def skip_sleep(self) -> None:
        """Skip `time.sleep`, `asyncio.sleep` and `anyio.sleep` in tasks and flows too.

        Timeouts of tasks and flows run in real time and do not count the skipped seconds.
        """
        self._process.time.skips_sleep = True


@contextmanager
def virtual_clock(process: ClockProcess, home: Path, api_url: str) -> Iterator[VirtualClock]:
    """Run the virtual clock for one test.

    Args:
        process: This process's side of the clock.
        home: The folder of the pytest run.
        api_url: The address of the API of the Prefect server.

    Yields:
        The clock.
    """
    shared = process.time
    try:
        with (
            clock_hooks(process),
            contextlib.closing(Coordinator(home, shared, api_url)) as coordinator,
        ):
            shared.running = True
            try:
                yield VirtualClock(process, coordinator.unskipped)
            finally:
                shared.running = shared.skips_sleep = False
    finally:
        shared.ahead = 0
    for what in coordinator.unskipped:
        warnings.warn(UnskippedWait(f"the virtual clock could not skip: {what}"), stacklevel=2)
