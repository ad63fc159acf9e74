# SPDX-License-Identifier: Apache-2.0
"""Finds the results of a run by what a person calls it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from flowgauge.results.rows import Results, ResultsError

COMMITTED = "reports/reference/results.json"
"""The results that a repository keeps of each commit."""


_PACKAGED = Path(__file__).parents[1] / "reference" / "results.json"


def reference_file() -> Path | None:
    """Return the reference run: that of the checkout this is part of, or the one it came with."""
    checkout = Path(__file__).parents[2] / COMMITTED
    return next((file for file in (_PACKAGED, checkout) if file.is_file()), None)


def find_results(name: str) -> Results:
    """Read the results of a run.

    Args:
        name: A results.json, a folder with one, or a commit that holds a reference run.

    Returns:
        The results.

    Raises:
        ResultsError: If it is none of these, or its file is broken; one line says so.
    """
    path = Path(name)
    if path.is_dir():
        return Results.load(path / "results.json")
    if path.exists() or path.suffix == ".json":
        return Results.load(path)
    with tempfile.TemporaryDirectory() as folder:
        # Git takes what begins with a hyphen for an option.
        file = Path(folder) / f"{name.replace('/', '-').lstrip('-')}.json"
        try:
            with file.open("wb") as written:
                subprocess.run(
                    ["git", "show", "--end-of-options", f"{name}:{COMMITTED}"],
                    stdout=written,
                    stderr=subprocess.PIPE,
                    check=True,
                )
        except (OSError, subprocess.CalledProcessError):
            raise ResultsError(
                f"{name} is no file, no folder, and no commit that holds {COMMITTED}"
            ) from None
        return Results.load(file)
