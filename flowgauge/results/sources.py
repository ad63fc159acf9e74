# SPDX-License-Identifier: Apache-2.0
"""Finds the results of a benchmark run by the name that the user gives."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from flowgauge.results.rows import Results, ResultsError

COMMITTED = "reports/reference/results.json"
"""The path of the reference results in the repository."""
_PACKAGED = Path(__file__).parents[1] / "reference" / "results.json"


def reference_file() -> Path | None:
    """Return the file of the reference run: that of the installed package or of this checkout."""
    checkout = Path(__file__).parents[2] / COMMITTED
    return next((file for file in (_PACKAGED, checkout) if file.is_file()), None)


def find_results(name: str) -> Results:
    """Read the results of a benchmark run.

    Args:
        name: A results.json, a folder with one, or a commit that contains a reference run.

    Returns:
        The results.

    Raises:
        ResultsError: If it is none of these, or its file is broken; the message is one line.
    """
    path = Path(name)
    if path.is_dir():
        return Results.load(path / "results.json")
    if path.exists() or path.suffix == ".json":
        return Results.load(path)
    with tempfile.TemporaryDirectory() as folder:
        # Messages name the file, and so the commit.
        file = Path(folder) / f"{name.replace('/', '-').lstrip('-')}.json"
        # Git would take a name that begins with a hyphen for an option: hence --end-of-options.
        try:
            with file.open("wb") as output:
                subprocess.run(
                    ["git", "show", "--end-of-options", f"{name}:{COMMITTED}"],
                    stdout=output,
                    stderr=subprocess.PIPE,
                    check=True,
                )
        except (OSError, subprocess.CalledProcessError):
            raise ResultsError(
                f"{name} is neither a file, a folder, nor a commit that contains {COMMITTED}"
            ) from None
        return Results.load(file)
