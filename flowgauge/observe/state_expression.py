# SPDX-License-Identifier: Apache-2.0
"""Expressions over the names of states, like regular expressions over letters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

_TOKEN = re.compile(
    r"""\s*(?: (?P<name>[^\W\d]\w*) | "(?P<quoted>[^"]+)" | (?P<sign>[()|?*+])
           | \{ \s* (?P<least>\d+) \s* (?P<range>, \s* (?P<most>\d*) \s*)? \} )""",
    re.VERBOSE,
)


class ExpressionError(ValueError):
    """An invalid expression; the one-line message says where, and what was expected."""


@dataclass(frozen=True)
class StateName:
    """A single state."""

    name: str


@dataclass(frozen=True)
class Sequence:
    """Its parts, one after the other; without parts, the empty sequence."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """One of several options."""

    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """Its part, repeated `least` to `most` times; None means without limit."""

    part: Expression
    least: int
    most: int | None


Expression = StateName | Sequence | Choice | Repeat


def may_end(expression: Expression) -> bool:
    """Return whether the expression matches the empty sequence."""
    match expression:
        case StateName():
            return False
        case Sequence(parts):
            return all(map(may_end, parts))
        case Choice(options):
            return any(map(may_end, options))
        case Repeat(part, least):
            return least == 0 or may_end(part)


def next_names(expression: Expression) -> Iterator[str]:
    """Yield the names that a match may start with."""
    match expression:
        case StateName(name):
            yield name
        case Sequence(parts):
            for part in parts:
                yield from next_names(part)
                if not may_end(part):
                    break
        case Choice(options):
            for option in options:
                yield from next_names(option)
        case Repeat(part, _, most):
            if most != 0:
                yield from next_names(part)


def after(expression: Expression, name: str) -> frozenset[Expression]:
    """Return what may follow once a match has started with a name.

    Args:
        expression: The expression to match.
        name: The name of the first state.

    Returns:
        Expressions of which the remaining states must match one; none if no match starts with the
        name. They are the partial derivatives of V. Antimirov (1996), of which there are only
        finitely many, so matching a history takes time linear in its length.
    """
    match expression:
        case StateName(own):
            return frozenset({Sequence(())} if own == name else ())
        case Sequence(parts):
            expressions: set[Expression] = set()
            for place, part in enumerate(parts):
                expressions |= {_chain(rest, *parts[place + 1 :]) for rest in after(part, name)}
                if not may_end(part):
                    break
            return frozenset(expressions)
        case Choice(options):
            return frozenset().union(*(after(option, name) for option in options))
        case Repeat(part, least, most):
            if most == 0:
                return frozenset()
            fewer = replace(
                expression, least=max(least - 1, 0), most=None if most is None else most - 1
            )
            return frozenset(_chain(rest, fewer) for rest in after(part, name))


def after_any(expressions: Iterable[Expression], name: str) -> frozenset[Expression]:
    """Return what may follow once a match of any of the expressions has started with a name."""
    return frozenset().union(*(after(expression, name) for expression in expressions))


def _chain(*parts: Expression) -> Expression:
    """Return a flat sequence, so that equivalent sequences compare equal."""
    flat: list[Expression] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Sequence) else [part])
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


@dataclass(frozen=True)
class _Token:
    place: int
    text: str
    repeat: tuple[int, int | None] | None = None
    is_name: bool = False


_REPEATS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}


def parse_expression(text: str) -> Expression:
    """Parse an expression.

    Args:
        text: Names of states (in double quotes if they have spaces), `?`, `*`, `+`, `{n}`,
            `{n,m}`, `{n,}`, `|` and parentheses.

    Returns:
        The expression.

    Raises:
        ExpressionError: If it is invalid.
    """
    tokens = [*_tokens(text), _Token(len(text), "the end")]
    expression, place = _choice(text, tokens, 0)
    if place < len(tokens) - 1:
        raise _unexpected(text, tokens[place], "a state's name or the end")
    return expression


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            raise _unexpected(
                text, _Token(place, text[place]), "a state's name, or one of ( ) | ? * + {n,m}"
            )
        start = match.end() - len(match[0].lstrip())
        name = match["name"] or match["quoted"]
        if name:
            yield _Token(start, name, is_name=True)
        elif match["sign"]:
            yield _Token(start, match["sign"], _REPEATS.get(match["sign"]))
        else:
            least = int(match["least"])
            most = least if not match["range"] else int(match["most"]) if match["most"] else None
            if most is not None and most < least:
                raise _unexpected(text, _Token(start, match[0].strip()), f"{{{most},{least}}}")
            yield _Token(start, match[0].strip(), (least, most))
        place = match.end()


def _choice(text: str, tokens: list[_Token], place: int) -> tuple[Expression, int]:
    options = []
    while True:
        option, place = _sequence(text, tokens, place)
        options.append(option)
        if tokens[place].text != "|" or tokens[place].is_name:
            return (options[0] if len(options) == 1 else Choice(tuple(options))), place
        place += 1


def _sequence(text: str, tokens: list[_Token], place: int) -> tuple[Expression, int]:
    parts: list[Expression] = []
    while tokens[place].is_name or tokens[place].text == "(":
        part, place = _part(text, tokens, place)
        if repeat := tokens[place].repeat:
            part, place = Repeat(part, *repeat), place + 1
        if tokens[place].repeat:
            raise _unexpected(text, tokens[place], "no second repeat; put what is repeated in ( )")
        parts.append(part)
    if not parts:
        raise _unexpected(text, tokens[place], "a state's name or (")
    return _chain(*parts), place


def _part(text: str, tokens: list[_Token], place: int) -> tuple[Expression, int]:
    if tokens[place].is_name:
        return StateName(tokens[place].text), place + 1
    part, place = _choice(text, tokens, place + 1)
    if tokens[place].text != ")" or tokens[place].is_name:
        raise _unexpected(text, tokens[place], "a state's name or )")
    return part, place + 1


def _unexpected(text: str, token: _Token, expected: str) -> ExpressionError:
    actual = token.text if token.place == len(text) else f'"{token.text}"'
    return ExpressionError(
        f"history expression {text!r}, character {token.place + 1}: expected {expected},"
        f" found {actual}"
    )
