# SPDX-License-Identifier: Apache-2.0
"""A file is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.files import write_whole


def test_a_write_replaces_the_old_file(tmp_path: Path) -> None:
    """A second write replaces the first, and nothing else is left in the folder."""
    path = tmp_path / "report.md"
    write_whole(path, "first")
    write_whole(path, "second µ\n")
    assert path.read_bytes() == "second µ\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails half-way leaves the earlier file unchanged, and no other file."""
    path = tmp_path / "report.md"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
