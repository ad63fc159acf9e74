# SPDX-License-Identifier: Apache-2.0
"""Logs that any number of processes append to: JSON values, one a line."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a log and keep all other processes and threads out.

    Args:
        path: The file; it is created if it does not exist.

    Yields:
        The file, for `write_value`.

    Raises:
        OSError: If the file can't be opened for writing.
    """
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def write_value(file: IO[bytes], value: Any, *, durable: bool = False) -> None:
    """Append a value to a locked log.

    A process that is killed while it writes leaves a line without an end: that is ended first.

    Args:
        file: The log.
        value: A JSON value.
        durable: Whether the value must be on the disk when this returns.
    """
    size = os.fstat(file.fileno()).st_size
    ended = size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n"
    file.write((b"" if ended else b"\n") + json.dumps(value).encode() + b"\n")
    file.flush()
    if durable:
        os.fsync(file.fileno())


def end_of(path: Path) -> int:
    """Return the position after the last value, for `values_from`.

    Args:
        path: The log; it need not exist.

    Returns:
        The position, in bytes; no value is being written there.
    """
    if not path.exists():
        return 0
    with locked(path) as file:
        return os.fstat(file.fileno()).st_size


def values_from(path: Path, start: int) -> tuple[list[Any], int]:
    """Read the values that were written after a position.

    Args:
        path: The log; it need not exist.
        start: The position, in bytes.

    Returns:
        The values in the order in which they were written, and the position after the last. A line
        without an end is left for the next call, and one that is not JSON is skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return [], start
    text = text[: text.rfind(b"\n") + 1]
    return [value for line in text.splitlines() for value in _parsed(line)], start + len(text)


def _parsed(line: bytes) -> Iterator[Any]:
    try:
        yield json.loads(line)
    except ValueError:
        return
