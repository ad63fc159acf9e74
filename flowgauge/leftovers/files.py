# SPDX-License-Identifier: Apache-2.0
"""Tells files that a test leaves behind from those that belong somewhere."""

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
"""What `serve` and workers leave in the temporary folder, empty: made by `Runner.__aenter__`, whose
`__aexit__` removes only the folder of its own below."""
_SYSTEM = ("/dev", "/proc", "/sys")


@dataclass(frozen=True)
class Folders:
    """Where files may be, and where others are looked for.

    Attributes:
        home: The folder of the run.
        allowed: Gives the other folders that a test may write to; called when one wrote anywhere.
        alone: Whether no other process of this run may be making files at the same time.
    """

    home: Path
    allowed: Callable[[], tuple[Path, ...]]
    alone: bool

    def listed(self) -> set[str]:
        """Return what stands in the working directory and in the home folder."""
        found: set[str] = set()
        for folder in {os.getcwd(), os.path.expanduser("~")}:
            try:
                found.update(os.path.join(folder, name) for name in os.listdir(folder))
            except OSError:
                continue
        return found

    def allow(self, path: str) -> bool:
        """Say whether a test may leave something at a path."""
        parts = Path(path).parts
        if any(part.startswith(_NAMES) for part in parts):
            return True
        if Path(path) == Path(tempfile.gettempdir(), _SERVED):
            return True
        scratch = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
        roots = [*_SYSTEM, self.home, *self.allowed(), *([scratch] if scratch else [])]
        return any(Path(path).is_relative_to(root) for root in roots)


def temporary_folders(basetemp: Path) -> tuple[Path, ...]:
    """Return the folders in which pytest keeps the temporary folders of tests.

    Args:
        basetemp: That of this run; it may stand in one that runs of the same user share.
    """
    shared = basetemp.parent
    return (basetemp, shared) if shared.name.startswith("pytest-of-") else (basetemp,)


def is_left(path: str, before: FileState | None) -> bool:
    """Say whether something stands at a path that was not there, or not the same.

    Args:
        path: An absolute path.
        before: What stood there when it was first written to, or None.
    """
    now = file_state(path)
    if now is None or now.is_device:
        return False
    return before is None or (now != before and not before.is_folder)
