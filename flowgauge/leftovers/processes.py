# SPDX-License-Identifier: Apache-2.0
"""The descendants of this process."""

from __future__ import annotations

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

_PROC = Path("/proc") if sys.platform == "linux" else None

_of_the_run: set[int] = set()


def belongs_to_run(pid: int) -> None:
    """Attribute a process, and all that it will start, to the pytest run and not to a test."""
    _of_the_run.add(pid)


def running() -> set[int]:
    """Return the ids of running processes: all on Linux, elsewhere the descendants of this one."""
    if _PROC:
        return {int(name) for name in os.listdir(_PROC) if name.isdecimal()}
    return set(_below())


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
    if not _PROC:
        return {pid: command for pid, command in _below(own, others).items() if pid in candidates}
    return {pid: _command(pid) for pid in candidates if _is_descendant(pid, own, others)}


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


def _is_descendant(pid: int, own: Set[int | None], others: Set[int]) -> bool:
    state, parent = _state_and_parent(pid)
    if state in {"Z", "X", ""}:
        return False
    while parent > 1 and pid not in _of_the_run:
        if parent in own:
            return True
        if parent in others:
            return False
        pid = parent
        _, parent = _state_and_parent(parent)
    return False


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Return the state letter and parent of a process; empty and 0 if it has ended."""
    try:
        # The command is in parentheses and may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended in the meantime"
    return " ".join(word.decode(errors="replace") for word in words).strip()


def _below(own: Set[int | None] = frozenset(), others: Set[int] = frozenset()) -> dict[int, str]:
    try:
        import psutil
    except ImportError:
        return {}
    commands = {}
    for process in psutil.Process().children(recursive=True):
        try:
            parents = [parent.pid for parent in process.parents()]
            nearest = next((pid for pid in parents if pid in own or pid in others), None)
            of_the_run = not {process.pid, *parents}.isdisjoint(_of_the_run)
            of_another = nearest in others and nearest not in own
            if process.status() != psutil.STATUS_ZOMBIE and not of_the_run and not of_another:
                commands[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return commands
