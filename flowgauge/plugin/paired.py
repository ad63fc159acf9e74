# SPDX-License-Identifier: Apache-2.0
"""The object behind the `paired` fixture: measures a candidate relative to a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.measure.budget import Budget
from flowgauge.measure.pairs import Rounds, noise_of, paired_rounds, row
from flowgauge.mistake import Mistake
from flowgauge.plugin.recorder import BenchmarkRecorder
from flowgauge.plugin.session import RUN_OPTIONS
from flowgauge.results.rows import Row
from flowgauge.results.timelines import Timeline
from flowgauge.runners.table import names_where

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class Paired:
    """The object behind the `paired` fixture: measures a candidate relative to its reference.

    Args:
        benchmark: The fixture of pytest-benchmark.
        item: The test.
        recorder: The recorder that collects the rows of the pytest run.
    """

    def __init__(
        self, benchmark: BenchmarkFixture, item: pytest.Item, recorder: BenchmarkRecorder
    ) -> None:
        self.benchmark = benchmark
        self.item = item
        self.recorder = recorder

    def size(self, full: int) -> int:
        """Return the amount of work for a round.

        Args:
            full: The amount to time, for example a number of tasks.

        Returns:
            `full`, or at most 2 if nothing is timed.
        """
        return min(2, full) if self.benchmark.disabled else full

    def budget(self, min_rounds: int) -> Budget:
        """Return how long to measure what is timed elsewhere.

        Args:
            min_rounds: The fewest rounds.

        Returns:
            At least so many rounds; a single one if nothing is timed.
        """
        if self.benchmark.disabled:
            return Budget(1, max_time=0.0)
        return replace(self.recorder.budget, min_rounds=min_rounds)

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
        """Measure the time and the memory of both, and record the row.

        Args:
            candidate: The function to measure; an async one is awaited.
            reference: The function to compare it with, called in the same round, async or not;
                None for no reference.
            check: Returns whether a result, of either function, is right.
            per: Units of work in one round of the candidate.
            id: The row's name within its group.
            group: One of `flowgauge.results.rows.Group`, or any other name; it becomes a heading
                of the report.
            figure: A description of the value, for people.
            runner: The task runner measured, None where there is none.
            against: A description of the reference, for people.
            params: Whatever else distinguishes this row from others.
            rounds: The number of rounds, for a candidate too slow for the usual number. The round
                before them, in which memory is measured, is then left out without `--flow-full`.
        """
        self.benchmark.group = group
        try:
            times = paired_rounds(
                self.benchmark,
                candidate,
                reference,
                check,
                rounds or self.recorder.shared_budget(group),
                warm_up=self.recorder.full,
            )
        except Mistake as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        self.recorder.use_time(group, sum(times.candidate) + sum(times.reference))
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
        """Measure the candidate twice in each round, so that any difference is noise.

        Args:
            candidate: The function to measure.
            of: The group whose rows are judged by this noise.
            id: The row's name.
            figure: A description of the value, for people.
            **more: `check`, `per`, `runner` and `rounds`, as for `__call__`.
        """
        labels: dict[str, Any] = {"id": id, "figure": figure, **noise_of(of)}
        self(candidate, candidate, against=labels.pop("reference"), **labels, **more)

    def keep(self, times: Rounds, *, per: int = 1, **labels: Any) -> None:
        """Record rounds as a row, including rounds that were timed elsewhere.

        Args:
            times: The rounds; without any, nothing is recorded.
            per: Units of work in one round of the candidate.
            **labels: As for `flowgauge.measure.pairs.row`.
        """
        if not times.candidate:
            return
        measured = row(times, per=per, **labels)
        self.benchmark.extra_info.update(
            {
                "runner": measured.runner,
                "per": per,
                "reference": measured.reference,
                "ratio": measured.ratio and measured.ratio.median,
            }
        )
        self.add([measured])

    def keep_timeline(self, timeline: Timeline) -> None:
        """Record when each task of a workflow ran, for the report, unless nothing is timed.

        Args:
            timeline: A typical run; it replaces an earlier one of the same workflow and runner.
        """
        if not self.benchmark.disabled:
            self.recorder.timelines[timeline.workflow, timeline.runner] = timeline

    def add(self, rows: Iterable[Row]) -> None:
        """Record finished rows, unless nothing is timed.

        Args:
            rows: One or more; the last one is printed as the test's outcome.
        """
        if self.benchmark.disabled:
            return
        # The memory of workers that pytest did not start is not seen.
        borrows = self.item.config.stash[RUN_OPTIONS].dask_address is not None
        unseen = names_where(lambda runner: borrows and runner.on_dask_workers)
        seen = (replace(row, memory=None) if row.runner in unseen else row for row in rows)
        self.recorder.measured.setdefault(self.item.nodeid, []).extend(seen)
