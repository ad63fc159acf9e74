# SPDX-License-Identifier: Apache-2.0
"""The limits that an annotation sets to its values: `Annotated[int, Field(gt=0)]` and the like."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from annotated_types import GroupedMetadata
from pydantic.fields import FieldInfo

_NAMES = (
    "gt",
    "ge",
    "lt",
    "le",
    "multiple_of",
    "min_length",
    "max_length",
    "pattern",
    "decimal_places",
    "allow_inf_nan",
)
"""Attributes with which annotated-types and pydantic describe limits."""


def unwrapped(annotation: Any, metadata: Iterable[Any] = ()) -> tuple[Any, tuple[Any, ...]]:
    """Take an annotation apart.

    Args:
        annotation: A type, possibly `Annotated`, a type alias or a new type.
        metadata: What is known of it already.

    Returns:
        The type itself and all metadata, the innermost first.
    """
    known = tuple(metadata)
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation, *more = typing.get_args(annotation)
            known = (*more, *known)
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif typing.get_origin(annotation) in (typing.Required, typing.NotRequired, typing.Final):
            (annotation,) = typing.get_args(annotation)
        else:
            return annotation, known


def without_limits(annotation: Any) -> Any:
    """Return the type of an annotation, without what limits its values."""
    return unwrapped(annotation)[0]


def limits(metadata: Iterable[Any]) -> dict[str, Any]:
    """Return the limits that metadata set, by the names that pydantic's `Field` has for them.

    Args:
        metadata: The metadata of an `Annotated` or of a field.

    Returns:
        The limits; of two of one name the last counts, and pydantic checks both.
    """
    return {
        name: value
        for item in _flat(metadata)
        for name in _NAMES
        if (value := getattr(item, name, None)) is not None
    }


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(item.metadata)
        elif isinstance(item, GroupedMetadata):
            yield item  # pydantic's StringConstraints has a pattern as an attribute only
            yield from _flat(item)
        else:
            yield item
