# SPDX-License-Identifier: Apache-2.0
"""The guarantee matrix: what a pytest run proved, for each pattern on each task runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from flowgauge.catalogue.catalogue import Pattern

STATUSES = ("failed", "does not hold", "proved", "not run")
"""The possible statuses of a guarantee; if tests disagree, the first of these counts."""

MARKS = dict(zip(STATUSES, "✗⊘✓·", strict=True))
"""A sign for each status, to be shown next to the word."""


@dataclass(frozen=True)
class ProofOutcome:
    """The outcome of one test for one guarantee.

    Attributes:
        pattern: The pattern's name.
        guarantee: The guarantee's id.
        runner: The task runner it ran on; None if the guarantee doesn't depend on one.
        status: One of `STATUSES`.
        reason: Why it does not hold, or was not run.
        issue: The number of the Prefect issue about that.
        test: The node id of the test.
    """

    pattern: str
    guarantee: str
    runner: str | None
    status: str
    reason: str
    issue: int | None
    test: str


@dataclass(frozen=True)
class GuaranteeCell:
    """The status of a guarantee on one task runner, or on any if `runner` is None."""

    runner: str | None
    status: str
    reason: str = ""
    issue: int | None = None
    tests: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """The status as a sign, to be shown next to the word."""
        return MARKS[self.status]

    @property
    def link(self) -> str:
        """The address of the Prefect issue, empty if there is none."""
        return f"https://github.com/PrefectHQ/prefect/issues/{self.issue}" if self.issue else ""


@dataclass(frozen=True)
class Note:
    """The reason why some cells of a row are not proved, once for all cells that share it."""

    runners: tuple[str, ...]
    cell: GuaranteeCell


@dataclass(frozen=True)
class GuaranteeRow:
    """A guarantee, with one cell for each task runner, or a single one for all of them."""

    id: str
    text: str
    cells: tuple[GuaranteeCell, ...]

    def notes(self) -> tuple[Note, ...]:
        """Return the notes on the cells that are not proved."""
        alike: dict[tuple[str, str, int | None], list[GuaranteeCell]] = {}
        for cell in self.cells:
            if cell.status == "failed" or cell.reason:
                alike.setdefault((cell.status, cell.reason, cell.issue), []).append(cell)
        return tuple(
            Note(tuple(c.runner for c in cells if c.runner), cells[0]) for cells in alike.values()
        )


@dataclass(frozen=True)
class PatternRows:
    """A pattern and its guarantees."""

    name: str
    summary: str
    rows: tuple[GuaranteeRow, ...]

    def counts(self) -> dict[str, int]:
        """Return how many cells there are of each status that occurs."""
        return _counts((self,))


@dataclass(frozen=True)
class GuaranteeMatrix:
    """Pattern by guarantee by task runner."""

    runners: tuple[str, ...]
    patterns: tuple[PatternRows, ...]

    @classmethod
    def build(
        cls, patterns: Sequence[Pattern], runners: tuple[str, ...], outcomes: Iterable[ProofOutcome]
    ) -> Self:
        """Build the matrix from the outcomes of a pytest run.

        Args:
            patterns: The catalogue; other patterns that outcomes name get rows after it.
            runners: The task runners of the run, a column for each.
            outcomes: The outcomes of the tests.

        Returns:
            The matrix; if several tests belong to a cell, the first of `STATUSES` counts.
        """
        outcomes = tuple(outcomes)
        tested = (o.runner for o in outcomes if o.runner and o.status != "not run")
        columns = tuple(dict.fromkeys((*runners, *tested)))
        by_guarantee: dict[str, dict[str, list[ProofOutcome]]] = {}
        for pattern in patterns:
            by_guarantee[pattern.name] = {id_: [] for id_ in pattern.ids}
        for outcome in outcomes:
            of_pattern = by_guarantee.setdefault(outcome.pattern, {})
            of_pattern.setdefault(outcome.guarantee, []).append(outcome)
        texts = {(p.name, g.id): g.text for p in patterns for g in p.guarantees}
        texts |= {
            (p.name, f.id): f"Prefect {', '.join(f.versions)}: {f.text}"
            for p in patterns
            for f in p.facts
        }
        summaries = {p.name: p.summary for p in patterns}
        return cls(
            columns,
            tuple(
                PatternRows(
                    name,
                    summaries.get(name, ""),
                    tuple(
                        GuaranteeRow(id_, texts.get((name, id_), ""), _cells(columns, of_row))
                        for id_, of_row in guarantees.items()
                    ),
                )
                for name, guarantees in by_guarantee.items()
            ),
        )

    def summary(self) -> str:
        """Return the counts of all cells as text: "31 proved, 2 not run"."""
        return ", ".join(counted(count, status) for status, count in self.counts().items())

    def counts(self) -> dict[str, int]:
        """Return how many cells there are of each status that occurs."""
        return _counts(self.patterns)


def _counts(patterns: Iterable[PatternRows]) -> dict[str, int]:
    counter = Counter(cell.status for p in patterns for row in p.rows for cell in row.cells)
    return {status: counter[status] for status in STATUSES if status in counter}


def counted(count: int, status: str) -> str:
    """Return a count with its status as text: "2 do not hold"."""
    return f"{count} {status if count == 1 else status.replace('does', 'do')}"


def _cells(columns: tuple[str, ...], outcomes: Sequence[ProofOutcome]) -> tuple[GuaranteeCell, ...]:
    """Return the cells of a guarantee: one for all runners, if no test of it ran on one."""
    anywhere = [o for o in outcomes if o.runner not in columns]
    if len(anywhere) == len(outcomes):
        return (_cell(None, anywhere),)
    return tuple(_runner_cell(column, outcomes, anywhere) for column in columns)


def _runner_cell(
    column: str, outcomes: Sequence[ProofOutcome], anywhere: Sequence[ProofOutcome]
) -> GuaranteeCell:
    here = [o for o in outcomes if o.runner == column]
    # A test without a runner can fail a cell, but it proves nothing about a runner that no test
    # ran on.
    counting = [o for o in anywhere if here or o.status in ("failed", "does not hold")]
    return _cell(column, [*here, *counting])


def _cell(runner: str | None, outcomes: Sequence[ProofOutcome]) -> GuaranteeCell:
    if not outcomes:
        return GuaranteeCell(runner, "not run")
    status = min((o.status for o in outcomes), key=STATUSES.index)
    deciding = [o for o in outcomes if o.status == status]
    explained = next((o for o in deciding if o.reason), deciding[0])
    tests = tuple(dict.fromkeys(o.test for o in deciding))
    return GuaranteeCell(runner, status, explained.reason, explained.issue, tests)
