# SPDX-License-Identifier: Apache-2.0
"""Search for patterns by the words of a problem."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from flowgauge.catalogue.headers import Pattern

_WORD = re.compile(r"[a-z0-9]+")
_SCHEME = re.compile(r"https?://")
"""Removed from sources, since otherwise every header would contain the word HTTP."""
_BETWEEN_WORDS = frozenset(
    _WORD.findall(
        "a about after all an and are as at be before but by can for from has have how i if in into"
        " is it its my no not of off on one or other out over so than that the their then there"
        " they this though to under up was what when where which while who why with without you"
    )
)
"""Stop words. Among few headers some are rare by chance and would outweigh the real words."""
_ENDING = re.compile(r"(?<=..)(?:ings?|ied|ies|ed|es|s|e|y)$")
_SUMMARY_WEIGHT = 3
_MIN_RELATIVE_SCORE = 0.5
"""Share of the best score below which a pattern is left out as irrelevant."""


def search(patterns: Sequence[Pattern], words: str) -> tuple[Pattern, ...]:
    """Find the patterns whose headers contain the words of a problem.

    Args:
        patterns: The catalogue.
        words: Any words, such as "never hits the cache". Their endings don't matter.

    Returns:
        The patterns with the most of the rare words, best match first.
    """
    stems = set(_stems(words))
    texts = [_stem_counts(pattern) for pattern in patterns]
    # Inverse document frequency: a word that is in every header has no weight.
    weights = {
        stem: math.log(len(texts) / matches)
        for stem in stems
        if (matches := sum(stem in text for text in texts))
    }
    scores = [
        sum(weight * (1 + math.log(text[stem])) for stem, weight in weights.items() if text[stem])
        for text in texts
    ]
    ranked = sorted(zip(scores, patterns, strict=True), key=lambda pair: -pair[0])
    minimum = max(scores, default=0) * _MIN_RELATIVE_SCORE
    return tuple(pattern for score, pattern in ranked if score > 0 and score >= minimum)


def _stem_counts(pattern: Pattern) -> Counter[str]:
    summary = f"{pattern.name} {pattern.summary} "
    claims = (*(g.text for g in pattern.guarantees), *(f.text for f in pattern.facts))
    rest = " ".join((pattern.problem, *claims, pattern.not_for, *pattern.sources))
    return Counter(_stems(summary * _SUMMARY_WEIGHT + rest))


def _stems(text: str) -> list[str]:
    words = _WORD.findall(_SCHEME.sub(" ", text.lower()))
    return [_ENDING.sub("", word) for word in words if word not in _BETWEEN_WORDS]
