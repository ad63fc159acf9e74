# SPDX-License-Identifier: Apache-2.0
"""Whether a process still runs, with all that it holds."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be collected does not.

    A process that is killed looks like that as soon as its first thread has ended, but it keeps
    its files and locks until all others have.
    """
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False
