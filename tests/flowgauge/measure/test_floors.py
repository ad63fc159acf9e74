# SPDX-License-Identifier: Apache-2.0
"""The floors: plain code that does what a task runner does."""

from __future__ import annotations

import os
from pathlib import Path

from flowgauge.measure.floors import Floor


def own_process(number: int) -> tuple[int, int]:
    """Return a number and the process that it was seen in."""
    return number, os.getpid()


def test_a_floor_maps_in_order_where_its_runner_would(floor: Floor, runner_name: str) -> None:
    """Each floor keeps the order, and leaves this process just as its task runner does."""
    mapped = floor.map(own_process, range(8))
    assert [number for number, _ in mapped] == list(range(8))
    elsewhere = os.getpid() not in {pid for _, pid in mapped}
    assert elsewhere == (runner_name in {"processes", "dask-processes"})


def test_a_floor_works_anew_every_time(floor: Floor, tmp_path: Path) -> None:
    """A second call with the same arguments is executed again, on Dask too."""
    folder = str(tmp_path)
    for round in (1, 2):
        floor.map(leave_a_file, [folder] * 3)
        assert len(os.listdir(folder)) == 3 * round


def leave_a_file(folder: str) -> None:
    """Leave a new file."""
    import tempfile

    os.close(tempfile.mkstemp(dir=folder)[0])
