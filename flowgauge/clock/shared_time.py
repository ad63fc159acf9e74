# SPDX-License-Identifier: Apache-2.0
"""The offset of virtual time from real time: a few bytes shared by all processes of a test run."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_LAYOUT = struct.Struct("=qqq")
_FIELD = struct.Struct("=q")
_AHEAD, _RUNNING, _SKIPS_SLEEP = 0, 8, 16


class SharedTime:
    """The offset of virtual time, read by every process and written by the one that runs the clock.

    Each field is one aligned machine word, so that no reader sees a half-written value.
    """

    def __init__(self, home: Path) -> None:
        """Open the shared bytes of a pytest run, creating them if needed.

        Args:
            home: The folder of the pytest run.
        """
        descriptor = os.open(home / "clock.time", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _LAYOUT.size:
                os.ftruncate(descriptor, _LAYOUT.size)
            self._bytes = mmap.mmap(descriptor, _LAYOUT.size)
        finally:
            os.close(descriptor)

    def _get(self, field: int) -> int:
        value: int = _FIELD.unpack_from(self._bytes, field)[0]
        return value

    @property
    def ahead(self) -> float:
        """The seconds by which virtual time is ahead of real time."""
        return self._get(_AHEAD) / 1e6

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        _FIELD.pack_into(self._bytes, _AHEAD, round(seconds * 1e6))

    @property
    def running(self) -> bool:
        """Whether a test is using the virtual clock."""
        return bool(self._get(_RUNNING))

    @running.setter
    def running(self, running: bool) -> None:
        _FIELD.pack_into(self._bytes, _RUNNING, running)

    @property
    def skips_sleep(self) -> bool:
        """Whether `sleep` in the code of tasks and flows is skipped too."""
        return self.running and bool(self._get(_SKIPS_SLEEP))

    @skips_sleep.setter
    def skips_sleep(self, skips: bool) -> None:
        _FIELD.pack_into(self._bytes, _SKIPS_SLEEP, skips)

    def now(self) -> float:
        """Return virtual time, in seconds since the epoch."""
        return time.time() + self.ahead
