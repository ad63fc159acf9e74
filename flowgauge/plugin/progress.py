# SPDX-License-Identifier: Apache-2.0
"""The progress of a benchmark run, and an estimate of its duration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class RunProgress:
    """How far a benchmark run is.

    Attributes:
        total: The number of benchmarks.
        done: How many of them have ended.
        earlier: How many of those ended in the run that this one resumes.
    """

    total: int
    done: int = 0
    earlier: int = 0
    _bar: tuple[Progress, TaskID] | None = None
    _visible: bool = False

    def show(self, name: str, terminal: IO[str]) -> None:
        """Draw a progress bar while a benchmark runs; nothing is redrawn during it.

        Args:
            name: The benchmark.
            terminal: What to draw on, at the start of a line.
        """
        if self._bar is None:
            self._bar = _drawn_on(terminal, self.total, self.earlier)
        bar, task = self._bar
        self.hide()
        estimate = self._estimate(bar.tasks[0].elapsed or 0.0)
        bar.update(task, completed=self.done, description=f"{estimate}· {name}")
        bar.start()
        self._visible = True

    def _estimate(self, elapsed: float) -> str:
        """Estimate the duration of the whole run from its benchmarks so far."""
        from flowgauge.report.model.formats import duration

        measured = self.done - self.earlier
        if not measured:
            return ""
        return f"of about {duration(elapsed * (self.total - self.earlier) / measured)} "

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
