# SPDX-License-Identifier: Apache-2.0
"""Atomic writes of text files."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old content or the new, never a part.

    Args:
        path: The file; its folder must exist.
        text: The new content, written as UTF-8 with the same line endings on every system.

    Raises:
        OSError: If the folder cannot be written to; an existing file is left unchanged.
    """
    # Next to the target, because a rename is atomic only within one file system.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
