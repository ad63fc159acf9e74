# SPDX-License-Identifier: Apache-2.0
"""The rules for which files count as left behind by a test and which are allowed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import process
from pathlib import Path

from flowgauge.leftovers.writes import FileState, file_state

_NAMES = ("__pycache__", ".hypothesis", ".benchmarks", ".pytest_cache", ".coverage")
_SERVED = "runner_storage"
"""An empty folder that `serve` and workers leave in the temporary folder: `Runner.__aenter__` makes
it, and `Runner.__aexit__` removes only the runner's own subfolder."""
_DASK, _DASK_LOCKS = "dask-scratch-space", (".lock", ".dirlock")
"""The folder in which Dask's nannies and workers make theirs, and how the files end with which they
lock it and these folders. Those of the first stay. The others are removed with their folder, but a
cluster of another process that looks for old folders at that moment makes them anew."""
_SYSTEM = ("/dev", "/proc", "/sys")


@dataclass(frozen=True)
class Folders:
    """The folders where files are allowed, and those that are searched for others.

    Attributes:
        home: The folder of the pytest run.
        allowed: Returns the other folders that a test may write to; called only once a test has
            written somewhere.
        alone: Whether no other process of this pytest run can be making files at the same time.
    """

    home: Path
    allowed: Callable[[], tuple[Path, ...]]
    alone: bool

    def listed(self) -> set[str]:
        """Return the paths directly in the working directory and in the home folder."""
        paths: set[str] = set()
        for folder in {os.getcwd(), os.path.expanduser("~")}:
            try:
                paths.update(os.path.join(folder, name) for name in os.listdir(folder))
            except OSError:
                continue
        return paths

    def allow(self, path: str) -> bool:
        """Return whether a test may leave something at a path."""
        parts = Path(path).parts
        if any(part.startswith(_NAMES) for part in parts):
            return True
        if Path(path) == Path(tempfile.gettempdir(), _SERVED):
            return True
        if parts[-1].startswith(_DASK) or (
            parts[-2].startswith(_DASK) and parts[-1].endswith(_DASK_LOCKS)
        ):
            return True
        scratch = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
        roots = [*_SYSTEM, self.home, *self.allowed(), *([scratch] if scratch else [])]
        return any(Path(path).is_relative_to(root) for root in roots)


def temporary_folders(basetemp: Path) -> tuple[Path, ...]:
    """Return the folders in which pytest keeps the temporary folders of tests.

    Args:
        basetemp: That of this pytest run; its parent may be shared by all runs of the same user.

    Returns:
        The folders.
    """
    shared = basetemp.parent
    return (basetemp, shared) if shared.name.startswith("pytest-of-") else (basetemp,)


def is_left(path: str, before: FileState | None) -> bool:
    """Return whether a path holds something that is new or has changed.

    Args:
        path: An absolute path.
        before: What was there when it was first written to; None if nothing was.

    Returns:
        Whether something was left there. Devices do not count, nor do existing folders.
    """
    now = file_state(path)
    if now is None or now.is_device:
        return False
    return before is None or (now != before and not before.is_folder)
