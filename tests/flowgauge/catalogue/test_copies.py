# SPDX-License-Identifier: Apache-2.0
"""A pattern is copied whole, without overwriting anything; copies are compared and updated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import CatalogueError, find_pattern, load_catalogue
from flowgauge.catalogue.copies import Copy, copied_stem, copy, find_copies, named_copy, update
from flowgauge.catalogue.stamp import read_stamp, unstamped
from tests.flowgauge.catalogue.test_catalogue import PATTERN

NEWER = PATTERN.replace("at most four times", "at most five times")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a catalogue of a pattern that is a file and one that is a folder."""
    root = tmp_path / "patterns"
    folder = root / "deployments" / "two_ways"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "two_ways.py").write_text(PATTERN)
    (folder / "prefect.yaml").write_text("name: two\n")
    (folder / "steps.py").write_text("STEPS = 2\n")
    (root / "retries").mkdir()
    (root / "retries" / "backoff.py").write_text(PATTERN)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project."""
    project = tmp_path / "project"
    project.mkdir()
    return project


def copied(root: Path, project: Path, name: str = "retries/backoff") -> Copy:
    """Copy a pattern into a project, and return the copy as it is found there."""
    pattern = find_pattern(root, name)
    (found,) = find_copies(root, copy(pattern, project, pattern.path.stem))
    return found


@pytest.mark.parametrize(
    ("destination", "file"),
    [
        ("here", "here/backoff.py"),
        ("new/folder", "new/folder/backoff.py"),
        ("new/mine.py", "new/mine.py"),
    ],
)
def test_a_pattern_is_copied_to_a_folder_or_a_name(
    root: Path, project: Path, destination: str, file: str
) -> None:
    """A destination that ends in .py is the file to write; any other is the folder to copy into."""
    (project / "here").mkdir()
    pattern = find_pattern(root, "retries/backoff")
    assert copy(pattern, project / destination, "backoff") == project / file
    assert unstamped((project / file).read_text()) == PATTERN


def test_a_copy_says_where_it_comes_from(root: Path, project: Path) -> None:
    """A copy is stamped with the pattern's name and the versions of Flowgauge and Prefect."""
    stamp = read_stamp(copied(root, project).path.read_text())
    assert stamp is not None
    assert stamp.pattern == "retries/backoff"
    assert stamp.version
    assert stamp.prefect


def test_a_copy_overwrites_nothing_unless_forced(root: Path, project: Path) -> None:
    """An existing file stays as it is unless `force` is given."""
    pattern, target = find_pattern(root, "retries/backoff"), project / "backoff.py"
    target.write_text("mine")
    with pytest.raises(CatalogueError, match=r"backoff\.py exists: .*--force"):
        copy(pattern, project, "backoff")
    assert target.read_text() == "mine"
    copy(pattern, project, "backoff", force=True)
    assert unstamped(target.read_text()) == PATTERN


def test_a_dangling_link_is_not_replaced_unless_forced(root: Path, project: Path) -> None:
    """A dangling link counts as an existing file; `force` replaces it and does not follow it."""
    target = project / "backoff.py"
    target.symlink_to(project / "gone.py")
    with pytest.raises(CatalogueError, match=r"backoff\.py exists"):
        copy(find_pattern(root, "retries/backoff"), project, "backoff")
    assert target.is_symlink()
    copy(find_pattern(root, "retries/backoff"), project, "backoff", force=True)
    assert not target.is_symlink()
    assert not (project / "gone.py").exists()


def test_a_file_is_not_taken_for_a_folder(root: Path, project: Path) -> None:
    """A destination that is a file but not a .py file is refused and kept, even with `force`."""
    (project / "notes.txt").write_text("mine")
    with pytest.raises(CatalogueError, match=r"notes\.txt is a file: name a folder"):
        copy(find_pattern(root, "retries/backoff"), project / "notes.txt", "backoff", force=True)
    assert (project / "notes.txt").read_text() == "mine"


