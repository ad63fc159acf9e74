# SPDX-License-Identifier: Apache-2.0
"""The search for a line among those of a run, and what it shows if there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from re import Pattern

_WIDTH = 160
"""The length to which a line is cut."""
_MAX_SHOWN = 100
"""The number of lines that a failed search shows: the last ones, and the closest."""


@dataclass(frozen=True)
class Search:
    """The result of a search: truthy if something was found, or it shows what there was.

    Attributes:
        found: Whether there is such a line.
        kind: What the lines are: "logs" or "events".
        run: A readable description of the run.
        wanted: What was searched for.
        lines: All lines of the run.
        closest: The position of the line that was found, or else of the closest; None if there are
            no lines.
        difference: How that line differs, or "".
    """

    found: bool
    kind: str
    run: str
    wanted: str
    lines: tuple[str, ...]
    closest: int | None
    difference: str

    def __bool__(self) -> bool:
        """Return whether something was found."""
        return self.found

    def __repr__(self) -> str:
        """Return one line, because pytest shows only one for a value."""
        line = "" if self.closest is None else _cut(self.lines[self.closest])
        if self:
            return f"found {self.wanted}: {line}"
        nearest = f"the closest: {line} ({self.difference})" if line else "there are none"
        return f"no {self.wanted} in the {len(self.lines)} {self.kind} of {self.run}; {nearest}"

    def __str__(self) -> str:
        """Return the lines of the run, marking the closest."""
        start = max(0, len(self.lines) - _MAX_SHOWN)
        verdict = "has" if self else "has no"
        shown = [f"{self.run} {verdict} {self.wanted} among its {len(self.lines)} {self.kind}"]
        for place, line in enumerate(self.lines):
            if place == self.closest:
                shown.append(f"> {_cut(line)}")
                if not self:
                    shown.append(f"  ^ the closest: {self.difference}")
            elif place >= start:
                shown.append(f"  {_cut(line)}")
        return "\n".join(shown)


def searched(
    kind: str,
    run: str,
    lines: Sequence[object],
    wanted: str,
    text: str | Pattern[str],
    checked: Sequence[tuple[str, Mapping[str, bool]]],
) -> Search:
    """Return the result of a search.

    Args:
        kind: What the lines are: "logs" or "events".
        run: A readable description of the run.
        lines: All lines of the run.
        wanted: What was searched for.
        text: The text or pattern.
        checked: For each line its text, and for each criterion whether it holds.

    Returns:
        The result: something was found if all criteria hold for a line.
    """
    place = closest(text, checked) if checked else None
    wrong = (
        [] if place is None else [name for name, holds in checked[place][1].items() if not holds]
    )
    return Search(
        found=place is not None and not wrong,
        kind=kind,
        run=run,
        wanted=wanted,
        lines=tuple(map(str, lines)),
        closest=place,
        difference=f"its {' and '.join(wrong)} differ{'s' if len(wrong) == 1 else ''}",
    )


def closest(text: str | Pattern[str], lines: Sequence[tuple[str, Mapping[str, bool]]]) -> int:
    """Return which line comes closest to what was searched for.

    Args:
        text: The text or pattern.
        lines: At least one: its text, and for each criterion whether it holds.

    Returns:
        The position of the line of which most criteria hold; of these, the one with the most
        similar text.
    """
    wanted = text if isinstance(text, str) else text.pattern
    matcher = SequenceMatcher(autojunk=False)
    # The matcher keeps what it computed about the second text.
    matcher.set_seq2(wanted)

    def score(place: int) -> tuple[int, float]:
        line, holds = lines[place]
        matcher.set_seq1(line[:_WIDTH])
        return sum(holds.values()), matcher.ratio()

    return max(range(len(lines)), key=score)


def _cut(line: str) -> str:
    first, _, rest = line.partition("\n")
    return f"{first[:_WIDTH]} …" if rest or len(first) > _WIDTH else first
