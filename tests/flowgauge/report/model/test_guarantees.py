# SPDX-License-Identifier: Apache-2.0
"""The guarantee matrix says what was proved, on which runner, and never more than that."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import Guarantee, Pattern
from flowgauge.report.model.guarantees import (
    STATUSES,
    GuaranteeCell,
    GuaranteeMatrix,
    GuaranteeRow,
    ProofOutcome,
)

RUNNERS = ("sequential", "threads")
BACKOFF = Pattern(
    name="retries/backoff",
    path=Path("patterns/retries/backoff.py"),
    summary="Retry with `delays`.",
    problem="Down.",
    guarantees=(
        Guarantee("attempts", "tried `retries + 1` | times."),
        Guarantee("delays", "grow."),
    ),
    not_for="None.",
    costs="None.",
    sources=("Prefect #14745",),
    dependencies=("prefect<4",),
    requires_python=">=3.11",
)


def outcome(
    status: str,
    runner: str | None = "threads",
    guarantee: str = "attempts",
    *,
    pattern: str = "retries/backoff",
    reason: str = "",
    issue: int | None = None,
    test: str = "test_backoff.py::test_it",
) -> ProofOutcome:
    """Return the outcome of one test."""
    return ProofOutcome(pattern, guarantee, runner, status, reason, issue, test)


def row(*outcomes: ProofOutcome) -> GuaranteeRow:
    """Return the row of the guarantee `attempts`."""
    return GuaranteeMatrix.build((BACKOFF,), RUNNERS, outcomes).patterns[0].rows[0]


def statuses(*outcomes: ProofOutcome) -> dict[str | None, str]:
    """Return the status of `attempts` on each runner."""
    return {cell.runner: cell.status for cell in row(*outcomes).cells}


@pytest.mark.parametrize(("worse", "better"), list(combinations(STATUSES, 2)))
def test_the_worst_outcome_counts(worse: str, better: str) -> None:
    """If tests disagree, the worst counts: failed, does not hold, proved, and last not run."""
    for pair in ((worse, better), (better, worse)):
        said = [outcome(status, test=status) for status in pair]
        cell = row(*said).cells[1]
        assert (cell.status, cell.tests) == (worse, (worse,))


def test_a_runner_without_a_test_is_not_run() -> None:
    """What was proved on one runner says nothing about another."""
    assert statuses(outcome("proved")) == {"sequential": "not run", "threads": "proved"}


def test_a_guarantee_that_needs_no_runner_has_one_cell() -> None:
    """A guarantee whose tests take no task runner has one cell for all runners."""
    assert row(outcome("proved", None)).cells == (
        GuaranteeCell(None, "proved", tests=("test_backoff.py::test_it",)),
    )


def test_a_proof_without_a_runner_proves_nothing_on_other_runners() -> None:
    """If other tests take a runner, a test without one proves nothing where none of them ran."""
    said = (outcome("proved", "threads"), outcome("proved", None))
    assert statuses(*said) == {"sequential": "not run", "threads": "proved"}


@pytest.mark.parametrize("status", ["failed", "does not hold"])
def test_a_failure_without_a_runner_counts_on_every_runner(status: str) -> None:
    """If a test without a runner fails or does not hold, this counts on every runner."""
    said = (outcome("proved", "threads"), outcome(status, None))
    assert statuses(*said) == {"sequential": status, "threads": status}


def test_a_guarantee_that_no_test_named_is_not_run() -> None:
    """Every guarantee of the catalogue has a row, even if nothing was run."""
    (pattern,) = GuaranteeMatrix.build((BACKOFF,), RUNNERS, ()).patterns
    assert [(r.id, r.cells) for r in pattern.rows] == [
        ("attempts", (GuaranteeCell(None, "not run"),)),
        ("delays", (GuaranteeCell(None, "not run"),)),
    ]


def test_what_is_not_in_the_catalogue_has_rows_too() -> None:
    """Guarantees and patterns that only a test names come after those of the catalogue."""
    said = (
        outcome("proved", guarantee="more"),
        outcome("proved", guarantee="mine", pattern="my/flow"),
    )
    matrix = GuaranteeMatrix.build((BACKOFF,), RUNNERS, said)
    assert [(p.name, [r.id for r in p.rows]) for p in matrix.patterns] == [
        ("retries/backoff", ["attempts", "delays", "more"]),
        ("my/flow", ["mine"]),
    ]


def test_a_test_left_out_on_all_runners_gets_no_column() -> None:
    """A test that was skipped because all its runners were excluded is one cell with a reason."""
    matrix = GuaranteeMatrix.build(
        (BACKOFF,), RUNNERS, [outcome("not run", "none", reason="left out")]
    )
    assert matrix.runners == RUNNERS
    (cell,) = matrix.patterns[0].rows[0].cells
    assert (cell.runner, cell.status, cell.reason) == (None, "not run", "left out")


def test_a_failure_on_a_runner_that_was_not_named_is_not_lost() -> None:
    """A runner that only a test names gets a column."""
    matrix = GuaranteeMatrix.build((BACKOFF,), RUNNERS, [outcome("failed", "ray")])
    assert matrix.runners == (*RUNNERS, "ray")
    assert matrix.patterns[0].rows[0].cells[2].status == "failed"


def test_the_reason_is_that_of_the_status_shown() -> None:
    """A cell's reason and issue come from the tests whose status it shows."""
    cell = row(
        outcome("not run", reason="no Dask"),
        outcome("does not hold"),
        outcome("does not hold", reason="threads wait", issue=15760),
    ).cells[1]
    assert (cell.reason, cell.issue) == ("threads wait", 15760)
    assert cell.link == "https://github.com/PrefectHQ/prefect/issues/15760"


def test_one_reason_of_several_runners_is_said_once() -> None:
    """Runners that share a reason share a note; a failure without a reason has a note, too."""
    same = row(*(outcome("does not hold", name, reason="waits") for name in RUNNERS))
    assert [note.runners for note in same.notes()] == [RUNNERS]
    apart = row(
        outcome("failed", "threads"), outcome("does not hold", "sequential", reason="waits")
    )
    assert [note.runners for note in apart.notes()] == [("sequential",), ("threads",)]


def test_what_is_proved_needs_no_note() -> None:
    """A row without a reason or a failure has no note."""
    assert row(outcome("proved"), outcome("not run", "sequential")).notes() == ()


def test_the_summary_counts_cells_worst_first() -> None:
    """The summary counts the cells of each status that occurs, the worst status first."""
    said = (
        outcome("proved", "sequential"),
        outcome("failed", "threads"),
        outcome("does not hold", "sequential", "delays"),
        outcome("does not hold", "threads", "delays"),
    )
    matrix = GuaranteeMatrix.build((BACKOFF,), RUNNERS, said)
    assert matrix.summary() == "1 failed, 2 do not hold, 1 proved"
