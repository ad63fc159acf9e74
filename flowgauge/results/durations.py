# SPDX-License-Identifier: Apache-2.0
"""How long each benchmark took in earlier runs, to tell how long a run will still take."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from flowgauge.json_file import JsonFileError
from flowgauge.results.rows import Results


def known_durations(files: Iterable[Path], *, full: bool) -> dict[str, float]:
    """Return how long each benchmark took.

    Args:
        files: Results of earlier runs, the newest last; those that are missing or broken are left
            out, because they would only make an estimate better.
        full: Whether the run measures everything (`--flow-full`); only runs that did the same are
            used, because in others benchmarks take another time.

    Returns:
        The seconds of each benchmark, by its test.
    """
    known: dict[str, float] = {}
    for file in files:
        try:
            results = Results.load(file)
        except JsonFileError:
            continue
        was_full = "--flow-full" in shlex.split(str(results.fingerprint.get("command", "")))
        if was_full == full:
            known.update(results.durations)
    return known
