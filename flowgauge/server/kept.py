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
    """A folder that can't be used; one line says why and what to do."""


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
    """Lease from the project's kept zygote; one that is dead or runs other code is replaced.

    Args:
        root: The folder of the project.
        home: The folder of the run.

    Returns:
        A lease; close it.

    Raises:
        KeptError: If the folder for kept zygotes belongs to somebody else.
    """
    with _locked(root) as folder:
        path = folder / socket_name()
        kept = {found.path: found for found in _kept(folder)}
        if path in kept:
            with contextlib.suppress(OSError):
                return connected(path, home)
        for stale in kept.values():
            _end(stale)
        _clear(folder)
        with listen(path) as listening, path.with_suffix(".pid").open("w") as pid_file:
            # Held by the zygote as long as it lives, and by nobody after that.
            fcntl.flock(pid_file, fcntl.LOCK_EX)
            made = connected(path, home)
            zygote = start_zygote(listening, pid_file.fileno())
            pid_file.write(str(zygote.pid))
        zygote.returncode = 0  # Not this process's to wait for.
        return made


def find_kept(root: Path) -> list[Kept]:
    """Return the zygotes of a project that are alive."""
    return _kept(_folder(root))


def stop_kept(root: Path) -> list[Kept]:
    """End the zygotes of a project, and return those that were alive."""
    if not _folder(root).exists():
        return []
    with _locked(root) as folder:
        kept = _kept(folder)
        for zygote in kept:
            _end(zygote)
        _clear(folder)
        folder.rmdir()
        with contextlib.suppress(OSError):
            # Not where another project has a zygote.
            folder.parent.rmdir()
        return kept


def _kept(folder: Path) -> list[Kept]:
    found = []
    for pid_file in folder.glob("*.pid"):
        with pid_file.open() as file:
            if not _is_free(file.fileno()):
                found.append(Kept(int(file.read()), pid_file.with_suffix(".sock")))
    return found


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(kept: Kept) -> None:
    """End a zygote, stopped or wedged as it may be; its lock tells when it has gone."""
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
    """Hold the folder for the kept zygotes of a project."""
    folder = _folder(root)
    _own(folder.parent)
    _own(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever held it before may have removed it.
        yield _own(folder)
    finally:
        os.close(descriptor)


def _folder(root: Path) -> Path:
    """Return where the sockets of a project's zygotes go; their paths must be short."""
    bases = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir())
    short = (base for base in bases if base.startswith("/") and len(base) < 60)
    project = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return Path(next(short, "/tmp"), f"flowgauge-{os.getuid()}", project)


def _own(folder: Path) -> Path:
    """Return a folder that is this user's alone, making it where it is missing."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise KeptError(
            f"{folder}: not a folder of this user alone, so no server can be kept there; remove it"
        )
    return folder
