# SPDX-License-Identifier: Apache-2.0
"""Saves what an unfinished benchmark run has measured, so that another one can resume it."""

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
    """Save what was measured so far.

    Args:
        directory: The folder of the report; created if it is missing.
        versions: The versions of the packages that figures depend on.
        measured: The rows of each benchmark that has ended.
        timelines: The timelines of the workflows among them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tests = [test for test, rows in measured.items() for _ in rows]
    all_rows = tuple(row for rows in measured.values() for row in rows)
    unfinished = Results({_VERSIONS: dict(versions), "tests": tests}, all_rows, tuple(timelines))
    unfinished.save(directory / UNFINISHED)


def load_unfinished(
    directory: Path, versions: Mapping[str, str]
) -> tuple[dict[str, list[Row]], tuple[Timeline, ...]]:
    """Read what an earlier benchmark run has measured.

    Args:
        directory: The folder of the report.
        versions: The versions of the packages that figures depend on.

    Returns:
        The rows of each benchmark that had ended, and the timelines of workflows among them.

    Raises:
        ResultsError: If there is no unfinished run, its file is broken, or it was measured with
            other versions.
    """
    file = directory / UNFINISHED
    if not file.exists():
        raise ResultsError(f"{directory} holds no unfinished run: measure without --flow-resume")
    unfinished = Results.load(file)
    tests = unfinished.fingerprint.get("tests")
    if not isinstance(tests, list) or len(tests) != len(unfinished.rows):
        raise ResultsError(f"{file} is broken: measure without --flow-resume")
    if unfinished.fingerprint.get(_VERSIONS) != dict(versions):
        raise ResultsError(
            f"{file} was measured with other versions: measure without --flow-resume"
        )
    measured: dict[str, list[Row]] = {}
    for test, row in zip(tests, unfinished.rows, strict=True):
        measured.setdefault(str(test), []).append(row)
    return measured, unfinished.timelines


def forget_unfinished(directory: Path) -> None:
    """Remove the file of an unfinished run, because the run has finished."""
    (directory / UNFINISHED).unlink(missing_ok=True)
