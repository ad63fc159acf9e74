# SPDX-License-Identifier: Apache-2.0
"""The progress of a benchmark run, and an estimate of the time that is left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_PRIOR = 0.01
"""For this share of a run it is taken to be about as fast as the one with the known durations."""


@dataclass
class RunProgress:
    """How far a benchmark run is, and how long it will still take.

    Attributes:
        names: The name of each benchmark of this run by its test, in the order of the run.
        earlier: How many benchmarks ended in the run that this one resumes.
        expected: Seconds that benchmarks took in an earlier run like this one, by test.
        durations: Seconds that those that have ended took, by test.
        clock: Returns the time in seconds.
    """

    names: Mapping[str, str]
    earlier: int = 0
    expected: Mapping[str, float] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _began: float | None = None
    _test_began: float = 0.0
    _estimates: list[tuple[float, float]] = field(default_factory=list)
    _bar: tuple[Progress, TaskID] | None = None
    _visible: bool = False

    @property
    def total(self) -> int:
        """The number of benchmarks, with those of the run that this one resumes."""
        return self.earlier + len(self.names)

    @property
    def done(self) -> int:
        """How many of them have ended."""
        return self.earlier + len(self.durations)

    def begin(self, test: str) -> None:
        """Note that a benchmark begins, and estimate how long the rest takes."""
        self._test_began = self.clock()
        if self._began is None:
            self._began = self._test_began
        left = self._left()
        if left is not None:
            self._estimates.append((self._test_began - self._began, left))

    def end(self, test: str) -> None:
        """Note that a benchmark has ended."""
        self.durations[test] = self.clock() - self._test_began

    def _left(self) -> float | None:
        """Return the seconds that are left, or None if nothing is known yet.

        A benchmark takes as long as it took before, times what those that have ended took longer.
        """
        known = [self.expected[test] for test in self.names if test in self.expected]
        typical = statistics.fmean(known) if known else 1.0
        prior = _PRIOR * sum(known)
        ended = prior + sum(self.expected.get(test, typical) for test in self.durations)
        if not ended or self._began is None:
            return None
        slower = (prior + self._test_began - self._began) / ended
        remaining = (test for test in self.names if test not in self.durations)
        return slower * sum(self.expected.get(test, typical) for test in remaining)

    def after_a_quarter(self) -> dict[str, float]:
        """Return what was estimated after a quarter of the run, and what was true, in seconds."""
        if self._began is None:
            return {}
        total = self.clock() - self._began
        for elapsed, left in self._estimates:
            if elapsed >= total / 4:
                return {
                    "estimated_seconds_left": round(left, 1),
                    "seconds_left": round(total - elapsed, 1),
                }
        return {}

    def show(self, test: str, terminal: IO[str]) -> None:
        """Draw a progress bar while a benchmark runs; nothing is redrawn during it.

        Args:
            test: The benchmark, which has begun.
            terminal: What to draw on, at the start of a line.
        """
        if self._bar is None:
            self._bar = _drawn_on(terminal, self.total, self.earlier)
        bar, task = self._bar
        self.hide()
        description = f"{self._estimate()}· {self.names[test]}"
        bar.update(task, completed=self.done, description=description)
        bar.start()
        self._visible = True

    def _estimate(self) -> str:
        from flowgauge.report.model.formats import duration

        left = self._left()
        return "" if left is None else f"about {duration(left)} left "

    def hide(self) -> None:
        """Erase the progress bar, if there is one."""
        if self._bar is not None and self._visible:
            self._bar[0].stop()
            self._visible = False


def _drawn_on(terminal: IO[str], total: int, done: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    bar = Progress(
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False, table_column=one_line),
        console=Console(file=terminal, force_terminal=True),
        # A thread that redraws would disturb what is measured.
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    return bar, bar.add_task("", total=total, completed=done)
