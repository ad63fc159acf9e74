# SPDX-License-Identifier: Apache-2.0
"""Strategies for the values of an annotation, as pydantic understands it."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

import pydantic
import pydantic.dataclasses
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, RootModel, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from flowgauge.strategies.limits import limits, unwrapped
from flowgauge.strategies.plain_values import PLAIN

_NESTED = 2
"""How often a model may contain itself."""
_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence)
_ITERABLES = (*_LISTS, collections.abc.Iterable, collections.abc.Collection)
_SETS = (set, collections.abc.Set, collections.abc.MutableSet)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_ANYTHING = st.none() | st.booleans() | st.integers() | st.text()
"""What stands for `Any` inside of something else: values that JSON has too."""


class Undrawable(Exception):
    """Values that can't be drawn; the message says why."""


class _TooDeep(Undrawable):
    """A model that contains itself too often."""


def values(
    annotation: Any, metadata: tuple[Any, ...] = (), inside: tuple[Any, ...] = ()
) -> SearchStrategy[Any]:
    """Return a strategy for the values of an annotation.

    Args:
        annotation: The annotation; names in it are evaluated.
        metadata: What else is known of the values, such as pydantic's `Field(gt=0)`.
        inside: The models and dataclasses that they are part of.

    Returns:
        A strategy for values of that type, most of which keep to the limits.

    Raises:
        Undrawable: If they can't be made up.
    """
    kind, metadata = unwrapped(annotation, metadata)
    for item in reversed(metadata):
        if isinstance(item, SearchStrategy):
            return item
    known = limits(metadata)
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in (Any, object):
        return _ANYTHING
    if kind in (None, types.NoneType):
        return st.none()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return _either(arguments, metadata, inside)
    if origin in (*_ITERABLES, *_SETS, *_DICTS, frozenset, tuple):
        return _container(origin, arguments, known, inside)
    if kind in PLAIN:
        return PLAIN[kind](known)
    if inspect.isclass(kind):
        return _of_class(kind, inside)
    raise Undrawable(f"{_named(kind)} can't be made up")


def _either(
    kinds: tuple[Any, ...], metadata: tuple[Any, ...], inside: tuple[Any, ...]
) -> SearchStrategy[Any]:
    # None is the simplest.
    ordered = sorted(kinds, key=lambda kind: kind is not types.NoneType)
    drawn = []
    for kind in ordered:
        try:
            drawn.append(values(kind, metadata, inside))
        except _TooDeep:
            continue
    if not drawn:
        raise _TooDeep("it contains itself without end")
    return st.one_of(drawn)


def _container(
    origin: Any, arguments: tuple[Any, ...], known: Mapping[str, Any], inside: tuple[Any, ...]
) -> SearchStrategy[Any]:
    size = {"min_size": known.get("min_length", 0), "max_size": known.get("max_length")}
    try:
        if origin is tuple and arguments and arguments[-1] is not ...:
            return st.tuples(*(values(kind, (), inside) for kind in arguments if kind != ()))
        drawn = [values(kind, (), inside) for kind in arguments if kind is not ...]
    except _TooDeep:
        if size["min_size"]:
            raise
        drawn, size["max_size"] = [st.nothing()] * 2, 0
    drawn += [_ANYTHING] * 2
    if origin in _DICTS:
        keys = drawn[0] if arguments else st.text()
        return st.dictionaries(keys, drawn[1], **size)
    if origin in _SETS:
        return st.sets(drawn[0], **size)
    if origin is frozenset:
        return st.frozensets(drawn[0], **size)
    many = st.lists(drawn[0], **size)
    return many.map(tuple) if origin is tuple else many


