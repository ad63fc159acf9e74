# SPDX-License-Identifier: Apache-2.0
"""Says how far a long run is, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

_WIDTH = 20


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        total: How many benchmarks there are.
        done: How many of them have ended.
        earlier: How many of those ended in an earlier run, which took no time of this one.
    """

    total: int
    done: int = 0
    earlier: int = 0

    def count(self) -> str:
        """Return how many have ended, as "[3/97]"."""
        return f"[{self.done}/{self.total}]"

    def bar(self, name: str, elapsed: float, columns: int) -> str:
        """Draw how far the run is while a benchmark runs.

        Args:
            name: The benchmark.
            elapsed: Seconds that this run has measured.
            columns: How wide the line may be.

        Returns:
            One line, for example `#####----- 3:10 of about 9:30 · test_metg[threads]`.
        """
        filled = round(_WIDTH * self.done / self.total) if self.total else 0
        bar = "#" * filled + "-" * (_WIDTH - filled)
        return f"{bar} {clock(elapsed)}{self._of(elapsed)} · {name}"[: columns - 1]

    def _of(self, elapsed: float) -> str:
        """Estimate the whole run by what its benchmarks have taken so far."""
        measured = self.done - self.earlier
        if not measured:
            return ""
        return f" of about {clock(elapsed * (self.total - self.earlier) / measured)}"


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds, for example "3:10"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
