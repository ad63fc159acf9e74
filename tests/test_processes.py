# SPDX-License-Identifier: Apache-2.0
"""What tests wait for when a process is killed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import pytest

from flowgauge.waiting import wait_until
from tests.processes import is_running

LOCKED = """
import fcntl, os, sys, threading, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
memory = bytearray(100 * 2**20)
for _ in range(100):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
"""


def has_ended(pid: int) -> bool:
    """Return whether a process does not run."""
    return not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process ends at once")
def test_a_process_that_has_ended_holds_no_lock(tmp_path: Path) -> None:
    """Its locks are free, which they are not yet when its first thread has ended."""
    file = tmp_path / "lock"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", LOCKED, str(file)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
            wait_until(functools.partial(has_ended, process.pid), pause=0.0)
            lock = os.open(file, os.O_RDWR)
            flock(lock, LOCK_EX | LOCK_NB)
            os.close(lock)
