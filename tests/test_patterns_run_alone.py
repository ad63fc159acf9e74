# SPDX-License-Identifier: Apache-2.0
"""Every pattern runs by itself if nothing else is copied."""

from __future__ import annotations

import os
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flowgauge.catalogue.catalogue import Pattern, catalogue_root, load_catalogue
from flowgauge.catalogue.copies import copy
from flowgauge.runners.process_pool import preloaded_context
from flowgauge.server.isolation import forget_user_settings
from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]
PATTERNS = load_catalogue(catalogue_root())
LONG = ("caching/single_flight", "deployments/", "pipelines/", "task_runners/")


def run_as_script(script: Path, printed: Path, api: str) -> None:
    """Run a file as `python script.py` would, with nothing of this repository importable."""
    os.environ["PREFECT_API_URL"] = api
    forget_user_settings()
    os.chdir(script.parent)
    sys.argv = [str(script)]
    sys.path[:] = [str(script.parent), *(path for path in sys.path if Path(path) != ROOT)]
    # With heartbeats a flow run ends by joining a thread that sleeps in steps of a second.
    silent = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with silent, printed.open("w") as terminal, redirect_stdout(terminal):
        runpy.run_path(str(script), run_name="__main__")


CASES = [
    # These start servers, workers, pools of processes and clusters, or train models.
    pytest.param(
        pattern, id=pattern.name, marks=[pytest.mark.nightly] * pattern.name.startswith(LONG)
    )
    for pattern in PATTERNS
]


@pytest.mark.parametrize("pattern", CASES)
def test_a_copied_pattern_shows_what_it_does(
    pattern: Pattern, prefect_server: str, tmp_path: Path
) -> None:
    """A pattern copied alone runs as a script, and prints something."""
    printed = tmp_path / "printed.txt"
    script = copy(pattern, tmp_path, pattern.path.stem)
    # Forked from a process that has Prefect imported: a new interpreter takes seconds for that.
    process = preloaded_context().Process(
        target=run_as_script, args=(script, printed, prefect_server)
    )
    process.start()
    process.join(timeout=patience())
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert printed.read_text().strip()
