# SPDX-License-Identifier: Apache-2.0
"""Patterns found by the words of a problem."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from flowgauge.catalogue.headers import Pattern

_WORD = re.compile(r"[a-z0-9]+")
_SCHEME = re.compile(r"https?://")
"""Of the sources: with it, each header would have the word HTTP."""
_BETWEEN_WORDS = frozenset(
    _WORD.findall(
        "a about after all an and are as at be before but by can for from has have how i if in into"
        " is it its my no not of off on one or other out over so than that the their then there"
        " they this though to under up was what when where which while who why with without you"
    )
)
"""Words of any sentence: in few headers some are rare by chance, and would outweigh the others."""
_ENDING = re.compile(r"(?<=..)(?:ings?|ied|ies|ed|es|s|e|y)$")
_SUMMARY_WEIGHT = 3
_WORTH_A_LOOK = 0.5
"""Of the best score: what has less of the words answers another question."""


def search(patterns: Sequence[Pattern], words: str) -> tuple[Pattern, ...]:
    """Find the patterns whose headers have the words of a problem.

    Args:
        patterns: The catalogue.
        words: Any words: "never hits the cache". Their endings don't matter.

    Returns:
        The patterns that have most of the rare ones, the best first.
    """
    wanted = set(_stems(words))
    texts = [_counted(pattern) for pattern in patterns]
    # A word weighs what it tells: one that stands in every header tells nothing.
    weights = {
        stem: math.log(len(texts) / found)
        for stem in wanted
        if (found := sum(stem in text for text in texts))
    }
    scores = [
        sum(weight * (1 + math.log(text[stem])) for stem, weight in weights.items() if text[stem])
        for text in texts
    ]
    ranked = sorted(zip(scores, patterns, strict=True), key=lambda pair: -pair[0])
    least = max(scores, default=0) * _WORTH_A_LOOK
    return tuple(pattern for score, pattern in ranked if score > 0 and score >= least)


def _counted(pattern: Pattern) -> Counter[str]:
    summary = f"{pattern.name} {pattern.summary} "
    said = (*(g.text for g in pattern.guarantees), *(f.text for f in pattern.facts))
    rest = " ".join((pattern.problem, *said, pattern.not_for, *pattern.sources))
    return Counter(_stems(summary * _SUMMARY_WEIGHT + rest))


def _stems(text: str) -> list[str]:
    words = _WORD.findall(_SCHEME.sub(" ", text.lower()))
    return [_ENDING.sub("", word) for word in words if word not in _BETWEEN_WORDS]
