# SPDX-License-Identifier: Apache-2.0
"""The figures of one run: what a row holds, and its file, results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from flowgauge.files import write_whole
from flowgauge.json_file import EXACT, JsonFileError, check, read_json
from flowgauge.results.interval import Interval
from flowgauge.results.older import upgraded
from flowgauge.results.timelines import Timeline

SCHEMA_VERSION = 2


class ResultsError(JsonFileError):
    """A results file that cannot be used; the message is one line for the person who gave it."""


class Group(StrEnum):
    """What a row is about, in the order of the report; people's own benchmarks have others."""

    METG = "metg"
    FEATURES = "features"
    PATTERNS = "patterns"
    SCALING = "scaling"
    WORKFLOWS = "workflows"
    LEAN = "lean"
    PREDICTION = "prediction"
    STARTUP = "startup"
    DEPLOYMENTS = "deployments"
    HARNESS = "harness"
    NOISE = "noise"


class Outcome(StrEnum):
    """What became of a search for the tasks that are long enough."""

    FOUND = "found"
    BEYOND = "longer than tried"
    NEVER = "never"


class Unit(StrEnum):
    """What a figure is counted in; people's own benchmarks may have others."""

    SECONDS = "seconds"
    RUNS_PER_MINUTE = "runs/min"
    MEBIBYTES = "MiB"
    BUSY = "busy"
    """A share of the workers' time that goes into the work."""
    SHARE = "share"
    EFFICIENCY = "efficiency"
    """The highest share of the workers' time, where no task was long enough for more."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure, with its interval and what it was measured relative to.

    Attributes:
        id: What was measured, for example `submit` or `retries/backoff`.
        group: What it is about: one of `Group`; others are shown too.
        runner: The task runner's name, None if the figure belongs to no runner.
        params: What else was set, for example the number of tasks.
        figure: What the value is, for people: "time per task run".
        unit: The unit of `value`: one of `Unit`, or another.
        value: The median over the rounds, with its interval.
        rounds: How many paired rounds there were.
        reference: What each round was paired with, None if with nothing.
        ratio: Candidate over reference, pair by pair; None if unpaired.
        relative_iqr: How far the middle half of the rounds reaches, as a share of the median;
            None where that was not kept.
        outcome: Whether the search that the row is about found what it looked for; where it did
            not, `value` is the highest efficiency that there was, or is.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    id: str
    group: str
    runner: str | None = None
    params: Mapping[str, Any]
    figure: str
    unit: str
    value: Interval
    rounds: int
    reference: str | None = None
    ratio: Interval | None = None
    relative_iqr: float | None = None
    outcome: Outcome = Outcome.FOUND

    @property
    def key(self) -> tuple[str, str, str | None, str, str]:
        """What tells it from the other rows of a run, the same in each run."""
        return self.group, self.id, self.runner, self.figure, repr(sorted(self.params.items()))


@dataclass(frozen=True)
class Results:
    """Every figure of one run, and what it ran on.

    Attributes:
        fingerprint: When, where and with which versions; `versions` is itself a mapping.
        rows: The figures, in the order they were measured.
        timelines: When each task of a workflow ran, of typical runs of rows of `workflows`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    fingerprint: Mapping[str, Any]
    rows: tuple[Row, ...]
    timelines: tuple[Timeline, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a results file, also of an earlier schema.

        Args:
            path: The file.

        Returns:
            What it holds.

        Raises:
            ResultsError: If the file is missing, broken, or newer than this package.
        """
        from pydantic import TypeAdapter

        try:
            document = upgraded(read_json(path), SCHEMA_VERSION, path)
            return check(TypeAdapter(cls), document, path)
        except JsonFileError as error:
            raise ResultsError(f"{error}; give the results.json of a benchmark run") from None

    def save(self, path: Path) -> None:
        """Write a results file, whole or not at all.

        Args:
            path: The file, in a folder that exists; an earlier one is replaced.

        Raises:
            ResultsError: If a number is not finite.
            OSError: If the folder cannot be written to.
        """
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        try:
            text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise ResultsError(f"{path.name} not written: a number in it is not finite") from None
        write_whole(path, text + "\n")
