# SPDX-License-Identifier: Apache-2.0
"""The zygote that `--flow-keep-server` leaves running for the next pytest run of a project."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowgauge.mistake import Mistake
from flowgauge.server.lease import Lease, connected, listen, socket_name, start_zygote

_END_SECONDS = 5


class KeptError(Mistake):
    """An unusable folder; the one-line message says why and what to do."""


@dataclass(frozen=True)
class Kept:
    """A zygote that was left running.

    Attributes:
        pid: Its process id.
        path: Its socket.
    """

    pid: int
    path: Path


def lease_kept(root: Path, home: Path) -> Lease:
    """Lease from the project's kept zygote, replacing it if it is dead or runs other code.

    Args:
        root: The folder of the project.
        home: The folder of the pytest run.

    Returns:
        A lease, which the caller must close.

    Raises:
        KeptError: If the folder for kept zygotes is not accessible to this user alone.
    """
    with _locked(root) as folder:
        path = folder / socket_name()
        kept = {zygote.path: zygote for zygote in _kept(folder)}
        if path in kept:
            with contextlib.suppress(OSError):
                return connected(path, home)
        for stale in kept.values():
            _end(stale)
        _clear(folder)
        with listen(path) as listening, path.with_suffix(".pid").open("w") as pid_file:
            # The zygote holds the lock as long as it lives, so a free lock means that it is dead.
            fcntl.flock(pid_file, fcntl.LOCK_EX)
            lease = connected(path, home)
            zygote = start_zygote(listening, pid_file.fileno())
            pid_file.write(str(zygote.pid))
        zygote.returncode = 0  # This process must not wait for it.
        return lease


def find_kept(root: Path) -> list[Kept]:
    """Return a project's zygotes that are alive."""
    return _kept(_folder(root))


def stop_kept(root: Path) -> list[Kept]:
    """End a project's zygotes, and return those that were alive."""
    if not _folder(root).exists():
        return []
    with _locked(root) as folder:
        kept = _kept(folder)
        for zygote in kept:
            _end(zygote)
        _clear(folder)
        folder.rmdir()
        with contextlib.suppress(OSError):
            # This fails if another project has a zygote.
            folder.parent.rmdir()
        return kept


def _kept(folder: Path) -> list[Kept]:
    zygotes = []
    for pid_file in folder.glob("*.pid"):
        with pid_file.open() as file:
            if not _is_free(file.fileno()):
                zygotes.append(Kept(int(file.read()), pid_file.with_suffix(".sock")))
    return zygotes


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(kept: Kept) -> None:
    """End a zygote, even if it is stopped or stuck; its lock is free once it has gone."""
    with kept.path.with_suffix(".pid").open() as file:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(kept.pid, number)
            deadline = time.monotonic() + _END_SECONDS
            while time.monotonic() < deadline:
                if _is_free(file.fileno()):
                    return
                time.sleep(0.01)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)


@contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """Lock the folder for a project's kept zygotes, and yield it."""
    folder = _folder(root)
    _own(folder.parent)
    _own(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A previous holder of the lock may have removed the folder.
        yield _own(folder)
    finally:
        os.close(descriptor)


def _folder(root: Path) -> Path:
    """Return the folder for the sockets of a project's zygotes; socket paths must be short."""
    bases = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir())
    short = (base for base in bases if base.startswith("/") and len(base) < 60)
    project = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return Path(next(short, "/tmp"), f"flowgauge-{os.getuid()}", project)


def _own(folder: Path) -> Path:
    """Return a folder that is accessible to this user alone, creating it if it is missing."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    is_private = status.st_uid == os.getuid() and not status.st_mode & 0o077
    if not stat.S_ISDIR(status.st_mode) or not is_private:
        raise KeptError(
            f"{folder}: not a folder for this user alone, so no server can be kept there; remove it"
        )
    return folder
