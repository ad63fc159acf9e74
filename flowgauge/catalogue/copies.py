# SPDX-License-Identifier: Apache-2.0
"""Copies of patterns: made, found again, compared with what the catalogue holds, and renewed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from flowgauge.catalogue.catalogue import find_pattern
from flowgauge.catalogue.headers import CatalogueError, Pattern
from flowgauge.catalogue.stamp import Stamp, content, read_stamp, stamped, unstamped
from flowgauge.files import write_whole


@dataclass(frozen=True)
class Copy:
    """A copy of a pattern in somebody's project.

    Attributes:
        pattern: The pattern, as the catalogue has it now.
        path: The file of the copy that can be run.
        stamp: What the copy says of where it is from; None if it was copied by hand.
    """

    pattern: Pattern
    path: Path
    stamp: Stamp | None

    @property
    def files(self) -> dict[Path, Path]:
        """The files of the copy, the one that can be run first, and what each is a copy of."""
        beside = {self.path.parent / file.name: file for file in self.pattern.companions}
        return {self.path: self.pattern.path} | beside

    @property
    def is_changed(self) -> bool:
        """Whether the copy is not what was copied; a copy without a stamp may be."""
        if self.stamp is None:
            return bool(self.diff())
        texts = {"": unstamped(_read(self.path))}
        texts |= {file.name: _read(file) for file in self.files if file != self.path}
        return content(texts) != self.stamp.content

    @property
    def is_outdated(self) -> bool:
        """Whether the pattern is not any more what was copied."""
        return self.stamp is not None and _content(self.pattern) != self.stamp.content

    def diff(self) -> str:
        """Compare the pattern with the copy.

        Returns:
            A unified diff from the pattern to the copy, empty if they are the same.

        Raises:
            CatalogueError: If a file of the copy is missing or is not text.
        """
        files = self.files.items()
        return "".join(_file_diff(self.pattern, ours, theirs) for theirs, ours in files)


def copy(pattern: Pattern, destination: Path, stem: str, force: bool = False) -> Path:
    """Copy a pattern to where it is wanted.

    Args:
        pattern: The pattern; one that is a folder is copied as a folder.
        destination: A folder, or for a pattern of one file a name that ends in `.py`; it is made
            if it is missing.
        stem: The name of the file or folder in the destination, where that is not one itself.
        force: Overwrite files that are there.

    Returns:
        The new file that can be run; it carries a stamp.

    Raises:
        CatalogueError: If a file exists and `force` is not given; nothing was written then.
        OSError: If it can't be written.
    """
    target = _target(pattern, destination, stem)
    made = Copy(pattern, target, None)
    # A link that leads nowhere is something that is there, too.
    if (there := [file for file in made.files if os.path.lexists(file)]) and not force:
        raise CatalogueError(f"{there[0]} exists: give another name, or --force to overwrite it")
    _write(made)
    return target


def update(copy: Copy, force: bool = False) -> bool:
    """Renew a copy, unless somebody changed it.

    Args:
        copy: The copy.
        force: Renew it all the same; what was changed in it is lost.

    Returns:
        Whether it was written.

    Raises:
        CatalogueError: If the copy was changed and `force` is not given; it is left as it is.
        OSError: If it can't be written.
    """
    if copy.is_changed and not force:
        raise CatalogueError(
            f'{copy.path} was changed here: "flowgauge diff {copy.path}" shows how, and --force'
            " replaces it"
        )
    if copy.stamp == _stamp(copy.pattern) and not copy.is_changed:
        return False
    _write(copy)
    return True


def find_copies(root: Path, place: Path) -> tuple[Copy, ...]:
    """Find the copies in a place by the stamps that they carry.

    Args:
        root: The folder of the catalogue.
        place: A copy, or a folder, which is searched with the folders in it.

    Returns:
        The copies, sorted by path.

    Raises:
        CatalogueError: If there is none, or the catalogue does not have its pattern any more.
    """
    if place.is_dir():
        # What is no text is none of ours; what can't be read now is the same as not there.
        texts = {file: _text(file) for file in sorted(_python_files(place))}
    else:
        texts = {place: _read(place)}
    found = {file: stamp for file, text in texts.items() if (stamp := read_stamp(text))}
    if not found:
        what = "no file in it says" if place.is_dir() else "does not say"
        raise CatalogueError(
            f"{place}: {what} which pattern it is a copy of: name the pattern before it"
        )
    return tuple(_found(root, file, stamp) for file, stamp in found.items())


def named_copy(pattern: Pattern, place: Path, stem: str) -> Copy:
    """Return the copy of a pattern in a place, with a stamp or without.

    Args:
        pattern: The pattern.
        place: The copy, or the folder that it lies in.
        stem: The name of copies of it.

    Raises:
        CatalogueError: If there is none.
    """
    if place.is_dir():
        place = _target(pattern, place, stem)
    return Copy(pattern, place, read_stamp(_read(place)))


def copied_stem(pattern: Pattern, patterns: Sequence[Pattern]) -> str:
    """Return the name of a copy in a folder that may hold copies of all patterns.

    Args:
        pattern: The pattern.
        patterns: The catalogue.

    Returns:
        Its own name; with its topic before it where several topics have that name.
    """
    topic, _, name = pattern.name.partition("/")
    alike = [each for each in patterns if each.name.endswith(f"/{name}")]
    return name if len(alike) < 2 else f"{topic}_{name}"


def _found(root: Path, file: Path, stamp: Stamp) -> Copy:
    try:
        return Copy(find_pattern(root, stamp.pattern), file, stamp)
    except CatalogueError as error:
        raise CatalogueError(f"{file} is a copy of what is gone: {error}") from None


def _target(pattern: Pattern, destination: Path, stem: str) -> Path:
    """Return the file of a copy that can be run."""
    if not destination.is_dir():
        if destination.suffix == ".py":
            if pattern.is_folder:
                raise CatalogueError(
                    f"{pattern.name} is a folder of files: name a folder for the copy"
                )
            return destination
        if destination.is_file():
            raise CatalogueError(f"{destination} is a file: name a folder, or a file ending in .py")
    if pattern.is_folder:
        is_copy = (destination / pattern.path.name).is_file()
        return (destination if is_copy else destination / stem) / pattern.path.name
    return destination / f"{stem}.py"


def _write(copy: Copy) -> None:
    stamp = _stamp(copy.pattern)
    for target, source in copy.files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        write_whole(target, stamped(text, stamp) if source == copy.pattern.path else text)


def _stamp(pattern: Pattern) -> Stamp:
    return Stamp.of(pattern.name, _texts(pattern))


def _content(pattern: Pattern) -> str:
    return content(_texts(pattern))


def _texts(pattern: Pattern) -> dict[str, str]:
    """Return the text of each file of a pattern; the one that can be run has no name of its own."""
    beside = {file.name: file.read_text(encoding="utf-8") for file in pattern.companions}
    return {"": pattern.path.read_text(encoding="utf-8")} | beside


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _text(path: Path) -> str:
    """Return the text of a file, nothing where it has none."""
    try:
        return _read(path)
    except CatalogueError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogueError(f"{path} cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise CatalogueError(f"{path} is not UTF-8 text") from None


def _file_diff(pattern: Pattern, ours: Path, theirs: Path) -> str:
    copied = unstamped(_read(theirs))
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
