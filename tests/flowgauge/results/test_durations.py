# SPDX-License-Identifier: Apache-2.0
"""What is known about how long benchmarks take."""

from __future__ import annotations

from pathlib import Path

from flowgauge.results.durations import known_durations
from flowgauge.results.rows import Results


def saved(file: Path, command: str, **durations: float) -> Path:
    """Save the results of a run that took these times, and return its file."""
    Results({"command": command}, (), durations=durations).save(file)
    return file


def test_the_newest_run_of_the_same_kind_counts(tmp_path: Path) -> None:
    """Later runs replace what earlier ones tell, and add to it; runs of another kind tell nothing.

    Files that are missing or broken are left out.
    """
    (tmp_path / "broken.json").write_text("{")
    files = [
        saved(tmp_path / "old.json", "pytest benchmarks --flow-full", a=10, b=20),
        saved(tmp_path / "quick.json", "pytest --benchmark-only", b=2),
        saved(tmp_path / "new.json", "pytest --flow-full -k b", b=30),
        tmp_path / "missing.json",
        tmp_path / "broken.json",
    ]
    assert known_durations(files, full=True) == {"a": 10, "b": 30}
    assert known_durations(files, full=False) == {"b": 2}