def test_a_copy_does_not_differ_until_it_is_changed(root: Path, project: Path) -> None:
    """A fresh copy has no diff; the diff of an edited one shows what was edited."""
    found = copied(root, project)
    assert (found.diff(), found.is_changed, found.is_outdated) == ("", False, False)
    text = found.path.read_text()
    found.path.write_text(text.replace("import json", "import json  # mine"))
    lines = found.diff().splitlines()
    assert lines[:2] == ["--- retries/backoff (catalogue)", f"+++ {found.path}"]
    changed = [line for line in lines[2:] if line[0] in "+-"]
    assert changed == ["-import json", "+import json  # mine"]
    assert (found.is_changed, found.is_outdated) == (True, False)


def test_a_copy_knows_whether_it_or_its_pattern_changed(root: Path, project: Path) -> None:
    """A copy knows whether it was edited, and whether its pattern has changed since."""
    copied(root, project)
    (root / "retries" / "backoff.py").write_text(NEWER)
    (found,) = find_copies(root, project)
    assert (found.is_changed, found.is_outdated) == (False, True)
    found.path.write_text(found.path.read_text() + "# mine\n")
    assert (found.is_changed, found.is_outdated) == (True, True)


def test_different_line_endings_are_not_a_change(root: Path, project: Path) -> None:
    """A copy that differs only in its line endings counts as unchanged."""
    found = copied(root, project)
    found.path.write_bytes(found.path.read_bytes().replace(b"\n", b"\r\n"))
    assert (found.diff(), found.is_changed) == ("", False)


def test_an_unedited_copy_is_updated(root: Path, project: Path) -> None:
    """A copy that nobody edited is updated to the current pattern, and keeps its file name."""
    pattern = find_pattern(root, "retries/backoff")
    copy(pattern, project / "mine.py", "backoff")
    (root / "retries" / "backoff.py").write_text(NEWER)
    (found,) = find_copies(root, project)
    assert update(found)
    assert unstamped((project / "mine.py").read_text()) == NEWER
    (found,) = find_copies(root, project)
    assert (found.is_changed, found.is_outdated) == (False, False)
    assert not update(found)


def test_an_update_renews_the_stamp_of_an_unchanged_pattern(root: Path, project: Path) -> None:
    """If the pattern has not changed, an update still brings an old stamp up to date."""
    found = copied(root, project)
    assert found.stamp is not None
    text = found.path.read_text()
    found.path.write_text(text.replace(f'"{found.stamp.prefect}"', '"3.7.1"'))
    (old,) = find_copies(root, project)
    assert old.stamp == replace(found.stamp, prefect="3.7.1")
    assert update(old)
    assert found.path.read_text() == text


def test_an_edited_copy_is_not_overwritten_unless_forced(root: Path, project: Path) -> None:
    """An edited copy stays as it is, and is replaced only with `force`."""
    found = copied(root, project)
    mine = found.path.read_text() + "# mine\n"
    found.path.write_text(mine)
    with pytest.raises(CatalogueError, match=r"was edited: .*flowgauge diff .*--force"):
        update(found)
    assert found.path.read_text() == mine
    assert update(found, force=True)
    assert unstamped(found.path.read_text()) == PATTERN


def test_a_copy_made_by_hand_is_compared_by_name(root: Path, project: Path) -> None:
    """A file without a stamp is compared with the given pattern, and not updated if edited."""
    pattern = find_pattern(root, "retries/backoff")
    (project / "backoff.py").write_text(PATTERN)
    for place in (project, project / "backoff.py"):
        assert named_copy(pattern, place, "backoff").diff() == ""
    (project / "backoff.py").write_text(PATTERN.removesuffix("\n"))
    found = named_copy(pattern, project, "backoff")
    assert found.diff().endswith("-    main()\n+    main()\n\\ No newline at end of file\n")
    with pytest.raises(CatalogueError, match="was edited"):
        update(found)


def test_a_path_without_a_copy_is_reported(root: Path, project: Path) -> None:
    """A missing, non-text or unstamped file is reported, and so is a folder without copies."""
    pattern, file = find_pattern(root, "retries/backoff"), project / "backoff.py"
    with pytest.raises(CatalogueError, match="cannot be read: no such file"):
        named_copy(pattern, file, "backoff")
    file.write_text(PATTERN)
    with pytest.raises(CatalogueError, match="does not say which pattern it is a copy of"):
        find_copies(root, file)
    file.write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="is not UTF-8 text"):
        find_copies(root, file)
    with pytest.raises(CatalogueError, match="no file in it says which pattern"):
        find_copies(root, project)


