# SPDX-License-Identifier: Apache-2.0
"""Ending of worker processes whose parent is gone."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import threading


@functools.cache
def end_with_parent() -> None:
    """End this process when its parent has ended, even by SIGKILL.

    An idle worker of a process pool would otherwise wait for work forever.
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
