# SPDX-License-Identifier: Apache-2.0
"""A function in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from flowgauge.check.forked import Send, run_forked
from flowgauge.waiting import patience, wait_until


@pytest.mark.parametrize("size", [0, 1, 8, 1 << 16, (1 << 20) + 1])
def test_the_result_arrives_whole(size: int) -> None:
    """Any number of bytes arrives, also more than a pipe holds, and what is printed does not."""
    data = os.urandom(size)

    def work(send: Send) -> None:
        print("noise")
        send(data)

    assert run_forked(work, patience()) == data


@pytest.mark.parametrize(
    ("work", "status"),
    [
        (lambda _: None, 1),
        (lambda _: sys.exit(), 1),
        (lambda _: os._exit(7), 7),
        (lambda _: os._exit(0), 0),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
    ],
)
def test_without_a_result_the_status_is_known(work: object, status: int) -> None:
    """However it ends, the status is returned, and no exception leaves the fork."""
    assert run_forked(work, patience()) == status  # type: ignore[arg-type]


def test_a_function_that_hangs_is_killed() -> None:
    """After its time it is ended, also if it ignores signals."""

    def work(_: Send) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(patience())

    assert run_forked(work, 0.01) is None


def test_what_it_started_is_ended_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A process that it started holds the pipe open, and ends with it all the same."""
    file = tmp_path / "pid"

    def work(_: Send) -> None:
        started = os.fork()
        if not started:
            time.sleep(patience())
        file.write_text(str(started))
        os._exit(5)

    assert run_forked(work, patience()) == 5
    pid = int(file.read_text())

    def has_ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(has_ended, "the process to end")
