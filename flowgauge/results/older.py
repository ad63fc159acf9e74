# SPDX-License-Identifier: Apache-2.0
"""Reads results files of earlier schemas, by making them what they would be today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowgauge.json_file import JsonFileError

_OUTCOMES = {"reached": "longer than tried", "efficiency": "never"}
_IDS = {"map-beside-floor": "map-vs-baseline"}


def upgraded(document: Any, version: int, path: Path) -> dict[str, Any]:
    """Return what a results file would hold in today's schema.

    Args:
        document: The JSON value of the file.
        version: Today's schema.
        path: The file, for the message.

    Returns:
        The value, without its version. What is wrong in it is still wrong.

    Raises:
        JsonFileError: If it has no version, or a newer one.
    """
    if not isinstance(document, dict) or type(document.get("schema_version")) is not int:
        raise JsonFileError(f"{path} has no schema_version")
    found, rest = document["schema_version"], dict(document)
    del rest["schema_version"]
    if found > version:
        raise JsonFileError(
            f"{path} has schema {found}, this flowgauge reads up to {version}: upgrade flowgauge"
        )
    if found < 2 and isinstance(rows := rest.get("rows"), list):
        rest["rows"] = [_of_first_schema(row) if isinstance(row, dict) else row for row in rows]
    return rest


def _of_first_schema(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose intervals were three fields each, and whose outcome was its unit."""
    made = {
        new: row[old]
        for old, new in (
            *((name, name) for name in ("id", "group", "runner", "params", "figure", "unit")),
            *((name, name) for name in ("rounds", "reference")),
            ("spread", "relative_iqr"),
        )
        if old in row
    }
    names = ("median", "low", "high")
    made["value"] = {
        name: row[old]
        for name, old in zip(names, ("value", "low", "high"), strict=True)
        if old in row
    }
    ratio = {
        name: row[old]
        for name, old in zip(names, ("ratio", "ratio_low", "ratio_high"), strict=True)
        if row.get(old) is not None
    }
    if (new_id := _IDS.get(str(row.get("id")))) is not None:
        made["id"] = new_id
    if (outcome := _OUTCOMES.get(str(row.get("unit")))) is not None:
        made |= {"outcome": outcome, "unit": "efficiency"}
    return made | {"ratio": ratio or None}