def _of_class(kind: type[Any], inside: tuple[Any, ...]) -> SearchStrategy[Any]:
    """Return a strategy for the instances of a class that is made up of annotated parts."""
    if inside.count(kind) >= _NESTED:
        raise _TooDeep("it contains itself without end")
    inside = (*inside, kind)
    module = kind.__module__.partition(".")[0]
    if issubclass(kind, RootModel):
        root = kind.model_fields["root"]
        return _built(kind.model_validate, values(root.annotation, tuple(root.metadata), inside))
    if module == "prefect" or inspect.isabstract(kind):
        raise Undrawable(f"{_named(kind)} can't be made up")
    if issubclass(kind, BaseModel):
        return _built(kind.model_validate, _fields(kind.model_fields, inside))
    if dataclasses.is_dataclass(kind):
        return _built(lambda given: kind(**given), _of_dataclass(kind, inside))
    if is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return _parts(_bare(hints), set(kind.__optional_keys__), inside)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = dict.fromkeys(kind._fields, Any) | typing.get_type_hints(kind, include_extras=True)
        return _parts(_bare(hints), set(), inside).map(lambda given: kind(**given))
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    return _from_hypothesis(kind)


def _from_hypothesis(kind: type[Any]) -> SearchStrategy[Any]:
    """Return Hypothesis's own strategy for a class, if it has one that is registered or known."""
    try:
        strategy = st.from_type(kind)
        strategy.validate()
    except (HypothesisException, TypeError, NameError) as error:
        raise Undrawable(f"{_named(kind)} can't be made up ({type(error).__name__})") from None
    return strategy


def _of_dataclass(kind: type[Any], inside: tuple[Any, ...]) -> SearchStrategy[dict[str, Any]]:
    if pydantic.dataclasses.is_pydantic_dataclass(kind):
        return _fields(kind.__pydantic_fields__, inside)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    missing = (dataclasses.MISSING, dataclasses.MISSING)
    optional = {f.name for f in fields if (f.default, f.default_factory) != missing}
    return _parts(_bare({field.name: hints[field.name] for field in fields}), optional, inside)


def _fields(
    fields: Mapping[str, FieldInfo], inside: tuple[Any, ...]
) -> SearchStrategy[dict[str, Any]]:
    keyed = {_key(name, field): field for name, field in fields.items() if field.init is not False}
    parts = {key: (field.annotation, tuple(field.metadata)) for key, field in keyed.items()}
    optional = {key for key, field in keyed.items() if not field.is_required()}
    return _parts(parts, optional, inside)


def _bare(annotations: Mapping[str, Any]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    return {name: (annotation, ()) for name, annotation in annotations.items()}


def _key(name: str, field: FieldInfo) -> str:
    """Return the name by which a model takes a field."""
    alias = field.validation_alias or field.alias
    choices = alias.choices if isinstance(alias, pydantic.AliasChoices) else [alias]
    return next((choice for choice in choices if isinstance(choice, str)), name)


def _parts(
    parts: Mapping[str, tuple[Any, tuple[Any, ...]]], optional: set[str], inside: tuple[Any, ...]
) -> SearchStrategy[dict[str, Any]]:
    """Return a strategy for dicts, which lack some of the optional keys."""
    required: dict[str, SearchStrategy[Any]] = {}
    possible: dict[str, SearchStrategy[Any]] = {}
    for name, (annotation, metadata) in parts.items():
        try:
            drawn = values(annotation, metadata, inside)
        except _TooDeep:
            if name not in optional:
                raise
        except Undrawable as error:
            if name not in optional:
                raise Undrawable(f"its {name}: {error}") from None
        else:
            (possible if name in optional else required)[name] = drawn
    return st.fixed_dictionaries(required, optional=possible)


def _built(build: Callable[[Any], Any], given: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Return a strategy for what is built of drawn parts, without parts that are refused."""
    refused = object()

    def built(parts: Any) -> Any:
        try:
            return build(parts)
        except (ValidationError, ValueError):
            return refused

    return given.map(built).filter(lambda value: value is not refused)


def _named(kind: Any) -> str:
    if inspect.isclass(kind):
        return kind.__qualname__
    return re.sub(r"\b(\w+\.)+", "", str(kind))
