# SPDX-License-Identifier: Apache-2.0
"""The progress of a benchmark run, and an estimate of its duration."""

from __future__ import annotations

from dataclasses import dataclass

_WIDTH = 20


@dataclass
class Progress:
    """How far a benchmark run is.

    Attributes:
        total: The number of benchmarks.
        done: How many of them have ended.
        earlier: How many of those ended in the run that this one resumes.
    """

    total: int
    done: int = 0
    earlier: int = 0

    def count(self) -> str:
        """Return how many have ended, such as "[3/97]"."""
        return f"[{self.done}/{self.total}]"

    def bar(self, name: str, elapsed: float, columns: int) -> str:
        """Return a progress bar to show while a benchmark runs.

        Args:
            name: The benchmark.
            elapsed: Seconds for which this run has measured.
            columns: The maximum width of the line.

        Returns:
            One line, for example `#####----- 3:10 of about 9:30 · test_metg[threads]`.
        """
        filled = round(_WIDTH * self.done / self.total) if self.total else 0
        bar = "#" * filled + "-" * (_WIDTH - filled)
        return f"{bar} {clock(elapsed)}{self._of(elapsed)} · {name}"[: columns - 1]

    def _of(self, elapsed: float) -> str:
        """Estimate the duration of the whole run from its benchmarks so far."""
        measured = self.done - self.earlier
        if not measured:
            return ""
        return f" of about {clock(elapsed * (self.total - self.earlier) / measured)}"


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, for example "3:10"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
