# SPDX-License-Identifier: Apache-2.0
"""The descendants of this process."""

from __future__ import annotations

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
from collections.abc import Set
from itertools import pairwise
from typing import Any

import psutil

_of_the_run: set[int] = set()


def belongs_to_run(pid: int) -> None:
    """Attribute a process, and all that it will start, to the pytest run and not to a test."""
    _of_the_run.add(pid)


def running() -> set[int]:
    """Return the ids of all running processes."""
    return set(psutil.pids())


def descendants(candidates: set[int], others: Set[int] = frozenset()) -> dict[int, str]:
    """Return the processes that this one or its descendants started and that still run.

    Args:
        candidates: Ids of the processes to consider.
        others: Ids of descendants that existed before: what those start is left out, such as the
            helper processes of a browser.

    Returns:
        The command lines, by id.
    """
    # A fork server starts processes on behalf of this one.
    own = {os.getpid(), multiprocessing.forkserver._forkserver._forkserver_pid}  # type: ignore[attr-defined]
    commands = {pid: _command(pid, own, others) for pid in candidates}
    return {pid: command for pid, command in commands.items() if command is not None}


def of_python() -> set[int]:
    """Return the ids of multiprocessing's fork server and its resource trackers.

    Python starts them when they are first needed and keeps them until it exits.
    """
    fork_server: Any = multiprocessing.forkserver._forkserver
    tracker: Any = multiprocessing.resource_tracker._resource_tracker
    return {fork_server._forkserver_pid, tracker._pid} - {None}


def nannies() -> frozenset[Any]:
    """Return Dask's nannies in this process, each of which keeps a worker process running."""
    module: Any = sys.modules.get("distributed.nanny")
    return frozenset(module.Nanny._instances) if module else frozenset()


def _command(pid: int, own: Set[int | None], others: Set[int]) -> str | None:
    """Return the command line of a process that descends from `own`, None for any other."""
    try:
        process = psutil.Process(pid)
        line = [pid, *(parent.pid for parent in process.parents())]
        return " ".join(process.cmdline()) if _descends(line, own, others) else None
    except psutil.Error:
        return None  # It has ended, or is a zombie.


def _descends(line: list[int], own: Set[int | None], others: Set[int]) -> bool:
    """Return whether a line of processes, youngest first, gets to `own` before it leaves it."""
    for child, parent in pairwise(line):
        if child in _of_the_run or parent in others - own:
            return False
        if parent in own:
            return True
    return False
