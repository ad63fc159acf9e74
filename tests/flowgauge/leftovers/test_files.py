# SPDX-License-Identifier: Apache-2.0
"""Which files a test may leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.leftovers.files import Folders


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/x/dask-scratch-space", True),
        ("/x/dask-scratch-space/global.lock", True),
        ("/x/dask-scratch-space/purge.lock", True),
        ("/x/dask-scratch-space/scheduler-8b52yfom.dirlock", True),
        ("/x/dask-scratch-space/scheduler-8b52yfom", False),
        ("/x/dask-scratch-space/scheduler-8b52yfom/data.lock", False),
        ("/x/scheduler-8b52yfom.dirlock", False),
    ],
)
def test_the_locks_of_dask_may_stay(tmp_path: Path, path: str, is_allowed: bool) -> None:
    """Dask's folder and the files that lock it or a folder in it may stay, and nothing else."""
    assert Folders(tmp_path, lambda: (), alone=True).allow(path) == is_allowed
