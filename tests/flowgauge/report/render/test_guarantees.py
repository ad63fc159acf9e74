# SPDX-License-Identifier: Apache-2.0
"""The whole guarantee matrix is shown as a page, as Markdown and as JSON."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from flowgauge.report.model.guarantees import STATUSES, GuaranteeMatrix, ProofOutcome
from flowgauge.report.render.guarantees import to_html, to_json, to_markdown, write_matrix
from tests.flowgauge.report.model.test_guarantees import BACKOFF, RUNNERS, outcome


def test_the_json_holds_the_whole_matrix() -> None:
    """The JSON has every cell with its reason, its issue and its tests."""
    said = [outcome("does not hold", reason="waits", issue=15760)]
    document = json.loads(to_json(GuaranteeMatrix.build((BACKOFF,), RUNNERS, said)))
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
    """Each pattern is a table with reasons below it; a `|` in a text doesn't end its cell."""
    said = (
        outcome("proved", "sequential"),
        outcome("does not hold", reason="waits", issue=15760),
        outcome("proved", None, "delays"),
    )
    lines = to_markdown(GuaranteeMatrix.build((BACKOFF,), RUNNERS, said)).splitlines()
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
    """A failure without a reason is listed with the test that failed."""
    said = [outcome("failed", test="test_backoff.py::test_it[threads]")]
    text = to_markdown(GuaranteeMatrix.build((BACKOFF,), RUNNERS, said))
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
        """Record a tag, and its address if it has one."""
        self.tags.append(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        """Record a text."""
        self.texts += [" ".join(data.split())] if data.strip() else []


def page(*outcomes: ProofOutcome) -> Page:
    """Return the page of a run with these outcomes."""
    return Page(to_html(GuaranteeMatrix.build((BACKOFF,), RUNNERS, outcomes)))


def test_the_page_says_each_status_in_words() -> None:
    """Each status is shown as a word, so that it can be read without colour."""
    said = (outcome("failed", "sequential"), outcome("does not hold"))
    shown = page(*said).texts
    assert [text for text in shown if text in STATUSES] == ["failed", "does not hold", "not run"]


def test_the_page_links_the_issue_and_loads_nothing() -> None:
    """The page loads nothing, so it opens without a network; its only addresses are links."""
    seen = page(outcome("does not hold", reason="waits", issue=15760))
    assert seen.loaded == []
    assert "https://github.com/PrefectHQ/prefect/issues/15760" in seen.links
    assert "#retries/backoff" in seen.links


def test_the_page_shows_text_as_text() -> None:
    """Tags in a reason are shown as text, and backticks mark code."""
    seen = page(outcome("does not hold", reason="<script>alert()</script> in `task.map`"))
    assert "script" not in seen.tags
    assert any("<script>alert()</script>" in text for text in seen.texts)
    assert "task.map" in seen.texts
    assert "retries + 1" in seen.texts


def test_the_page_names_the_test_that_failed() -> None:
    """A failure is shown with its test, even if the test's parameters look like tags."""
    assert "test_x.py::test_y[<b>]" in page(outcome("failed", test="test_x.py::test_y[<b>]")).texts


def test_a_run_without_guarantees_has_a_page() -> None:
    """An empty matrix gives a page with its title."""
    assert "Guarantees" in Page(to_html(GuaranteeMatrix.build((), (), ()))).texts


def test_writing_replaces_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    """The three files are written into a new folder, then overwritten, and no other is left."""
    directory = tmp_path / "reports" / "latest"
    write_matrix(GuaranteeMatrix.build((BACKOFF,), RUNNERS, ()), directory)
    matrix = GuaranteeMatrix.build((BACKOFF,), RUNNERS, [outcome("proved")])
    assert write_matrix(matrix, directory) == directory / "guarantees.html"
    assert {file.name: file.read_text(encoding="utf-8") for file in directory.iterdir()} == {
        "guarantees.html": to_html(matrix),
        "guarantees.md": to_markdown(matrix),
        "guarantees.json": to_json(matrix) + "\n",
    }
