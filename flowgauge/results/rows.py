# SPDX-License-Identifier: Apache-2.0
"""The figures of one run: what a row holds, and its file, results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from flowgauge.files import write_whole
from flowgauge.mistake import Mistake

SCHEMA_VERSION = 1


class ResultsError(Mistake):
    """A results file that cannot be used; the message is one line for the person who gave it."""


@dataclass(frozen=True)
class Row:
    """One figure, with its interval and what it was measured beside.

    Attributes:
        id: What was measured, for example `submit` or `retries/backoff`.
        group: `features`, `patterns`, `startup`, `deployments`, `harness` or `noise`; others are
            shown too.
        runner: The task runner's name, None if the figure belongs to no runner.
        params: What else was set, for example the number of tasks.
        figure: What the value is, for people: "time per task run".
        unit: The unit of `value`, `low` and `high`: "seconds", or "runs/min".
        value: The median over the rounds.
        low: Lower end of the median's 95 % bootstrap interval.
        high: Upper end of that interval.
        rounds: How many paired rounds there were.
        reference: What each round was paired with, None if with nothing.
        ratio: Median of candidate over reference, pair by pair, None if unpaired.
        ratio_low: Lower end of the ratio's 95 % bootstrap interval.
        ratio_high: Upper end of that interval.
        spread: How far the middle half of the rounds reaches, as a share of the median; None
            where that was not kept.
    """

    id: str
    group: str
    runner: str | None
    params: Mapping[str, Any]
    figure: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    reference: str | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    spread: float | None = None


@dataclass(frozen=True)
class Results:
    """Every figure of one run, and what it ran on.

    Attributes:
        fingerprint: When, where and with which versions; `versions` is itself a mapping.
        rows: The figures, in the order they were measured.
    """

    fingerprint: Mapping[str, Any]
    rows: tuple[Row, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a results file.

        Args:
            path: The file.

        Returns:
            What it holds.

        Raises:
            ResultsError: If the file is missing, broken, or newer than this package.
        """
        try:
            return cls(*_parts(_json(path)))
        except _Fault as fault:
            raise ResultsError(f"{path.name} {fault}") from None

    def save(self, path: Path) -> None:
        """Write a results file, whole or not at all.

        Args:
            path: The file, in a folder that exists; an earlier one is replaced.

        Raises:
            ResultsError: If a number is not finite.
            OSError: If the folder cannot be written to.
        """
        document = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "rows": [asdict(row) for row in self.rows],
        }
        try:
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise ResultsError(f"{path.name} not written: a number in it is not finite") from None
        write_whole(path, text + "\n")


class _Fault(Exception):
    """What is wrong with a file, told so that it can follow the file's name."""


def _json(path: Path) -> object:
    """Return what the file holds, sure to be strict JSON that can be written again."""
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _Fault(f"cannot be read ({reason}): {path}") from None
    except json.JSONDecodeError as error:
        raise _Fault(f"is not JSON: {error.msg} in line {error.lineno}") from None
    except (ValueError, RecursionError):
        raise _Fault("is not JSON: give the results.json of a benchmark run") from None
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise _Fault("holds text with half a character in it: measure again") from None
    except ValueError:
        raise _Fault("holds NaN or an infinite number: measure again") from None
    return document


def _parts(document: object) -> tuple[Mapping[str, Any], tuple[Row, ...]]:
    """Return the fingerprint and the rows of a document."""
    if not isinstance(document, dict):
        raise _Fault(f"is not a JSON object but {_named(document)}")
    version = _field(document, "schema_version", "int", "at the top")
    if version > SCHEMA_VERSION:
        raise _Fault(
            f"has schema {version}, this flowgauge reads up to {SCHEMA_VERSION}: upgrade flowgauge"
        )
    fingerprint = _field(document, "fingerprint", "Mapping[str, Any]", "at the top")
    rows = _field(document, "rows", "list", "at the top")
    return fingerprint, tuple(_row(row, number) for number, row in enumerate(rows, start=1))


def _row(record: object, number: int) -> Row:
    """Return one record as a row; `number` counts from 1, for the message."""
    where = f"in row {number}"
    if not isinstance(record, dict):
        raise _Fault(f"has {_named(record)} {where}, not an object")
    row = Row(
        **{
            f.name: _field(record, f.name, str(f.type), where)
            for f in fields(Row)
            # Files of earlier releases lack what was added since.
            if f.default is MISSING or f.name in record
        }
    )
    if len({row.ratio is None, row.ratio_low is None, row.ratio_high is None}) > 1:
        raise _Fault(f"has a ratio without its interval {where}: give all three, or null for all")
    return row


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "str | None": ((str, type(None)), "a string or null"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, type(None)), "a number or null"),
    "list": ((list,), "a list"),
    "Mapping[str, Any]": ((dict,), "an object"),
}
"""The JSON types that a field's annotation stands for, and what to call them."""


def _field(record: Mapping[str, Any], key: str, kind: str, where: str) -> Any:
    """Return a value of a record, sure to be of its kind."""
    if key not in record:
        raise _Fault(f'has no "{key}" {where}')
    value = record[key]
    types, name = _KINDS[kind]
    # JSON's true is an int to Python, and never a figure.
    if isinstance(value, bool) or not isinstance(value, types):
        raise _Fault(f'has {_named(value)} as "{key}" {where}, not {name}')
    if "float" in kind and value is not None:
        return _finite(value, key, where)
    return value


def _finite(value: Any, key: str, where: str) -> float:
    """Return a number as a float, sure to be one that can be drawn."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Fault(f'has a number that is not finite as "{key}" {where}: measure again')
    return number


def _named(value: object) -> str:
    """Return what a JSON value is, in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names[type(value)]
