# SPDX-License-Identifier: Apache-2.0
"""The catalogue is read from its files, found by name, and copied whole."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from flowgauge import catalogue
from flowgauge.catalogue import (
    CatalogueError,
    catalogue_root,
    copy,
    diff,
    find,
    load,
    proofs,
)

PATTERN = '''\
# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Retry a flaky call.

Problem:
    A service is down.

Guarantees:
    attempts: the call is tried at most four times.

Not for:
    Errors that stay.

Costs:
    Row `retries/backoff`.

Sources:
    - Prefect #14745
"""

import json


def main() -> None:
    print(json)


if __name__ == "__main__":
    main()
'''


def placed(root: Path, text: str = PATTERN, name: str = "retries/backoff") -> Path:
    """Write a pattern file into a catalogue, and return the catalogue."""
    file = root / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a catalogue of one pattern."""
    return placed(tmp_path / "patterns")


def test_what_begins_with_an_underscore_is_no_pattern(root: Path) -> None:
    """Private files, packages' own files and caches are not read."""
    for name in ("retries/_shared", "retries/__init__", "_old/retries", ".hidden/x"):
        placed(root, "not a pattern", name)
    assert [pattern.name for pattern in load(root)] == ["retries/backoff"]


def test_patterns_are_sorted_by_name(root: Path) -> None:
    """Patterns come in the order of their names."""
    for name in ("tasks/b", "caching/c", "tasks/a"):
        placed(root, name=name)
    names = [pattern.name for pattern in load(root)]
    assert names == ["caching/c", "retries/backoff", "tasks/a", "tasks/b"]


@pytest.mark.parametrize(
    "name", ["retires/backoff", "backoff", "retries/backoff.py", "patterns/retries/backoff"]
)
def test_a_misspelt_name_is_answered_with_the_right_one(root: Path, name: str) -> None:
    """A name that is nearly right gets the right one as an answer."""
    placed(root, name="tasks/basics")
    with pytest.raises(CatalogueError, match='did you mean "retries/backoff"'):
        find(root, name)


def test_a_name_like_no_other_is_answered_with_where_names_are(root: Path) -> None:
    """A name that is like none gets the command that lists them."""
    with pytest.raises(CatalogueError, match='no pattern "zzz": flowgauge list'):
        find(root, "zzz")


def test_a_pattern_is_found_beside_a_broken_one(root: Path) -> None:
    """One pattern can be read while another is broken."""
    placed(root, "", name="retries/broken")
    assert find(root, "retries/backoff").summary == "Retry a flaky call."


def test_the_catalogue_of_a_checkout_is_found_from_below(root: Path) -> None:
    """The catalogue is the patterns/ beside the nearest pyproject.toml that has one."""
    (root.parent / "pyproject.toml").touch()
    below = root.parent / "tests" / "deep"
    below.mkdir(parents=True)
    (root.parent / "tests" / "pyproject.toml").touch()
    assert catalogue_root(below) == root


def test_an_installed_package_brings_its_own_catalogue(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package installed inside a project that has patterns/ of its own keeps to its own."""
    (root.parent / "pyproject.toml").touch()
    package = root.parent / ".venv" / "flowgauge"
    placed(package / "patterns")
    monkeypatch.setattr(catalogue, "__file__", str(package / "catalogue.py"))
    assert catalogue_root() == (package / "patterns").resolve()


def test_no_catalogue_is_told(tmp_path: Path) -> None:
    """Where there is no catalogue, the error says where it was sought."""
    with pytest.raises(CatalogueError, match="no patterns/ beside"):
        catalogue_root(tmp_path)


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


def test_proofs_are_read_from_marks(tmp_path: Path) -> None:
    """Marks on functions and classes count, with strings or with constants of the file."""
    (tmp_path / "test_marks.py").write_text(
        textwrap.dedent("""
        import pytest

        NAME = "retries/backoff"
        ID: str = "delays"

        @pytest.mark.guarantee("tasks/basics", "name", runners=("threads",), reason="why")
        @pytest.mark.guarantee(NAME, "attempts")
        async def test_one(): ...

        @pytest.mark.guarantee(NAME, ID)
        class TestTwo: ...

        @pytest.mark.parametrize("other", ["mark"])
        def test_three(): ...
        """)
    )
    (tmp_path / "conftest.py").write_text("not python")
    assert proofs(tmp_path) == {
        ("tasks/basics", "name"),
        ("retries/backoff", "attempts"),
        ("retries/backoff", "delays"),
    }


@pytest.mark.parametrize("arguments", ["f(), 'a'", "ELSEWHERE, 'a'", "'a'", "'a', 'b', 'c'", ""])
def test_a_mark_that_cannot_be_read_is_told(tmp_path: Path, arguments: str) -> None:
    """A mark whose pattern or guarantee is not in the file is an error with its line."""
    file = tmp_path / "test_marks.py"
    file.write_text(f"import pytest\n@pytest.mark.guarantee({arguments})\ndef test_x(): ...\n")
    with pytest.raises(CatalogueError, match=r"test_marks\.py:2: write the pattern"):
        proofs(tmp_path)


def test_a_test_file_that_is_not_python_is_told(tmp_path: Path) -> None:
    """A broken test file is named."""
    (tmp_path / "test_broken.py").write_text("def")
    with pytest.raises(CatalogueError, match=r"test_broken\.py is not Python"):
        proofs(tmp_path)
