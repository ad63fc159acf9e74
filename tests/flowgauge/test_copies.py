# SPDX-License-Identifier: Apache-2.0
"""A pattern is copied whole, over nothing that is there, and compared with its copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue import CatalogueError, find
from flowgauge.copies import copy, diff
from tests.flowgauge.test_catalogue import PATTERN


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a catalogue of a pattern that is a file and one that is a folder."""
    root = tmp_path / "patterns"
    folder = root / "deployments" / "two_ways"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "two_ways.py").write_text(PATTERN)
    (folder / "prefect.yaml").write_text("name: two\n")
    (folder / "steps.py").write_text("STEPS = 2\n")
    (root / "retries").mkdir()
    (root / "retries" / "backoff.py").write_text(PATTERN)
    return root


@pytest.mark.parametrize(
    ("destination", "file"),
    [
        ("here", "here/backoff.py"),
        ("new/folder", "new/folder/backoff.py"),
        ("new/mine.py", "new/mine.py"),
    ],
)
def test_a_pattern_is_copied_to_a_folder_or_a_name(
    root: Path, tmp_path: Path, destination: str, file: str
) -> None:
    """A destination that ends in .py names the copy, any other one is its folder."""
    (tmp_path / "here").mkdir()
    pattern = find(root, "retries/backoff")
    assert copy(pattern, tmp_path / destination) == tmp_path / file
    assert (tmp_path / file).read_bytes() == pattern.path.read_bytes()


def test_a_copy_overwrites_nothing_unless_forced(root: Path, tmp_path: Path) -> None:
    """A file that is there stays as it is, until `force` says otherwise."""
    pattern, target = find(root, "retries/backoff"), tmp_path / "backoff.py"
    target.write_text("mine")
    with pytest.raises(CatalogueError, match=r"backoff\.py exists: .*--force"):
        copy(pattern, tmp_path)
    assert target.read_text() == "mine"
    copy(pattern, tmp_path, force=True)
    assert target.read_text() == PATTERN


def test_a_copy_does_not_differ_until_it_is_changed(root: Path, tmp_path: Path) -> None:
    """A fresh copy has no diff; a changed one has its changes as added lines."""
    pattern = find(root, "retries/backoff")
    target = copy(pattern, tmp_path)
    assert diff(pattern, target) == diff(pattern, tmp_path) == ""
    target.write_text(PATTERN.replace("import json", "import json  # mine"))
    lines = diff(pattern, target).splitlines()
    assert lines[:2] == ["--- retries/backoff (catalogue)", f"+++ {target}"]
    changed = [line for line in lines[2:] if line[0] in "+-"]
    assert changed == ["-import json", "+import json  # mine"]


def test_a_diff_shows_a_missing_line_end(root: Path, tmp_path: Path) -> None:
    """A copy whose last line lost its end differs in that, and lines stay apart."""
    pattern = find(root, "retries/backoff")
    (tmp_path / "backoff.py").write_text(PATTERN.removesuffix("\n"))
    assert diff(pattern, tmp_path).endswith(
        "-    main()\n+    main()\n\\ No newline at end of file\n"
    )


def test_a_diff_with_what_is_no_copy_is_told(root: Path, tmp_path: Path) -> None:
    """A file that is missing or is not text gives one line."""
    pattern = find(root, "retries/backoff")
    with pytest.raises(CatalogueError, match="cannot be read: no such file"):
        diff(pattern, tmp_path / "none.py")
    (tmp_path / "backoff.py").write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="is not UTF-8 text"):
        diff(pattern, tmp_path)


def test_a_folder_is_copied_as_a_folder(root: Path, tmp_path: Path) -> None:
    """A pattern of several files is copied with all of them, and nothing but them."""
    pattern = find(root, "deployments/two_ways")
    assert copy(pattern, tmp_path / "mine") == tmp_path / "mine" / "two_ways" / "two_ways.py"
    copied = {file.name: file.read_text() for file in (tmp_path / "mine" / "two_ways").iterdir()}
    assert copied == {
        "two_ways.py": PATTERN,
        "prefect.yaml": "name: two\n",
        "steps.py": "STEPS = 2\n",
    }


def test_a_folder_overwrites_no_file_and_writes_none(root: Path, tmp_path: Path) -> None:
    """Where one file of a folder is there already, none is written."""
    folder = tmp_path / "two_ways"
    folder.mkdir()
    (folder / "steps.py").write_text("mine")
    with pytest.raises(CatalogueError, match=r"steps\.py exists: .*--force"):
        copy(find(root, "deployments/two_ways"), tmp_path)
    assert [file.name for file in folder.iterdir()] == ["steps.py"]
    assert (folder / "steps.py").read_text() == "mine"


def test_a_folder_has_no_name_of_one_file(root: Path, tmp_path: Path) -> None:
    """A destination that names a file is refused for a pattern of several."""
    with pytest.raises(CatalogueError, match="name a folder for the copy"):
        copy(find(root, "deployments/two_ways"), tmp_path / "mine.py")


def test_a_folder_is_compared_file_by_file(root: Path, tmp_path: Path) -> None:
    """A change in any file of a copied folder is in the diff, wherever one points."""
    pattern = find(root, "deployments/two_ways")
    script = copy(pattern, tmp_path)
    assert diff(pattern, tmp_path) == diff(pattern, script.parent) == ""
    (script.parent / "prefect.yaml").write_text("name: three\n")
    lines = diff(pattern, tmp_path).splitlines()
    assert lines[0] == "--- deployments/two_ways/prefect.yaml (catalogue)"
    assert lines[-2:] == ["-name: two", "+name: three"]
