# SPDX-License-Identifier: Apache-2.0
"""Patterns are found by words that describe a problem."""

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
    """The pattern that solves a problem is among the first three results for its words."""
    assert name in [pattern.name for pattern in search(PATTERNS, words)][:3]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_a_pattern_is_found_by_its_own_words(pattern: Pattern) -> None:
    """A pattern is the first result for the words of its summary, and for those of its problem."""
    assert search(PATTERNS, pattern.summary)[0] == pattern
    assert search(PATTERNS, pattern.problem)[0] == pattern


def test_the_word_http_finds_the_pattern_about_http() -> None:
    """The pattern about HTTP comes first, although the sources of others are URLs, too."""
    assert search(PATTERNS, "HTTP")[0].name == "deployments/trigger_by_http"


def test_word_endings_do_not_matter() -> None:
    """Other forms of a word find the same patterns."""
    assert search(PATTERNS, "retry") == search(PATTERNS, "retries") == search(PATTERNS, "retried")


@pytest.mark.parametrize("words", ["zzyzx", "", "?!", "one after the other", "over"])
def test_words_without_meaning_find_nothing(words: str) -> None:
    """Words that are in no header find nothing, nor do stop words or punctuation."""
    assert search(PATTERNS, words) == ()


def test_a_word_in_every_header_finds_nothing() -> None:
    """A word that does not distinguish one pattern from another finds none."""
    assert search(PATTERNS, "prefect") == ()
