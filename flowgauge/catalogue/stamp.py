# SPDX-License-Identifier: Apache-2.0
"""The stamp of a copied file: its origin, as a tool table in the `# /// script` block."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from flowgauge.compat.tested_prefect import PROVED_WITH

_TABLE = "# [tool.flowgauge]"
_END = "# ///"
_KEYS = ("pattern", "version", "content", "proved-with-prefect")
_DIGITS = 16


@dataclass(frozen=True)
class Stamp:
    """The origin of a copy.

    Attributes:
        pattern: The pattern's name.
        version: The version of Flowgauge it was copied from.
        content: A hash of what was copied.
        prefect: The versions of Prefect the pattern was proved with.
    """

    pattern: str
    version: str
    content: str
    prefect: str

    @classmethod
    def of(cls, pattern: str, texts: Mapping[str, str]) -> Stamp:
        """Return the stamp for a copy made by this version.

        Args:
            pattern: The pattern's name.
            texts: The copied files; see `content`.

        Returns:
            The stamp.
        """
        return cls(pattern, version("flowgauge"), content(texts), ", ".join(PROVED_WITH))


def content(texts: Mapping[str, str]) -> str:
    """Return a hash of the files of a pattern.

    Args:
        texts: The text of each file by name, without a stamp; the main file, which may be
            renamed, has the name "".

    Returns:
        Hexadecimal digits, independent of the system's line endings.
    """
    whole = repr(sorted((name, text.splitlines()) for name, text in texts.items()))
    return sha256(whole.encode()).hexdigest()[:_DIGITS]


def stamped(text: str, stamp: Stamp) -> str:
    """Write a stamp into the `# /// script` block of a pattern's file."""
    values = (stamp.pattern, stamp.version, stamp.content, stamp.prefect)
    lines = [f'# {key} = "{value}"' for key, value in zip(_KEYS, values, strict=True)]
    before, after = _split(text.split("\n"))
    if before is None:
        return text
    if _TABLE in before:
        at = before.index(_TABLE) + 1
        return "\n".join((*before[:at], *lines, *before[at:], *after))
    return "\n".join((*before, _TABLE, *lines, *after))


def unstamped(text: str) -> str:
    """Return the text of a file without its stamp."""
    before, after = _split(text.split("\n"))
    if before is None:
        return text
    starts = tuple(f"# {key} = " for key in _KEYS)
    remaining = [line for line in before if not line.startswith(starts)]
    if len(remaining) < len(before) and remaining[-1].rstrip() == _TABLE:
        remaining.pop()
    return "\n".join((*remaining, *after))


def read_stamp(text: str) -> Stamp | None:
    """Return the stamp of a file, None if it has none."""
    before, _ = _split(text.split("\n"))
    block = "\n".join(line.removeprefix("#") for line in (before or ())[2:])
    try:
        table: Any = tomllib.loads(block).get("tool", {}).get("flowgauge", {})
        values = [table.get(key) for key in _KEYS]
    except (tomllib.TOMLDecodeError, AttributeError):
        return None
    return Stamp(*values) if all(isinstance(value, str) for value in values) else None


def _split(lines: list[str]) -> tuple[list[str] | None, list[str]]:
    """Split the lines at the end of the script block; the first part is None without a block."""
    ends = [at for at, line in enumerate(lines) if line.rstrip() == _END]
    if len(lines) < 2 or lines[1].rstrip() != "# /// script" or not ends:
        return None, lines
    return lines[: ends[0]], lines[ends[0] :]
