# SPDX-License-Identifier: Apache-2.0
"""What ends a worker process whose parent is gone."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import threading


@functools.cache
def end_with_parent() -> None:
    """End this process when its parent has ended, be it by SIGKILL.

    An idle worker of a process pool would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        name = "flowgauge-parent"
        threading.Thread(
            target=_exit_after, args=(parent.sentinel,), name=name, daemon=True
        ).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
