# SPDX-License-Identifier: Apache-2.0
"""The results of one benchmark run: its rows, and the file results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from flowgauge.files import write_whole
from flowgauge.json_file import EXACT, JsonFileError, check, read_json
from flowgauge.results.interval import Interval
from flowgauge.results.older import upgraded
from flowgauge.results.timelines import Timeline

SCHEMA_VERSION = 4
PRECISION = 0.05
"""How far the ends of a figure's interval should be from it at most, as a share of it."""


class ResultsError(JsonFileError):
    """A results file that cannot be used; the message is one line, for the user."""


class Group(StrEnum):
    """The groups of rows, in the order of the report; users' own benchmarks may add others.

    METG is the minimum effective task granularity.
    """

    METG = "metg"
    FEATURES = "features"
    PATTERNS = "patterns"
    SCALING = "scaling"
    WORKFLOWS = "workflows"
    LEAN = "lean"
    PREDICTION = "prediction"
    STARTUP = "startup"
    DEPLOYMENTS = "deployments"
    LOAD = "load"
    LIMITS = "limits"
    HARNESS = "harness"
    NOISE = "noise"


class Outcome(StrEnum):
    """The outcome of a search for tasks that are long enough to reach an efficiency."""

    FOUND = "found"
    BEYOND = "longer than tried"
    NEVER = "never"


class Unit(StrEnum):
    """The unit of a figure; users' own benchmarks may have others."""

    SECONDS = "seconds"
    RUNS_PER_MINUTE = "runs/min"
    TASK_RUNS_PER_SECOND = "task runs/s"
    MEBIBYTES = "MiB"
    BUSY = "busy"
    """The share of the workers' time that goes into the work."""
    SHARE = "share"
    EFFICIENCY = "efficiency"
    """The highest share of the workers' time, if no task was long enough for the target."""


@dataclass(frozen=True)
class Memory:
    """The peak of the memory that a call takes beyond what was held before it, in MiB.

    Attributes:
        candidate: That of the candidate.
        reference: That of its reference; None if unpaired.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    candidate: float
    reference: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure, with its interval and what it was measured relative to.

    Attributes:
        id: What was measured, for example `submit` or `retries/backoff`.
        group: One of `Group`, or a user's own; all are shown.
        runner: The task runner's name; None if the figure belongs to none.
        params: The other parameters, for example the number of tasks.
        figure: What the value means, in words: "time per task run".
        unit: The unit of `value`: one of `Unit`, or another.
        value: The median over the rounds, with its interval.
        rounds: How many paired rounds there were; 0 if the figure is computed, not measured.
        reference: What each round was paired with; None if unpaired.
        ratio: Candidate over reference, pair by pair; None if unpaired.
        relative_iqr: The interquartile range of the rounds as a share of their median; None if
            it was not recorded.
        outcome: The outcome of a search for long enough tasks. Unless it is `FOUND`, `value` is
            the highest efficiency measured, or the limit for infinitely long tasks.
        tried: The longest time for a task that was tried, in seconds, where no task was long
            enough; None otherwise.
        memory: The memory that a round takes; None if it was not measured.
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
    tried: float | None = None
    memory: Memory | None = None

    @property
    def is_computed(self) -> bool:
        """Whether it is computed from other figures rather than measured."""
        return not self.rounds

    @property
    def is_precise(self) -> bool:
        """Whether its interval is narrow; that of a single round is not known."""
        is_known = self.rounds > 1 or self.relative_iqr is None
        return is_known and self.value.half_width <= PRECISION

    @property
    def key(self) -> tuple[str, str, str | None, str, str]:
        """The key that identifies the row within a run, the same in every run."""
        return self.group, self.id, self.runner, self.figure, repr(sorted(self.params.items()))


@dataclass(frozen=True)
class Results:
    """All figures of one benchmark run, and the machine it ran on.

    Attributes:
        fingerprint: When, where and with which versions; `versions` is itself a mapping.
        rows: The figures, in the order they were measured.
        timelines: When each task ran, in typical runs of the workflows of group `workflows`.
        durations: The seconds that each benchmark took, by its test.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    fingerprint: Mapping[str, Any]
    rows: tuple[Row, ...]
    timelines: tuple[Timeline, ...] = ()
    durations: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a results file, also one of an earlier schema.

        Args:
            path: The file.

        Returns:
            The results.

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
        """Write a results file atomically.

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
