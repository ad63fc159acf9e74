# SPDX-License-Identifier: Apache-2.0
"""A process that watches how much memory another one and its descendants take, on Linux.

It is a process of its own, not a thread: it is not held up by code that keeps the interpreter
lock, and a process that forks while it is watched has no additional thread. It is started by its
path and imports the standard library alone, so that it is up within milliseconds.

For each line that it reads it watches until the next one: it answers the first with "watching",
the second with the growth in KiB, or with "unknown".
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PROC = Path("/proc")
_PAUSE = 0.01
"""The shortest time between two looks at new processes, in seconds."""
_SHARE = 4
"""The pause is at least this many times as long as a look takes."""
_RESET_PEAK = "5"
_SERVERS = (b"flowgauge.server", b"prefect.server")


def main() -> None:
    """Watch the process whose id is the argument, until standard input is closed."""
    pid = int(sys.argv[1])
    while sys.stdin.readline():
        grown = growth(pid, lambda: print("watching", flush=True), _has_line)
        if not sys.stdin.readline():
            break
        print("unknown" if grown is None else grown, flush=True)


def growth(pid: int, begin: Callable[[], object], is_over: Callable[[float], bool]) -> int | None:
    """Watch a process and its descendants, except for Prefect's server.

    A process that existed before counts with the peak of its resident memory, less what was
    resident at the beginning; the kernel notes the peak, so no moment is missed. A new process
    counts with what it alone holds, so that the pages that forks share count once.

    Args:
        pid: The process.
        begin: Called once the peaks have been reset.
        is_over: Waits for some seconds, and returns whether to stop.

    Returns:
        The growth in KiB: the sum of the peaks, which need not be at the same moment; None if
        the system does not report it.
    """
    before = {each: _reset(each) for each in _family(pid)}
    begin()
    own: dict[int, int] = {}
    seen: set[int] = set()
    most, pause, over = 0, _PAUSE, False
    while not over:
        over = is_over(pause)
        start = time.monotonic()
        new = _family(pid) - before.keys()
        # `subprocess` starts a process that shares its parent's memory until it executes its
        # program, so a process counts from the second look on.
        held = {each: kib for each in new & seen if (kib := _held_alone(each)) is not None}
        own |= {each: max(kib, own.get(each, 0)) for each, kib in held.items()}
        most = max(most, sum(own[each] for each in held))
        seen |= new
        pause = max(_PAUSE, _SHARE * (time.monotonic() - start))
    if before.get(pid) is None:
        return None
    return most + sum(
        max(_field(each, "status", "VmHWM:") - resident, 0)
        for each, resident in before.items()
        if resident is not None
    )


def _has_line(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def _family(pid: int) -> set[int]:
    """Return the ids of a process and its descendants, without this process and servers."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(_PROC):
        # The name of the program, in brackets, may contain anything.
        if name.isdigit() and (fields := _read(int(name), "stat").rpartition(b")")[2].split()):
            children.setdefault(int(fields[1]), []).append(int(name))
    family, descendants = {pid}, children.get(pid, [])
    while descendants:
        each = descendants.pop()
        if each != os.getpid() and not any(name in _read(each, "cmdline") for name in _SERVERS):
            family.add(each)
            descendants += children.get(each, [])
    return family


def _reset(pid: int) -> int | None:
    """Let the peak of a process's resident memory start anew, and return it (KiB)."""
    try:
        (_PROC / str(pid) / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return None
    return _field(pid, "status", "VmRSS:")


def _held_alone(pid: int) -> int | None:
    """Return the peak of what a process does not share with others (KiB), None if it has gone."""
    now = _field(pid, "status", "VmRSS:")
    if not now:
        return None
    beyond = _field(pid, "status", "VmHWM:") - now
    return _field(pid, "smaps_rollup", "Private_Clean:", "Private_Dirty:") + max(beyond, 0)


def _field(pid: int, file: str, *names: str) -> int:
    """Return the sum of some fields of a file of proc(5), in KiB; 0 if the process has gone."""
    wanted = [name.encode() for name in names]
    words = [line.split() for line in _read(pid, file).splitlines()]
    return sum(int(line[1]) for line in words if line and line[0] in wanted)


def _read(pid: int, file: str) -> bytes:
    try:
        return (_PROC / str(pid) / file).read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
