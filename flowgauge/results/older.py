# SPDX-License-Identifier: Apache-2.0
"""Upgrades results files of earlier schemas to the current one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowgauge.json_file import JsonFileError

_OUTCOMES = {"reached": "longer than tried", "efficiency": "never"}
_IDS = {"map-beside-floor": "map-vs-baseline"}


def upgraded(document: Any, version: int, path: Path) -> dict[str, Any]:
    """Upgrade the content of a results file to the current schema.

    Args:
        document: The JSON value of the file.
        version: The current schema.
        path: The file, for the message.

    Returns:
        The value, without its version. It is not validated.

    Raises:
        JsonFileError: If it has no version, or a newer one.
    """
    if not isinstance(document, dict) or type(document.get("schema_version")) is not int:
        raise JsonFileError(f"{path} has no schema_version")
    stored_version, rest = document["schema_version"], dict(document)
    del rest["schema_version"]
    if stored_version > version:
        raise JsonFileError(
            f"{path} has schema {stored_version}, this flowgauge reads up to {version}:"
            " upgrade flowgauge"
        )
    if stored_version < 2 and isinstance(rows := rest.get("rows"), list):
        rest["rows"] = [_of_first_schema(row) if isinstance(row, dict) else row for row in rows]
    return rest


def _of_first_schema(row: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a row of schema 1: three fields per interval, and the outcome in the unit."""
    upgraded_row = {
        new: row[old]
        for old, new in (
            *((name, name) for name in ("id", "group", "runner", "params", "figure", "unit")),
            *((name, name) for name in ("rounds", "reference")),
            ("spread", "relative_iqr"),
        )
        if old in row
    }
    names = ("median", "low", "high")
    upgraded_row["value"] = {
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
        upgraded_row["id"] = new_id
    if (outcome := _OUTCOMES.get(str(row.get("unit")))) is not None:
        upgraded_row |= {"outcome": outcome, "unit": "efficiency"}
    return upgraded_row | {"ratio": ratio or None}
