# SPDX-License-Identifier: Apache-2.0
"""Joins the results of several benchmark runs on one machine, for one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowgauge.results.rows import Results, ResultsError

BENCHMARKS = "benchmarks"
"""The entry of a fingerprint with the files in which each group was measured."""
JOINED = "joined"
"""The entry of a fingerprint with the commands of the runs that were joined to the first."""
_SAME = ("cpu_model", "cores", "platform", "python", "workers", "versions")


def joined(runs: Sequence[Results]) -> Results:
    """Join runs.

    Args:
        runs: At least one. The fingerprint is that of the first.

    Returns:
        The rows of all, of which a later run replaces those that an earlier one has, too.

    Raises:
        ResultsError: If they are from different machines or versions, or with different numbers of
            workers; the message is one line.
    """
    first, *others = runs
    for other in others:
        for name in _SAME:
            ours, theirs = (run.fingerprint.get(name) for run in (first, other))
            if ours != theirs:
                raise ResultsError(
                    f"these runs can't be joined: {_difference(name, ours, theirs)};"
                    " give runs of one machine and the same versions"
                )
    if not others:
        return first
    rows = {row.key: row for run in runs for row in run.rows}
    timelines = {(each.workflow, each.runner): each for run in runs for each in run.timelines}
    files: dict[str, list[str]] = {}
    durations: dict[str, float] = {}
    for run in runs:
        for group, names in dict(run.fingerprint.get(BENCHMARKS) or {}).items():
            files[group] = sorted({*files.get(group, ()), *names})
        durations |= run.durations
    commands = [str(run.fingerprint.get("command")) for run in others]
    fingerprint = {**first.fingerprint, BENCHMARKS: files, JOINED: commands}
    return Results(fingerprint, tuple(rows.values()), tuple(timelines.values()), durations)


def _difference(name: str, ours: Any, theirs: Any) -> str:
    """Return in words what differs; of a mapping its first entry that does."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in {**ours, **theirs}:
            if ours.get(key) != theirs.get(key):
                return _difference(key, ours.get(key), theirs.get(key))
    return f"{name.replace('_', ' ')} is {ours} in one and {theirs} in another"
