# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: drawn, without a network, filtered, and on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from flowgauge.report.model.questions import questions
from flowgauge.results.rows import Results
from flowgauge.waiting import patience

pytestmark = pytest.mark.e2e
WIDTHS = {"wide": 1280, "narrow": 400}


@dataclass(frozen=True)
class Opened:
    """An open page, its console messages and its requests.

    Attributes:
        page: The page.
        said: The messages on its console, errors included.
        asked: The addresses of its requests.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def shown(self, selector: str) -> int:
        """Return how many elements are visible."""
        found = self.page.locator(selector)
        return sum(found.nth(index).is_visible() for index in range(found.count()))


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    """Yield the page of the sample, fully drawn, on a wide and on a narrow screen."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 800})
    page.set_default_timeout(1000 * patience())
    found = Opened(page)
    page.on("console", lambda message: found.said.append(message.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda asked: found.asked.append(asked.url))
    page.goto((report / "index.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.chart').length === drawn.size")
    yield found
    page.close()


def test_every_chart_is_drawn_without_errors(opened: Opened, sample: Results, report: Path) -> None:
    """Each question has a chart with marks, the console is empty, and nothing else is loaded."""
    for question in questions(sample.rows):
        box = opened.page.locator(f"#{question.key} svg").first.bounding_box()
        assert box is not None, question.key
        assert box["width"] > 300, question.key
        marks = f"#{question.key} svg :is(.mark-symbol, .mark-rect.role-mark) path"
        assert opened.shown(marks) > 0, question.key
    assert opened.said == []
    # Data and blob URLs are not requests over a network.
    assert {url for url in opened.asked if not url.startswith(("data:", "blob:"))} == {
        (report / "index.html").as_uri()
    }


def test_the_page_is_no_wider_than_the_screen(opened: Opened) -> None:
    """The page as a whole need not be scrolled sideways."""
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(width) <= 0


def test_one_runner_can_be_chosen(opened: Opened) -> None:
    """A chosen runner leaves only its columns and dots, and the choice can be undone."""
    page = opened.page
    dots = "#task-cost .mark-symbol path"
    every = (opened.shown(".matrix td"), page.locator(dots).count())
    page.select_option("#filters [name=runner]", "threads")
    page.wait_for_function(f"document.querySelectorAll('{dots}').length === 1")
    heads = page.locator(".matrix th[data-runner]:visible").all_inner_texts()
    assert {*heads} == {"threads"}
    page.select_option("#filters [name=runner]", "")
    page.wait_for_function(f"document.querySelectorAll('{dots}').length === {every[1]}")
    assert (opened.shown(".matrix td"), page.locator(dots).count()) == every


def test_one_kernel_can_be_chosen(opened: Opened) -> None:
    """A chosen kernel leaves its rows and those without a kernel, and selects its curves."""
    page = opened.page
    rows = ".matrix tr[data-kernel={}]"
    both = [opened.shown(rows.format(kernel)) for kernel in ("native", "python")]
    page.select_option("#filters [name=kernel]", "python")
    assert min(both) > 0
    assert opened.shown(rows.format("native")) == 0
    assert opened.shown(rows.format("python")) == both[1]
    assert opened.shown(".matrix th:text-is('caching/scope')") == 1
    page.wait_for_function("drawn.get('efficiency').signal('kernel') === 'python'")
    assert page.locator("#efficiency select").first.input_value() == "python"


def test_the_filters_stay_in_sight(opened: Opened) -> None:
    """The filters are visible at the end of the page, too, and cover little of the screen."""
    page = opened.page
    page.locator("#figures h3").last.scroll_into_view_if_needed()
    box = page.locator("#filters").bounding_box()
    assert box is not None
    assert box["y"] >= 0
    assert box["height"] < 800 / 6
