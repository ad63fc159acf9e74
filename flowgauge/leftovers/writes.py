# SPDX-License-Identifier: Apache-2.0
"""What a process creates and writes; worker processes report theirs to the run's folder."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from platformdirs import user_cache_dir, user_config_dir

from flowgauge.append_log import end_of, locked, values_from, write_value
from flowgauge.event_loop import awaited_frames
from flowgauge.frames import SITE, STDLIB, outwards

_REPORT = "writes.jsonl"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OWN = os.path.dirname(__file__)


@dataclass(frozen=True)
class FileState:
    """The state of the file at a path; if this differs, the file has changed.

    Attributes:
        mode: Type and permissions, as in `os.stat_result`, like the others.
        modified: When it was last modified, in nanoseconds since the epoch.
        size: Its size in bytes.
        inode: Its inode number.
    """

    mode: int
    modified: int
    size: int
    inode: int

    @property
    def is_device(self) -> bool:
        """Whether it is a device, such as a terminal."""
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


def file_state(path: str) -> FileState | None:
    """Return the state of the file at a path; None if there is none."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return FileState(status.st_mode, status.st_mtime_ns, status.st_size, status.st_ino)


@dataclass(frozen=True)
class Write:
    """A path that was opened for writing or created.

    Attributes:
        before: What was there before.
        origin: The line of code that did it.
        cache: Whether a library did it, in the user's folder for caches or for configuration.
    """

    before: FileState | None
    origin: str
    cache: bool = False


def write_to(path: str) -> Write:
    """Return the description of a write that is about to happen, to be called by an audit hook.

    Args:
        path: An absolute path.

    Returns:
        What was there, which code writes, and whether a library does in a folder of its own.
    """
    return Write(file_state(path), origin(), _is_cache_of_a_library(path))


def _is_cache_of_a_library(path: str) -> bool:
    """Return whether installed code writes to a folder that all tests and runs share.

    Libraries do so when they are first used, such as matplotlib with its list of fonts.
    """
    folders = (user_cache_dir(), user_config_dir())
    if not any(path == folder or path.startswith(folder + os.sep) for folder in folders):
        return False
    names = (frame.f_code.co_filename for frame in outwards(sys._getframe(2)))
    codes = (name for name in names if not name.startswith((_OWN, "<frozen ")))
    return any(name.startswith(SITE) for name in itertools.takewhile(_is_installed, codes))


def _is_installed(name: str) -> bool:
    return name.startswith((STDLIB, *SITE))


def _bound(bound: socket.socket, address: Any) -> Any:
    return address if bound.family == getattr(socket, "AF_UNIX", None) else None


PATHS: dict[str, Callable[..., Any]] = {
    "open": lambda path, mode, flags: path if flags & _WRITING else None,
    "os.link": lambda source, target, *folders: target,
    "os.mkdir": lambda path, *details: path,
    "os.rename": lambda source, target, *folders: target,
    "os.symlink": lambda source, target, *folder: target,
    "sqlite3.connect": lambda path: path,
    "socket.bind": _bound,
}
"""The audit events that involve a path, and how to get it from their arguments."""


def written(event: str, args: tuple[Any, ...]) -> str | None:
    """Return the path that is about to be written to or created.

    Args:
        event: The name of an audit event of Python.
        args: Its arguments.

    Returns:
        An absolute path; None where the event is about something else.
    """
    path_of = PATHS.get(event)
    path = path_of and path_of(*args)
    if path is None or isinstance(path, int):
        return None
    return os.path.abspath(os.fsdecode(path))


def origin() -> str:
    """Return the innermost line being executed in code that is not installed, else in any code.

    A library may have started a task of the event loop for it, as anyio does for each connection.
    The line is then that of the only other task that awaits code which is not installed, if any.
    """
    installed = None
    for frame in outwards(sys._getframe(1)):
        name = frame.f_code.co_filename
        if name.startswith(SITE):
            installed = installed or frame
        elif not name.startswith((STDLIB, _OWN, "<frozen ")):
            return line_of(frame)
        elif frame.f_code.co_name == "run_forever" and (awaiting := _only_awaiting()):
            return line_of(awaiting)
    return line_of(installed) if installed else "a line of Python's standard library"


def _only_awaiting() -> FrameType | None:
    """Return the innermost frame that is not installed, if only one task of the loop has any."""
    found = []
    for task in asyncio.all_tasks():
        frames = reversed(list(awaited_frames(task.get_coro())))
        found += [f for f in frames if not f.f_code.co_filename.startswith((STDLIB, *SITE))][:1]
    return found[0] if len(found) == 1 else None


def line_of(frame: FrameType) -> str:
    """Return a readable description of a frame's line."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def report_writes(home: str) -> None:
    """Report what this process writes outside the run's folder, from now on.

    Args:
        home: The folder of the pytest run. If it does not exist here, nothing is reported: the
            worker is on another machine.
    """
    report = Path(home, _REPORT)
    own = (os.path.join(home, ""), "/dev/", "/proc/")
    if not os.path.isdir(home):
        return
    here = threading.local()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        # What a finalizer writes while this thread has the log is left out: it would wait for
        # itself.
        if event not in PATHS or getattr(here, "reports", False):
            return
        here.reports = True
        try:
            path = written(event, args)
            if path and not path.startswith(own):
                write = write_to(path)
                before = write.before and astuple(write.before)
                line = [path, before, write.origin, write.cache, os.getpid()]
                with locked(report) as file:
                    write_value(file, line)
        except Exception:
            # An error here would surface in the code being watched.
            return
        finally:
            here.reports = False

    sys.addaudithook(hook)


def end_of_reports(home: Path) -> int:
    """Return how far the report of worker processes goes now, in bytes; see `reported`."""
    return end_of(home / _REPORT)


def reported(home: Path, start: int = 0) -> tuple[dict[str, Write], int]:
    """Return what worker processes have reported since a position.

    Args:
        home: The folder of the pytest run.
        start: How far the report has been read, in bytes.

    Returns:
        The first write to each path, and how far the report has been read now.
    """
    lines, end = values_from(home / _REPORT, start)
    writes: dict[str, Write] = {}
    for path, before, where, cache, process in lines:
        state = before and FileState(*before)
        writes.setdefault(path, Write(state, f"{where} (process {process})", cache))
    return writes, end
