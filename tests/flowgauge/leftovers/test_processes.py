# SPDX-License-Identifier: Apache-2.0
"""The processes that this one and its descendants have started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from flowgauge.leftovers import processes
from flowgauge.leftovers.processes import belongs_to_run, descendants, running
from flowgauge.waiting import wait_until

PARENT = """
import subprocess, sys
reads = "import sys; sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", reads], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
"""


@contextmanager
def family() -> Iterator[tuple[int, int]]:
    """Start a process that starts another one; yield their ids, parent first."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        yield parent.pid, int(parent.stdout.readline())
        parent.communicate("\n")


@pytest.fixture(autouse=True)
def _of_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no process belong to the pytest run."""
    monkeypatch.setattr(processes, "_of_the_run", set())


def test_what_a_child_starts_is_a_descendant() -> None:
    """Children and grandchildren are descendants, with their command lines; others are not."""
    with family() as (parent, child):
        assert running() >= {os.getpid(), parent, child}
        found = descendants({parent, child, os.getppid(), os.getpid(), 1})
        assert found.keys() == {parent, child}
        # It is empty for a moment when a process becomes another program.
        wait_until(lambda: descendants({child})[child])
        assert descendants({child})[child].endswith("-c import sys; sys.stdin.read()")


def test_what_an_earlier_process_starts_is_left_out() -> None:
    """A process that an earlier process started is left out."""
    with family() as (parent, child):
        assert descendants({child}, others={parent}) == {}


@pytest.mark.parametrize("whose", [0, 1])
def test_what_belongs_to_the_run_is_left_out(whose: int) -> None:
    """A process of the pytest run is left out, and so are the processes that it starts."""
    with family() as ids:
        belongs_to_run(ids[whose])
        assert descendants({*ids}).keys() == {*ids[:whose]}


def test_a_process_that_has_ended_is_left_out() -> None:
    """Neither a zombie nor an id that is free again is a descendant."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        wait_until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
        assert descendants({ended.pid}) == {}
    assert descendants({ended.pid}) == {}
