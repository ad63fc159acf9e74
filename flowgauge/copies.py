# SPDX-License-Identifier: Apache-2.0
"""Copies of patterns: made, and compared with what the catalogue holds."""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.headers import CatalogueError, Pattern


def copy(pattern: Pattern, destination: Path, force: bool = False) -> Path:
    """Copy a pattern to where it is wanted.

    Args:
        pattern: The pattern; one that is a folder is copied as a folder of its name.
        destination: A folder, or for a pattern of one file a name that ends in `.py`; it is made
            if it is missing.
        force: Overwrite files that are there.

    Returns:
        The new file that can be run.

    Raises:
        CatalogueError: If a file exists and `force` is not given; nothing was written then.
        OSError: If it can't be written.
    """
    targets = _targets(pattern, destination)
    if (there := [target for target in targets if target.exists()]) and not force:
        raise CatalogueError(f"{there[0]} exists: give another name, or --force to overwrite it")
    for target, source in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, source.read_text(encoding="utf-8"))
    return next(iter(targets))


def diff(pattern: Pattern, place: Path) -> str:
    """Compare a pattern with a copy of it.

    Args:
        pattern: The pattern.
        place: The copy, or the folder that it lies in.

    Returns:
        A unified diff from the pattern to the copy, empty if they are the same.

    Raises:
        CatalogueError: If a file of the copy is missing or is not text.
    """
    targets = _targets(pattern, place)
    return "".join(_file_diff(pattern, ours, theirs) for theirs, ours in targets.items())


def _targets(pattern: Pattern, destination: Path) -> dict[Path, Path]:
    """Return the files of a copy, the one that can be run first, and what each is a copy of."""
    named = destination.suffix == ".py" and not destination.is_dir()
    if not pattern.is_folder:
        return {destination if named else destination / pattern.path.name: pattern.path}
    if named:
        raise CatalogueError(f"{pattern.name} is a folder of files: name a folder for the copy")
    copied_before = (destination / pattern.path.name).is_file()
    folder = destination if copied_before else destination / pattern.path.parent.name
    return {folder / file.name: file for file in (pattern.path, *pattern.companions)}


def _file_diff(pattern: Pattern, ours: Path, theirs: Path) -> str:
    try:
        copied = theirs.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogueError(f"{theirs} cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise CatalogueError(f"{theirs} is not UTF-8 text") from None
    shown = f"{pattern.name}/{ours.name}" if pattern.is_folder else pattern.name
    lines = unified_diff(
        ours.read_text(encoding="utf-8").splitlines(keepends=True),
        copied.splitlines(keepends=True),
        fromfile=f"{shown} (catalogue)",
        tofile=str(theirs),
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
