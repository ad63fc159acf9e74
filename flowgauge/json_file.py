# SPDX-License-Identifier: Apache-2.0
"""Reading JSON files that users supply; any problem is reported in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from flowgauge.mistake import Mistake

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

EXACT: dict[str, Any] = {"allow_inf_nan": False, "extra": "forbid"}
"""`__pydantic_config__` for dataclasses read from JSON: no extra keys, finite numbers only."""


class JsonFileError(Mistake):
    """An unusable file; the message is one line for the user who supplied it."""


def read_json(path: Path) -> Any:
    """Read a JSON file strictly: only values that can be written back as JSON are accepted.

    Args:
        path: The file.

    Returns:
        The JSON value.

    Raises:
        JsonFileError: If the file can't be read, is not JSON, or contains a number that is not
            finite or a string that is not valid Unicode.
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
        raise JsonFileError(f"{path} cannot be read: it is nested too deeply") from None
    except UnicodeEncodeError:
        raise JsonFileError(f"{path} contains a string that is not valid Unicode") from None
    except ValueError:
        # Too many digits, or NaN or Infinity, which Python's JSON accepts.
        raise JsonFileError(f"{path} contains a number that is not finite or too long") from None
    return document


def check(kind: TypeAdapter[T], document: object, path: Path) -> T:
    """Validate a JSON value and convert it to a type.

    Args:
        kind: The type it should have.
        document: The JSON value, as `read_json` returned it.
        path: The file, for the message.

    Returns:
        The converted value.

    Raises:
        JsonFileError: If something is missing or wrong; the message names the first problem.
    """
    from pydantic import ValidationError

    try:
        # As JSON and not as Python values: only that, when strict, takes a list for a tuple but
        # no string for a number.
        return kind.validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise JsonFileError(f"{path}: {_place(first['loc'])}: {_wrong(first)}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _place(steps: tuple[int | str, ...]) -> str:
    """Return a location in the document as text, such as `rows[3].value.low`."""
    written = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return written.removeprefix(".") or "the file"


def _wrong(error: Any) -> str:
    """Return what is wrong, with the offending value."""
    message: str = error["msg"].lower()
    return message if error["type"] == "missing" else f"{message}, not {error['input']!r:.60}"
