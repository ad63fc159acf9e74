# SPDX-License-Identifier: Apache-2.0
"""Every pattern runs by itself, as the only file that was copied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowgauge.catalogue import Pattern, catalogue_root, copy, load

PATTERNS = load(catalogue_root())


@pytest.mark.parametrize("pattern", PATTERNS, ids=[pattern.name for pattern in PATTERNS])
def test_a_copied_pattern_shows_what_it_does(
    pattern: Pattern, prefect_server: str, tmp_path: Path
) -> None:
    """A pattern copied alone runs as a script, and prints what it showed."""
    script = copy(pattern, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**environment, "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
