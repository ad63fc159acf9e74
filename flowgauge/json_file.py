# SPDX-License-Identifier: Apache-2.0
"""Reads JSON that people give: whatever is wrong with a file is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from flowgauge.mistake import Mistake

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

EXACT: dict[str, Any] = {"allow_inf_nan": False, "extra": "forbid"}
"""The `__pydantic_config__` of dataclasses that are read: no other keys, and finite numbers."""


class JsonFileError(Mistake):
    """A file that can't be used; the message is one line for the person who gave it."""


def read_json(path: Path) -> Any:
    """Read a JSON file, strictly: what it holds can be written again.

    Args:
        path: The file.

    Returns:
        The JSON value.

    Raises:
        JsonFileError: If the file can't be read, is no JSON, or holds a number that is not finite
            or a text that is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise JsonFileError(f"{path} cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise JsonFileError(f"{path} is not JSON: {error.reason} at byte {error.start}") from None
    try:
        document = json.loads(text, parse_constant=_refuse)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JsonFileError(f"{path} is not JSON: {error.msg} in {place}") from None
    except RecursionError:
        raise JsonFileError(f"{path} is not read: it is nested too deeply") from None
    except UnicodeEncodeError:
        raise JsonFileError(f"{path} holds a text with half a character in it") from None
    except ValueError:
        # Digits without end, or one of the names that Python's JSON has for no number.
        raise JsonFileError(f"{path} holds a number that is not finite or too long") from None
    return document


def check(kind: TypeAdapter[T], document: object, path: Path) -> T:
    """Turn a JSON value into what it stands for.

    Args:
        kind: What it should be.
        document: What `read_json` returned.
        path: The file, for the message.

    Returns:
        The value.

    Raises:
        JsonFileError: If something is missing or wrong; the first such thing is named.
    """
    from pydantic import ValidationError

    try:
        # Not the value itself: only of JSON is a list a tuple, and a text no number.
        return kind.validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise JsonFileError(f"{path}: {_place(first['loc'])}: {_wrong(first)}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _place(steps: tuple[int | str, ...]) -> str:
    """Write where something stands, such as `rows[3].value.low`."""
    written = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return written.removeprefix(".") or "the file"


def _wrong(error: Any) -> str:
    """Say what is wrong, and what was found."""
    message: str = error["msg"].lower()
    return message if error["type"] == "missing" else f"{message}, not {error['input']!r:.60}"
