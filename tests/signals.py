# SPDX-License-Identifier: Apache-2.0
"""When a process may get a signal that its main thread must notice."""

from __future__ import annotations

import time

import psutil


def main_thread_waits(pid: int) -> bool:
    """Return whether the main thread of a process waits, and has done nothing else for a moment.

    CPython does not notice a signal that arrives when a thread is about to wait for a lock: its
    handler is called when the wait is over, or another signal arrives. On a busy machine that was
    seen once in 25 signals.
    """

    def look() -> tuple[str, int]:
        process = psutil.Process(pid)
        return process.status(), process.num_ctx_switches().voluntary

    before = look()
    time.sleep(0.1)  # Who waits for the interpreter's lock looks for it every 5 ms.
    return before == look() and before[0] == psutil.STATUS_SLEEPING
