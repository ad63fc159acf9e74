# SPDX-License-Identifier: Apache-2.0
"""What the supervisor of a pytest run clears up when the run has ended."""

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
    """A run's folder that an orphaned worker makes anew is removed again when that has ended."""
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
        # It is gone, and may come back.
        while home.exists() and removing.is_alive():
            removing.join(0.01)
        assert removing.is_alive()
        worker.communicate(b"\n")
    removing.join(patience())
    assert not removing.is_alive()
    assert not home.exists()


def test_processes_of_this_session_are_no_orphans(tmp_path: Path) -> None:
    """What has the run's environment and the supervisor's session ends with it: no one waits."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "home")},
    ) as worker:
        assert not supervisor._has_orphans(str(tmp_path / "home"))
        worker.communicate(b"\n")
