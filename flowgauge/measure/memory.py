# SPDX-License-Identifier: Apache-2.0
"""The memory that a call takes, in this process and in its workers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flowgauge.measure import memory_watch
from flowgauge.results.rows import Memory

PeakOf = Callable[[Callable[[], Any]], float | None]


def memory_of(candidate: Callable[[], Any], reference: Callable[[], Any] | None) -> Memory | None:
    """Call a reference and a candidate, and measure the memory that each takes.

    Args:
        candidate: The function to measure, called last.
        reference: The function to compare it with; None for no reference.

    Returns:
        The memory of both; None if the system does not report it.
    """
    with _watched() as peak_of:
        theirs = reference and peak_of(reference)
        ours = peak_of(candidate)
    return None if ours is None else Memory(ours, theirs)


@contextlib.contextmanager
def _watched() -> Iterator[PeakOf]:
    """Start the process that watches this one, and yield a function that measures a call in MiB.

    On other systems than Linux, that function only calls.
    """
    if sys.platform != "linux":
        yield lambda function: function()
        return
    # Its own session, so that Ctrl-C for pytest does not reach it.
    with subprocess.Popen(
        [sys.executable, "-I", "-S", memory_watch.__file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def tell() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                print(file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        def peak_of(function: Callable[[], Any]) -> float | None:
            _return_free_memory()
            tell()
            function()
            grown = tell()
            return int(grown) / 1024 if grown.isdigit() else None

        yield peak_of


def _return_free_memory() -> None:
    """Return what is free to the system, as a call that uses it again would seem to need none."""
    # Only the C library of GNU has this function.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
