# SPDX-License-Identifier: Apache-2.0
"""The guarantee matrix says what was proved, on which runner, and never more than that."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import Guarantee, Pattern
from flowgauge.report.guarantees import STATUSES, Cell, Matrix, Outcome, Row, write

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
) -> Outcome:
    """Return what one test says."""
    return Outcome(pattern, guarantee, runner, status, reason, issue, test)


def row(*outcomes: Outcome) -> Row:
    """Return the row of the guarantee `attempts`."""
    return Matrix.build((BACKOFF,), RUNNERS, outcomes).patterns[0].rows[0]


def statuses(*outcomes: Outcome) -> dict[str | None, str]:
    """Return the status of `attempts` on each runner."""
    return {cell.runner: cell.status for cell in row(*outcomes).cells}


@pytest.mark.parametrize(("worse", "better"), list(combinations(STATUSES, 2)))
def test_the_worst_that_a_test_says_counts(worse: str, better: str) -> None:
    """Where tests disagree: failed before does not hold, before proved, before not run."""
    for pair in ((worse, better), (better, worse)):
        said = [outcome(status, test=status) for status in pair]
        cell = row(*said).cells[1]
        assert (cell.status, cell.tests) == (worse, (worse,))


def test_a_runner_without_a_test_is_not_run() -> None:
    """What was proved on one runner says nothing about another."""
    assert statuses(outcome("proved")) == {"sequential": "not run", "threads": "proved"}


def test_a_guarantee_that_needs_no_runner_has_one_cell() -> None:
    """A guarantee whose tests take no task runner has one cell for all of them."""
    assert row(outcome("proved", None)).cells == (
        Cell(None, "proved", tests=("test_backoff.py::test_it",)),
    )


def test_a_proof_without_a_runner_is_none_for_a_runner_without_proofs() -> None:
    """Beside tests on runners, one without proves nothing where no other test ran."""
    said = (outcome("proved", "threads"), outcome("proved", None))
    assert statuses(*said) == {"sequential": "not run", "threads": "proved"}


@pytest.mark.parametrize("status", ["failed", "does not hold"])
def test_a_failure_without_a_runner_is_one_on_every_runner(status: str) -> None:
    """A test without a runner that fails takes the proof from all runners."""
    said = (outcome("proved", "threads"), outcome(status, None))
    assert statuses(*said) == {"sequential": status, "threads": status}


def test_a_guarantee_that_no_test_named_is_not_run() -> None:
    """Every guarantee of the catalogue has a row, also if nothing was run."""
    (pattern,) = Matrix.build((BACKOFF,), RUNNERS, ()).patterns
    assert [(r.id, r.cells) for r in pattern.rows] == [
        ("attempts", (Cell(None, "not run"),)),
        ("delays", (Cell(None, "not run"),)),
    ]


def test_what_is_not_in_the_catalogue_has_rows_too() -> None:
    """Guarantees and patterns that only a test names come after those of the catalogue."""
    said = (
        outcome("proved", guarantee="more"),
        outcome("proved", guarantee="mine", pattern="my/flow"),
    )
    matrix = Matrix.build((BACKOFF,), RUNNERS, said)
    assert [(p.name, [r.id for r in p.rows]) for p in matrix.patterns] == [
        ("retries/backoff", ["attempts", "delays", "more"]),
        ("my/flow", ["mine"]),
    ]


def test_a_test_left_out_on_all_runners_gets_no_column() -> None:
    """A test that was skipped because no runner was left is one cell, with the reason."""
    matrix = Matrix.build((BACKOFF,), RUNNERS, [outcome("not run", "none", reason="left out")])
    assert matrix.runners == RUNNERS
    (cell,) = matrix.patterns[0].rows[0].cells
    assert (cell.runner, cell.status, cell.reason) == (None, "not run", "left out")


def test_a_failure_on_a_runner_that_was_not_named_is_not_lost() -> None:
    """A runner that only a test knows gets a column."""
    matrix = Matrix.build((BACKOFF,), RUNNERS, [outcome("failed", "ray")])
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
    """Runners that share a reason share a note; a failure is noted without one."""
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
    """The summary counts the cells of each status that occurs."""
    said = (
        outcome("proved", "sequential"),
        outcome("failed", "threads"),
        outcome("does not hold", "sequential", "delays"),
        outcome("does not hold", "threads", "delays"),
    )
    matrix = Matrix.build((BACKOFF,), RUNNERS, said)
    assert matrix.summary() == "1 failed, 2 do not hold, 1 proved"


def test_the_json_holds_the_whole_matrix() -> None:
    """Another program reads every cell, its reason, its issue and its tests."""
    said = [outcome("does not hold", reason="waits", issue=15760)]
    document = json.loads(Matrix.build((BACKOFF,), RUNNERS, said).to_json())
    assert document["runners"] == ["sequential", "threads"]
    (pattern,) = document["patterns"]
    assert (pattern["name"], pattern["rows"][0]["id"]) == ("retries/backoff", "attempts")
    assert pattern["rows"][0]["cells"][1] == {
        "runner": "threads",
        "status": "does not hold",
        "reason": "waits",
        "issue": 15760,
        "tests": ["test_backoff.py::test_it"],
    }


def test_the_markdown_is_a_table_with_reasons_below() -> None:
    """A pattern is a table of whole rows; a bar in a text doesn't end its cell."""
    said = (
        outcome("proved", "sequential"),
        outcome("does not hold", reason="waits", issue=15760),
        outcome("proved", None, "delays"),
    )
    lines = Matrix.build((BACKOFF,), RUNNERS, said).to_markdown().splitlines()
    assert [line for line in lines if line.startswith("|")] == [
        "| guarantee | any runner | sequential | threads |",
        "| --- | --- | --- | --- |",
        "| **attempts**: tried `retries + 1` \\| times. |  | ✓ proved | ⊘ does not hold |",
        "| **delays**: grow. | ✓ proved |  |  |",
    ]
    link = "https://github.com/PrefectHQ/prefect/issues/15760"
    assert lines[-1] == (
        f"- **attempts** does not hold on threads: waits ([Prefect #15760]({link}))"
    )


