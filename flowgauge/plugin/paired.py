# SPDX-License-Identifier: Apache-2.0
"""The object behind the `paired` fixture: measures one thing relative to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.measure.pairs import Rounds, noise_of, paired_rounds, row
from flowgauge.plugin.recorder import BenchmarkRecorder
from flowgauge.results.rows import Row
from flowgauge.results.timelines import Timeline

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class Paired:
    """What the `paired` fixture gives: measures one thing relative to its reference."""

    def __init__(
        self, benchmark: BenchmarkFixture, item: pytest.Item, recorder: BenchmarkRecorder
    ) -> None:
        self.benchmark = benchmark
        self.item = item
        self.recorder = recorder

    def size(self, full: int) -> int:
        """Return how much work a round should hold: all, or a little where nothing is timed."""
        return min(2, full) if self.benchmark.disabled else full

    def __call__(
        self,
        candidate: Callable[[], Any],
        reference: Callable[[], Any] | None = None,
        *,
        check: Callable[[Any], bool],
        per: int = 1,
        id: str,
        group: str,
        figure: str,
        runner: str | None = None,
        against: str | None = None,
        params: dict[str, Any] | None = None,
        rounds: int | None = None,
    ) -> None:
        """Measure, and keep the row.

        Args:
            candidate: What is measured.
            reference: What it is measured against, in the same round; None for nothing.
            check: Says whether an answer, of either, is right.
            per: Units of work in one round of the candidate.
            id: The row's name within its group.
            group: One of `flowgauge.results.rows.Group`, or a name of one's own: the report shows
                its rows under that.
            figure: What the value is, for people.
            runner: The task runner measured, None where there is none.
            against: What the reference is, for people.
            params: What else tells this row from others.
            rounds: How many rounds to do, for what is too slow for the usual number.
        """
        self.benchmark.group = group
        times = paired_rounds(
            self.benchmark, candidate, reference, check, rounds or self.recorder.budget
        )
        self.keep(
            times,
            per=per,
            id=id,
            group=group,
            figure=figure,
            runner=runner,
            reference=against,
            params=params or {},
        )

    def against_itself(
        self, candidate: Callable[[], Any], *, of: str, id: str, figure: str, **more: Any
    ) -> None:
        """Measure the same thing twice in each round: what differs then is noise.

        Args:
            candidate: What is measured.
            of: The group whose rows are judged by it.
            id: The row's name.
            figure: What the value is, for people.
            **more: As for measuring: `check`, `per`, `runner` and `rounds`.
        """
        labels: dict[str, Any] = {"id": id, "figure": figure, **noise_of(of)}
        self(candidate, candidate, against=labels.pop("reference"), **labels, **more)

    def keep(self, times: Rounds, *, per: int = 1, **labels: Any) -> None:
        """Keep a row of rounds, also of some that were timed elsewhere.

        Args:
            times: The rounds; nothing is kept of none.
            per: Units of work in one round of the candidate.
            **labels: As for `flowgauge.measure.pairs.row`.
        """
        if not times.candidate:
            return
        made = row(times, per=per, **labels)
        self.benchmark.extra_info.update(
            {
                "runner": made.runner,
                "per": per,
                "reference": made.reference,
                "ratio": made.ratio and made.ratio.median,
            }
        )
        self.add([made])

    def keep_timeline(self, timeline: Timeline) -> None:
        """Keep when each task of a workflow ran, for the report, unless nothing is timed."""
        if not self.benchmark.disabled:
            self.recorder.timelines[timeline.workflow, timeline.runner] = timeline

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows as they are, unless nothing is timed; the last one is shown.

        Args:
            rows: One or more.
        """
        if self.benchmark.disabled:
            return
        self.recorder.measured.setdefault(self.item.nodeid, []).extend(rows)
