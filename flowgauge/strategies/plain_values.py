# SPDX-License-Identifier: Apache-2.0
"""Strategies for values without parts: numbers, texts, times, paths."""

from __future__ import annotations

import datetime
import decimal
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_DAY = datetime.timedelta(days=1)


def _numbers(known: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the least and the greatest value, limits that are excluded among them."""
    low = [known[name] for name in ("gt", "ge") if name in known]
    high = [known[name] for name in ("lt", "le") if name in known]
    return max(low, default=None), min(high, default=None)


def _integers(known: Mapping[str, Any]) -> SearchStrategy[int]:
    low, high = _numbers(known)
    step = known.get("multiple_of", 1)
    least = None if low is None else math.ceil(low / step)
    most = None if high is None else math.floor(high / step)
    if least is not None and least * step == known.get("gt"):
        least += 1
    if most is not None and most * step == known.get("lt"):
        most -= 1
    return st.integers(least, most).map(lambda number: number * step)


def _floats(known: Mapping[str, Any]) -> SearchStrategy[float]:
    low, high = _numbers(known)
    if known.get("multiple_of"):
        return _integers(known).map(float)
    finite = not known.get("allow_inf_nan", True)
    return st.floats(
        low,
        high,
        allow_nan=low is None and high is None and not finite,
        allow_infinity=False if finite else None,
        exclude_min=low is not None and low == known.get("gt"),
        exclude_max=high is not None and high == known.get("lt"),
    )


def _decimals(known: Mapping[str, Any]) -> SearchStrategy[decimal.Decimal]:
    low, high = _numbers(known)
    places = known.get("decimal_places")
    return st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False)


def _texts(known: Mapping[str, Any]) -> SearchStrategy[str]:
    if pattern := known.get("pattern"):
        return st.from_regex(pattern, fullmatch=True)
    return st.text(min_size=known.get("min_length", 0), max_size=known.get("max_length"))


def _bytes(known: Mapping[str, Any]) -> SearchStrategy[bytes]:
    return st.binary(min_size=known.get("min_length", 0), max_size=known.get("max_length"))


def _between(
    strategy: Callable[..., SearchStrategy[Any]], **options: Any
) -> Callable[[Mapping[str, Any]], SearchStrategy[Any]]:
    """Return a function from limits to a strategy that takes a least and a greatest value."""

    def drawn(known: Mapping[str, Any]) -> SearchStrategy[Any]:
        low, high = _numbers(known)
        limited = {"min_value": low, "max_value": high}
        return strategy(**{k: v for k, v in limited.items() if v is not None}, **options)

    return drawn


def _datetimes(known: Mapping[str, Any]) -> SearchStrategy[datetime.datetime]:
    low, high = _numbers(known)
    zone = next((limit.tzinfo for limit in (low, high) if limit is not None), None)
    naive = {
        name: limit.replace(tzinfo=None)
        for name, limit in (("min_value", low), ("max_value", high))
        if limit is not None
    }
    return st.datetimes(**naive, timezones=st.just(zone))


def _dated(ahead: bool) -> Callable[[Mapping[str, Any]], SearchStrategy[datetime.date]]:
    def drawn(known: Mapping[str, Any]) -> SearchStrategy[datetime.date]:
        today = datetime.date.today()
        if ahead:
            return st.dates(min_value=today + 2 * _DAY)
        return st.dates(max_value=today - 2 * _DAY)

    return drawn


_WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789 _-", min_size=1, max_size=8)
_PATHS = st.lists(_WORDS, min_size=1, max_size=3).map("/".join) | _WORDS.map("/{}".format)
_UTC = st.just(datetime.UTC)


def _paths(kind: type[pathlib.PurePath]) -> Callable[[Mapping[str, Any]], SearchStrategy[Any]]:
    return lambda known: _PATHS.map(kind)


PLAIN: dict[Any, Callable[[Mapping[str, Any]], SearchStrategy[Any]]] = {
    bool: lambda known: st.booleans(),
    int: _integers,
    float: _floats,
    decimal.Decimal: _decimals,
    str: _texts,
    bytes: _bytes,
    datetime.date: _between(st.dates),
    datetime.time: _between(st.times),
    datetime.timedelta: _between(st.timedeltas),
    datetime.datetime: _datetimes,
    pathlib.Path: _paths(pathlib.Path),
    pathlib.PurePath: _paths(pathlib.PurePath),
    pydantic.AwareDatetime: lambda known: st.datetimes(timezones=_UTC),
    pydantic.NaiveDatetime: lambda known: st.datetimes(),
    pydantic.PastDate: _dated(ahead=False),
    pydantic.FutureDate: _dated(ahead=True),
    pydantic.SecretStr: lambda known: _texts(known).map(pydantic.SecretStr),
}
"""How values without parts are drawn; other classes are left to Hypothesis."""
