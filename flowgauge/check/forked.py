# SPDX-License-Identifier: Apache-2.0
"""Run a function in a process of its own, which can hang, exit or crash."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

_TURN_SECONDS = 0.1
_GRACE_SECONDS = 2.0
Send = Callable[[bytes], NoReturn]


def run_forked(work: Callable[[Send], None], seconds: float) -> bytes | int | None:
    """Run a function in a fork of this process, and end all that it started.

    What the function prints is lost. This process must not have threads.

    Args:
        work: The function; it calls its argument with the result, which ends the process.
        seconds: How long it may take. It should send something itself when these are over: it is
            killed two seconds later.

    Returns:
        The result; or if it sent none, the status with which it ended, negative for a signal; or
        None if it was killed.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _work(work, reader, writer)
    os.close(writer)
    try:
        return _result(reader, pid, time.monotonic() + seconds + _GRACE_SECONDS)
    finally:
        os.close(reader)
        # It has not been waited for, so that the number of its group is still its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _work(work: Callable[[Send], None], reader: int, writer: int) -> NoReturn:
    def send(data: bytes) -> NoReturn:
        message = len(data).to_bytes(8, "big") + data
        while message:
            message = message[os.write(writer, message) :]
        os._exit(0)

    status = 1
    try:
        os.setpgid(0, 0)
        os.close(reader)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        work(send)
    finally:
        os._exit(status)


def _result(reader: int, pid: int, deadline: float) -> bytes | int | None:
    data = b""
    ended = None
    while True:
        # Processes that it started may hold the pipe open: it is asked whether it has ended.
        readable, _, _ = select.select([reader], [], [], 0 if ended else _TURN_SECONDS)
        if readable and (read := os.read(reader, 1 << 16)):
            data += read
            if len(data) >= 8 and len(data) >= 8 + int.from_bytes(data[:8], "big"):
                return data[8:]
        elif ended is not None:
            return -ended.si_status if ended.si_code != os.CLD_EXITED else ended.si_status
        elif time.monotonic() >= deadline:
            return None
        else:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if readable and ended is None:
                time.sleep(_TURN_SECONDS / 10)
