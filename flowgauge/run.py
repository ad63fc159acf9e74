# SPDX-License-Identifier: Apache-2.0
"""What one pytest run was asked for, and the folder that it writes to."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowgauge.isolation import isolated_environment


@dataclass(frozen=True)
class Run:
    """What one pytest run was asked for."""

    runners: tuple[str, ...]
    workers: int
    dask_address: str | None
    report_dir: Path


RUN = pytest.StashKey[Run]()
_HOME = pytest.StashKey[Path]()


def run_home(config: pytest.Config) -> Path:
    """Return the folder for what Prefect writes in this run; the run is isolated from here on.

    Args:
        config: Of the pytest run.

    Returns:
        A folder that is removed at the end of the run.
    """
    if _HOME not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        folder = tempfile.TemporaryDirectory(prefix="flowgauge-", ignore_cleanup_errors=True)
        config.stash[_HOME] = Path(stack.enter_context(folder))
        stack.enter_context(isolated_environment(config.stash[_HOME]))
    return config.stash[_HOME]
