# SPDX-License-Identifier: Apache-2.0
"""What the supervisor of a pytest run cleans up when the run has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from flowgauge.server import supervisor
from flowgauge.waiting import patience

ORPHAN = """
import os, sys
sys.stdin.readline()
os.makedirs(os.environ["PREFECT_HOME"], exist_ok=True)
open(os.path.join(os.environ["PREFECT_HOME"], "late"), "w").close()
"""


def test_a_folder_is_removed_for_good(tmp_path: Path) -> None:
    """A run's folder that an orphaned worker recreates is removed again once the worker ends."""
    home = tmp_path / "home"
    home.mkdir()
    removing = threading.Thread(target=supervisor._remove, args=(str(home),))
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        env=os.environ | {"PREFECT_HOME": str(home)},
        start_new_session=True,
    ) as worker:
        removing.start()
        # The folder is gone, but may come back.
        while home.exists() and removing.is_alive():
            removing.join(0.01)
        assert removing.is_alive()
        worker.communicate(b"\n")
    removing.join(patience())
    assert not removing.is_alive()
    assert not home.exists()


def test_processes_of_the_same_session_are_not_orphans(tmp_path: Path) -> None:
    """A process of the run that is in the supervisor's session is not an orphan to wait for."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "home")},
    ) as worker:
        assert not supervisor._has_orphans(str(tmp_path / "home"))
        worker.communicate(b"\n")
