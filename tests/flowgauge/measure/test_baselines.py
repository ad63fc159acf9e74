# SPDX-License-Identifier: Apache-2.0
"""The baselines: plain code that does what a task runner does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from flowgauge.measure.baselines import Baseline
from flowgauge.runners.table import RUNNERS
from flowgauge.waiting import patience


def own_process(number: int) -> tuple[int, int]:
    """Return the number and the id of the process that this runs in."""
    return number, os.getpid()


def test_a_baseline_maps_in_order_where_its_runner_would(
    baseline: Baseline, runner_name: str
) -> None:
    """Each baseline keeps the order, and runs in other processes where its task runner does."""
    mapped = baseline.map(own_process, range(8))
    assert [number for number, _ in mapped] == list(range(8))
    elsewhere = os.getpid() not in {pid for _, pid in mapped}
    assert elsewhere == (not RUNNERS[runner_name].in_process)


def test_a_baseline_does_its_work_every_time(baseline: Baseline, tmp_path: Path) -> None:
    """A second call with the same arguments is executed again, on Dask too."""
    folder = str(tmp_path)
    for round in (1, 2):
        baseline.map(leave_a_file, [folder] * 3)
        assert len(os.listdir(folder)) == 3 * round


def leave_a_file(folder: str) -> None:
    """Leave a new file."""
    import tempfile

    os.close(tempfile.mkstemp(dir=folder)[0])


POOL = """
import os, signal
from flowgauge.measure.baselines import pool
from flowgauge.runners.table import BaselineKind

if __name__ == "__main__":
    with pool(BaselineKind.PROCESSES, 2) as executor:
        print(*executor._processes, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pool_ends_with_its_process(tmp_path: Path) -> None:
    """No worker of a bare pool survives after the process that started it was killed."""
    script, said = tmp_path / "pool.py", tmp_path / "said"
    script.write_text(POOL)
    # Not a pipe: its reader would wait for every process that holds the other end.
    with said.open("wb") as out:
        subprocess.run([sys.executable, script], stdout=out, check=False)
    workers = [int(pid) for pid in said.read_text().split()]
    assert len(workers) == 2
    left = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=patience())
    for process in alive:
        process.kill()
    assert alive == []
