# SPDX-License-Identifier: Apache-2.0
"""Expressions over the names of states, compared with Python's own regular expressions."""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowgauge.observe.history import History, Step
from flowgauge.observe.state_expression import ExpressionError, after, parse_expression

LETTERS = {
    "Pending": "p",
    "Running": "r",
    "AwaitingRetry": "a",
    "Retrying": "t",
    "Completed": "c",
    "Waiting for Ada": "w",
}
"""A letter for each state, so that expressions can be translated for `re`."""


@dataclass(frozen=True)
class Case:
    """An expression, its translation for `re`, and a sequence of states that it matches."""

    text: str
    pattern: str
    word: tuple[str, ...]


def history_of(names: tuple[str, ...]) -> History:
    """Return a history of these states, a second apart."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    steps = [
        Step(name, "RUNNING", start + timedelta(seconds=place)) for place, name in enumerate(names)
    ]
    return History("task run 1", tuple(steps))


def letters(names: tuple[str, ...]) -> str:
    """Return the names as the letters that stand for them."""
    return "".join(LETTERS[name] for name in names)


words = st.lists(st.sampled_from(sorted(LETTERS)), max_size=6)


@st.composite
def one_state(draw: st.DrawFn) -> Case:
    """Draw a single state."""
    name = draw(st.sampled_from(sorted(LETTERS)))
    return Case(f'"{name}"' if " " in name else name, LETTERS[name], (name,))


@st.composite
def larger(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    """Draw a sequence, a choice or a repeat of smaller expressions."""
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    blank = draw(st.sampled_from([" ", "  ", " \n "]))
    kind = draw(st.sampled_from(["sequence", "choice", "repeat"]))
    if kind == "sequence":
        word = tuple(name for part in parts for name in part.word)
        return Case(
            f"({blank.join(part.text for part in parts)})",
            f"(?:{''.join(part.pattern for part in parts)})",
            word,
        )
    if kind == "choice":
        return Case(
            f"({'|'.join(part.text for part in parts)})",
            f"(?:{'|'.join(part.pattern for part in parts)})",
            draw(st.sampled_from(parts)).word,
        )
    least = draw(st.integers(0, 3))
    most = draw(st.none() | st.integers(least, 4))
    shapes = [f"{{{least},{'' if most is None else most}}}", f"{{ {least} , {most or ''} }}"]
    if most == 0:
        shapes = shapes[:1]
    if (least, most) in SIGNS:
        shapes.append(SIGNS[least, most])
    if least == most:
        shapes.append(f"{{{least}}}")
    times = draw(st.integers(least, min(most if most is not None else least + 2, least + 2)))
    shape = draw(st.sampled_from(shapes))
    return Case(
        f"({parts[0].text}){blank if draw(st.booleans()) else ''}{shape}",
        f"(?:{parts[0].pattern}){shape.replace(' ', '')}",
        parts[0].word * times,
    )


SIGNS = {(0, 1): "?", (0, None): "*", (1, None): "+"}
cases = st.recursive(one_state(), larger, max_leaves=6)


@st.composite
def compared(draw: st.DrawFn) -> tuple[Case, tuple[str, ...]]:
    """Draw an expression, and any history or one that is one state away from matching."""
    case = draw(cases)
    names = draw(words | st.just(case.word).map(list))
    place = draw(st.integers(0, len(names)))
    names[place : place + draw(st.integers(0, 1))] = draw(words.map(lambda word: word[:1]))
    return case, tuple(names)


@given(cases)
def test_a_history_built_from_the_expression_matches(case: Case) -> None:
    """An expression matches every history built by its own rules."""
    match = history_of(case.word).matches(case.text)
    assert match, str(match)


@given(compared())
def test_any_history_matches_as_in_python(drawn: tuple[Case, tuple[str, ...]]) -> None:
    """An expression matches a history if and only if `re` matches the letters for its names."""
    case, names = drawn
    match = history_of(names).matches(case.text)
    assert bool(match) == (re.fullmatch(case.pattern, letters(names)) is not None)


@given(compared())
def test_the_expected_states_are_those_that_could_follow(
    drawn: tuple[Case, tuple[str, ...]],
) -> None:
    """The match names exactly the states, or the end, that could follow those that matched."""
    case, names = drawn
    match = history_of(names).matches(case.text)
    begun = names[: match.matched]
    goes_on = {
        name
        for name in LETTERS
        if history_of((*begun, name)).matches(case.text).matched > len(begun)
    }
    assert set(match.expected) == goes_on
    assert match.could_end == bool(re.fullmatch(case.pattern, letters(begun)))
    if match.matched < len(names):
        assert names[match.matched] not in match.expected


MOST_CALLS = 300_000
"""Far more calls than matching needs, but soon reached if each state doubles the work."""


@given(cases.filter(lambda case: case.word and "{" not in case.text))
@example(Case("(Pending|Running)", "", ("Pending", "Running")))
@example(Case("Pending{0,4} Running{0,4}", "", ("Pending", "Running")))
def test_matching_takes_linear_time(case: Case) -> None:
    """Matching takes linear time, even if each state can be matched in two or more ways."""
    text = f'(({case.text})* ({case.text})*)+ "Waiting for Ada"'

    def calls(repeats: int) -> int:
        """Count how often an expression is asked what may follow it."""
        history, counted = history_of(case.word * repeats), itertools.count()

        def count(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code is after.__code__ and next(counted) > MOST_CALLS:
                sys.setprofile(None)
                pytest.fail(f"reading {len(history.steps)} states takes over {MOST_CALLS:,} calls")

        sys.setprofile(count)
        try:
            match = history.matches(text)
        finally:
            sys.setprofile(None)
        assert match.matched == len(history.steps)
        return next(counted)

    # After as many words as the text has names (12, or 16 with counts), nothing new can follow.
    few, more, most = map(calls, (20, 30, 40))
    assert most - more == more - few


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", 1, "expected a state's name or (, found the end"),
        ("Pending (Running", 17, "expected a state's name or ), found the end"),
        ("Pending Running)", 16, 'expected a state\'s name or the end, found ")"'),
        ("Pending * * Running", 11, "expected no second repeat; put what is repeated in ( )"),
        ("* Running", 1, 'expected a state\'s name or (, found "*"'),
        ("Pending ()", 10, 'expected a state\'s name or (, found ")"'),
        ("Pending | | Running", 11, 'expected a state\'s name or (, found "|"'),
        ("Pending{3,2}", 8, 'expected {2,3}, found "{3,2}"'),
        ("Pending{x}", 8, 'found "{"'),
        ("Pending -> Running", 9, 'found "-"'),
        ('Pending "Waiting', 9, 'found """'),
    ],
)
def test_an_invalid_expression_is_one_line(text: str, place: int, says: str) -> None:
    """An expression that can't be parsed is reported in one line that names the position."""
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert f"{text!r}, character {place}: " in said
    assert says in said


@given(st.text(alphabet='PR ab()|?*+{},1"-\n', max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Any text is either parsed or refused with an error that names a position in it."""
    try:
        parse_expression(text)
        said = "character 1: "
    except ExpressionError as error:
        said = str(error)
    place = re.search(r"character (\d+): ", said)
    assert place is not None
    assert 1 <= int(place[1]) <= len(text) + 1
