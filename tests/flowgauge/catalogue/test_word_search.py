# SPDX-License-Identifier: Apache-2.0
"""Patterns are found by the words of a problem."""

from __future__ import annotations

import pytest

from flowgauge.catalogue.catalogue import catalogue_root, load_catalogue
from flowgauge.catalogue.headers import Pattern
from flowgauge.catalogue.word_search import search

PATTERNS = load_catalogue(catalogue_root())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("never hits the cache", "caching/scope"),
        ("flow is Completed though tasks failed", "flows/final_state"),
        ("timeout of a submitted task", "tasks/timeout"),
        ("subflows run one after the other", "subflows/side_by_side"),
        ("schedule and summer time", "deployments/schedules"),
        ("start a deployment over HTTP", "deployments/trigger_by_http"),
        ("NOTEBOOKS", "pipelines/notebook_to_flow"),
    ],
)
def test_a_problem_leads_to_its_pattern(words: str, name: str) -> None:
    """The pattern that answers a problem is among the first three that its words find."""
    assert name in [pattern.name for pattern in search(PATTERNS, words)][:3]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_a_pattern_is_found_by_what_it_says_of_itself(pattern: Pattern) -> None:
    """The words of a pattern's summary, or of its problem, find it before all others."""
    assert search(PATTERNS, pattern.summary)[0] == pattern
    assert search(PATTERNS, pattern.problem)[0] == pattern


def test_the_word_http_finds_what_is_about_it() -> None:
    """The addresses of sources don't make each pattern one about HTTP."""
    assert search(PATTERNS, "HTTP")[0].name == "deployments/trigger_by_http"


def test_endings_do_not_matter() -> None:
    """Another form of a word finds the same."""
    assert search(PATTERNS, "retry") == search(PATTERNS, "retries") == search(PATTERNS, "retried")


@pytest.mark.parametrize("words", ["zzyzx", "", "?!", "one after the other", "over"])
def test_words_that_tell_nothing_find_nothing(words: str) -> None:
    """What no header says finds nothing, nor do the words that stand between others."""
    assert search(PATTERNS, words) == ()


def test_a_word_that_stands_everywhere_finds_nothing() -> None:
    """A word that tells no pattern from another is no reason to show any."""
    assert search(PATTERNS, "prefect") == ()