def test_the_markdown_names_the_test_that_failed() -> None:
    """A failure without a reason is told by its test."""
    said = [outcome("failed", test="test_backoff.py::test_it[threads]")]
    text = Matrix.build((BACKOFF,), RUNNERS, said).to_markdown()
    assert "- **attempts** failed on threads: `test_backoff.py::test_it[threads]`" in text


class Page(HTMLParser):
    """What a page shows and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, and its address if it has one."""
        self.tags.append(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts += [" ".join(data.split())] if data.strip() else []


def page(*outcomes: Outcome) -> Page:
    """Return the page of a run."""
    return Page(Matrix.build((BACKOFF,), RUNNERS, outcomes).to_html())


def test_the_page_says_each_status_in_words() -> None:
    """A status is a word beside its sign, so that it can be read without colour."""
    said = (outcome("failed", "sequential"), outcome("does not hold"))
    shown = page(*said).texts
    assert [text for text in shown if text in STATUSES] == ["failed", "does not hold", "not run"]


def test_the_page_links_the_issue_and_loads_nothing() -> None:
    """The page opens without a network: the only addresses are links to follow."""
    seen = page(outcome("does not hold", reason="waits", issue=15760))
    assert seen.loaded == []
    assert "https://github.com/PrefectHQ/prefect/issues/15760" in seen.links
    assert "#retries/backoff" in seen.links


def test_the_page_shows_text_as_text() -> None:
    """A reason with tags in it is shown, not obeyed; backticks make code."""
    seen = page(outcome("does not hold", reason="<script>alert()</script> in `task.map`"))
    assert "script" not in seen.tags
    assert any("<script>alert()</script>" in text for text in seen.texts)
    assert "task.map" in seen.texts
    assert "retries + 1" in seen.texts


def test_the_page_names_the_test_that_failed() -> None:
    """A failure is shown with its test, also if its parameters look like tags."""
    assert "test_x.py::test_y[<b>]" in page(outcome("failed", test="test_x.py::test_y[<b>]")).texts


def test_a_run_without_guarantees_has_a_page() -> None:
    """An empty matrix is a page with a title and nothing to count."""
    assert "Guarantees" in Page(Matrix.build((), (), ()).to_html()).texts


def test_writing_replaces_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    """The three files are written into a new folder, then over, and nothing else is left."""
    directory = tmp_path / "reports" / "latest"
    write(Matrix.build((BACKOFF,), RUNNERS, ()), directory)
    matrix = Matrix.build((BACKOFF,), RUNNERS, [outcome("proved")])
    assert write(matrix, directory) == directory / "guarantees.html"
    assert {file.name: file.read_text(encoding="utf-8") for file in directory.iterdir()} == {
        "guarantees.html": matrix.to_html(),
        "guarantees.md": matrix.to_markdown(),
        "guarantees.json": matrix.to_json() + "\n",
    }
