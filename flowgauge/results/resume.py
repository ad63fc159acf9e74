# SPDX-License-Identifier: Apache-2.0
"""Keeps what a run has measured so far, so that another one can go on from there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flowgauge.results.rows import Results, ResultsError, Row
from flowgauge.results.timelines import Timeline

UNFINISHED = "unfinished.json"
_VERSIONS = "versions"


def keep_unfinished(
    directory: Path,
    versions: Mapping[str, str],
    measured: Mapping[str, Sequence[Row]],
    timelines: Iterable[Timeline],
) -> None:
    """Write down what was measured.

    Args:
        directory: Of the report; made if need be.
        versions: Of the packages that figures depend on.
        measured: The rows of each benchmark that has ended.
        timelines: Of the workflows among them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tests = [test for test, rows in measured.items() for _ in rows]
    rows = tuple(row for each in measured.values() for row in each)
    kept = Results({_VERSIONS: dict(versions), "tests": tests}, rows, tuple(timelines))
    kept.save(directory / UNFINISHED)


def load_unfinished(
    directory: Path, versions: Mapping[str, str]
) -> tuple[dict[str, list[Row]], tuple[Timeline, ...]]:
    """Read what an earlier run has measured.

    Args:
        directory: Of the report.
        versions: Of the packages that figures depend on.

    Returns:
        The rows of each benchmark that had ended, and the timelines of workflows among them.

    Raises:
        ResultsError: If there is none, it is broken, or it was measured with other versions.
    """
    file = directory / UNFINISHED
    if not file.exists():
        raise ResultsError(f"{directory} holds no unfinished run: measure without --flow-resume")
    kept = Results.load(file)
    tests = kept.fingerprint.get("tests")
    if not isinstance(tests, list) or len(tests) != len(kept.rows):
        raise ResultsError(f"{file} is broken: measure without --flow-resume")
    if kept.fingerprint.get(_VERSIONS) != dict(versions):
        raise ResultsError(f"{file} is of other versions: measure without --flow-resume")
    measured: dict[str, list[Row]] = {}
    for test, row in zip(tests, kept.rows, strict=True):
        measured.setdefault(str(test), []).append(row)
    return measured, kept.timelines


def forget_unfinished(directory: Path) -> None:
    """Remove what was kept: the run has finished."""
    (directory / UNFINISHED).unlink(missing_ok=True)