def test_copies_are_found_in_the_folders_of_a_project(root: Path, project: Path) -> None:
    """A folder is searched with its subfolders; hidden ones and non-text files are skipped."""
    for folder in ("", "flows", ".venv"):
        copy(find_pattern(root, "retries/backoff"), project / folder, "backoff")
    (project / "image.py").write_bytes(b"\xff")
    copied(root, project, "deployments/two_ways")
    assert [each.path.relative_to(project).as_posix() for each in find_copies(root, project)] == [
        "backoff.py",
        "flows/backoff.py",
        "two_ways/two_ways.py",
    ]


def test_a_copy_of_a_removed_pattern_is_reported(root: Path, project: Path) -> None:
    """A copy whose pattern is no longer in the catalogue is reported, with both names."""
    copied(root, project)
    (root / "retries" / "backoff.py").rename(root / "retries" / "slower.py")
    with pytest.raises(
        CatalogueError,
        match=r'backoff\.py is a copy of a pattern that no longer .*: no pattern "retries/backoff"',
    ):
        find_copies(root, project)


def test_names_used_in_several_topics_are_prefixed_with_the_topic(root: Path) -> None:
    """Copies of patterns with the same name get the topic as a prefix; others do not."""
    (root / "tasks").mkdir()
    (root / "tasks" / "backoff.py").write_text(PATTERN)
    patterns = load_catalogue(root)
    assert {each.name: copied_stem(each, patterns) for each in patterns} == {
        "deployments/two_ways": "two_ways",
        "retries/backoff": "retries_backoff",
        "tasks/backoff": "tasks_backoff",
    }


def test_a_folder_is_copied_as_a_folder(root: Path, project: Path) -> None:
    """A pattern of several files is copied with all of its files and nothing else."""
    found = copied(root, project, "deployments/two_ways")
    assert found.path == project / "two_ways" / "two_ways.py"
    files = {file.name: unstamped(file.read_text()) for file in found.path.parent.iterdir()}
    assert files == {
        "two_ways.py": PATTERN,
        "prefect.yaml": "name: two\n",
        "steps.py": "STEPS = 2\n",
    }
    # Given the copy itself as the destination, it is replaced, not copied one folder deeper.
    again = copy(found.pattern, found.path.parent, "two_ways", force=True)
    assert again == found.path


def test_a_folder_is_not_copied_if_one_of_its_files_exists(root: Path, project: Path) -> None:
    """If one file of a folder already exists, none is written."""
    folder = project / "two_ways"
    folder.mkdir()
    (folder / "steps.py").write_text("mine")
    with pytest.raises(CatalogueError, match=r"steps\.py exists: .*--force"):
        copy(find_pattern(root, "deployments/two_ways"), project, "two_ways")
    assert [file.name for file in folder.iterdir()] == ["steps.py"]
    assert (folder / "steps.py").read_text() == "mine"


def test_a_folder_is_not_copied_to_a_file(root: Path, project: Path) -> None:
    """A destination that is a file name is refused for a pattern of several files."""
    with pytest.raises(CatalogueError, match="name a folder for the copy"):
        copy(find_pattern(root, "deployments/two_ways"), project / "mine.py", "two_ways")


def test_a_folder_is_compared_file_by_file(root: Path, project: Path) -> None:
    """A change in a file next to the main one is in the diff, whichever path leads to the copy."""
    found = copied(root, project, "deployments/two_ways")
    (found.path.parent / "prefect.yaml").write_text("name: three\n")
    for place in (project, found.path.parent, found.path):
        (each,) = find_copies(root, place)
        assert each.is_changed
        lines = each.diff().splitlines()
        assert lines[0] == "--- deployments/two_ways/prefect.yaml (catalogue)"
        assert lines[-2:] == ["-name: two", "+name: three"]
        assert named_copy(found.pattern, place, "two_ways").diff() == each.diff()
