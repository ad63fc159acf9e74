# SPDX-License-Identifier: Apache-2.0
"""The page needs no other file, shows every figure, and escapes all text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowgauge.report.charts.drawings import Drawing
from flowgauge.report.model.questions import questions
from flowgauge.report.model.report import report_on
from flowgauge.report.render.html import page
from flowgauge.report.render.templates import with_code
from flowgauge.results.rows import Results, Row

MakeRow = Callable[..., Row]
NOTHING = report_on(Results({}, ()))


class Elements(HTMLParser):
    """The elements of a page, and its texts outside of scripts and styles."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Record a text."""
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style"):
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def whole(report: Path) -> str:
    """Return the page of the sample."""
    return (report / "index.html").read_text(encoding="utf-8")


def test_needs_no_network(whole: str) -> None:
    """No element refers to another file, and the page's content policy forbids loading any."""
    for tag, attributes in Elements(whole).tags:
        assert tag not in ("link", "img", "iframe")
        assert "src" not in attributes
    assert "default-src 'none'" in whole


def test_every_figure_is_shown(whole: str, sample: Results) -> None:
    """The tables have a line for each row of the results."""
    lines = [attributes for tag, attributes in Elements(whole).tags if tag == "tr"]
    assert sum("data-runner" in attributes for attributes in lines) == len(sample.rows)


def test_every_chart_has_its_place(whole: str, sample: Results) -> None:
    """Each question has a chart, and each chart has an element to draw it in."""
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', whole)
    assert found is not None
    places = {attributes.get("id") for _, attributes in Elements(whole).tags}
    keys = {question.key for question in questions(sample.rows)}
    assert set(json.loads(found[1])) == keys
    assert keys <= places


def test_code_is_set_as_code(whole: str) -> None:
    """Backticks in a title or caption mark code, and everything else in it is escaped."""
    assert "METG(50 %) of <code>native</code> tasks" in whole
    assert "<h2>How far off is <code>flowgauge advise</code>?</h2>" in whole
    assert with_code("`a` < b & `c>d`") == "<code>a</code> &lt; b &amp; <code>c&gt;d</code>"


def test_nothing_measured() -> None:
    """A run without rows gives a page that says so and contains no drawing code."""
    empty = page(NOTHING, {})
    texts = Elements(empty).texts
    assert texts.count("Not measured in this run.") == len(questions(()))
    assert "window.vegaEmbed" not in empty


def test_names_are_not_markup(make_row: MakeRow) -> None:
    """Names in the results that look like markup are shown as text."""
    evil = "</script><script>alert(1)</script>"
    row = make_row(evil, 1.0, 2.0, group=evil, runner=evil, reference=evil, params={evil: evil})
    document = page(report_on(Results({evil: evil}, (row,))), {"x": Drawing({"config": evil})})
    scripts = [tag for tag, _ in Elements(document).tags if tag == "script"]
    plain = [tag for tag, _ in Elements(page(NOTHING, {})).tags if tag == "script"]
    assert scripts == plain
    assert evil in Elements(document).texts
