# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that take too long for a full run have commands of their own, and work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["advice_error", "noise_experiments", "what_breaks_first"])
def test_each_of_its_benchmarks_runs_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--benchmark-only` nothing is timed, and each answer is checked."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    words = (f"benchmarks/{name}.py", "-n0", "-q", "--flow-runners", "threads,processes")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * patience(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
