# SPDX-License-Identifier: Apache-2.0
"""Copy patterns into a project; find, compare and update those copies."""

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
        path: The copy's main file, which can be run.
        stamp: The stamp that says where the copy is from; None if it was copied by hand.
    """

    pattern: Pattern
    path: Path
    stamp: Stamp | None

    @property
    def files(self) -> dict[Path, Path]:
        """Each file of the copy, the main file first, mapped to the file it is a copy of."""
        companions = {self.path.parent / file.name: file for file in self.pattern.companions}
        return {self.path: self.pattern.path} | companions

    @property
    def is_changed(self) -> bool:
        """Whether the copy was edited; without a stamp, whether it differs from the pattern."""
        if self.stamp is None:
            return bool(self.diff())
        texts = {"": unstamped(_read(self.path))}
        texts |= {file.name: _read(file) for file in self.files if file != self.path}
        return content(texts) != self.stamp.content

    @property
    def is_outdated(self) -> bool:
        """Whether the pattern has changed since it was copied."""
        return self.stamp is not None and _content(self.pattern) != self.stamp.content

    def diff(self) -> str:
        """Compare the pattern with the copy.

        Returns:
            A unified diff from the pattern to the copy; empty if they are equal.

        Raises:
            CatalogueError: If a file of the copy is missing or is not text.
        """
        files = self.files.items()
        return "".join(_file_diff(self.pattern, ours, theirs) for theirs, ours in files)


def copy(pattern: Pattern, destination: Path, stem: str, force: bool = False) -> Path:
    """Copy a pattern into a project.

    Args:
        pattern: The pattern; one that is a folder is copied as a folder.
        destination: A folder, or for a single-file pattern a file name that ends in `.py`; it is
            created if it is missing.
        stem: The name of the new file or folder, if `destination` is the folder it goes into.
        force: Overwrite existing files.

    Returns:
        The copy's main file, which carries a stamp.

    Raises:
        CatalogueError: If a file exists and `force` is not given; nothing is written then.
        OSError: If a file can't be written.
    """
    target = _target(pattern, destination, stem)
    new = Copy(pattern, target, None)
    # lexists, because a broken link must not be overwritten either.
    if (existing := [file for file in new.files if os.path.lexists(file)]) and not force:
        raise CatalogueError(f"{existing[0]} exists: give another name, or --force to overwrite it")
    _write(new)
    return target


def update(copy: Copy, force: bool = False) -> bool:
    """Update a copy to the current pattern, unless it was edited.

    Args:
        copy: The copy.
        force: Update it even if it was edited; the edits are lost.

    Returns:
        Whether it was written.

    Raises:
        CatalogueError: If the copy was edited and `force` is not given; it is left as it is.
        OSError: If a file can't be written.
    """
    if copy.is_changed and not force:
        raise CatalogueError(
            f'{copy.path} was edited: "flowgauge diff {copy.path}" shows how; --force overwrites'
            " the edits"
        )
    if copy.stamp == _stamp(copy.pattern) and not copy.is_changed:
        return False
    _write(copy)
    return True


def find_copies(root: Path, place: Path) -> tuple[Copy, ...]:
    """Find copies by their stamps.

    Args:
        root: The folder of the catalogue.
        place: A copy, or a folder that is searched recursively.

    Returns:
        The copies, sorted by path.

    Raises:
        CatalogueError: If there is no copy, or a copy's pattern is no longer in the catalogue.
    """
    if place.is_dir():
        # A file that can't be read as text is treated like one without a stamp.
        texts = {file: _text(file) for file in sorted(_python_files(place))}
    else:
        texts = {place: _read(place)}
    stamps = {file: stamp for file, text in texts.items() if (stamp := read_stamp(text))}
    if not stamps:
        lack = "no file in it says" if place.is_dir() else "does not say"
        raise CatalogueError(
            f"{place}: {lack} which pattern it is a copy of: name the pattern first"
        )
    return tuple(_stamped_copy(root, file, stamp) for file, stamp in stamps.items())


def named_copy(pattern: Pattern, place: Path, stem: str) -> Copy:
    """Return the copy of a given pattern, with or without a stamp.

    Args:
        pattern: The pattern.
        place: The copy, or the folder that it is in.
        stem: The name of copies of this pattern.

    Returns:
        The copy.

    Raises:
        CatalogueError: If there is no such copy.
    """
    if place.is_dir():
        place = _target(pattern, place, stem)
    return Copy(pattern, place, read_stamp(_read(place)))


def copied_stem(pattern: Pattern, patterns: Sequence[Pattern]) -> str:
    """Return a name for copies that is unique even among copies of all patterns.

    Args:
        pattern: The pattern.
        patterns: The catalogue.

    Returns:
        The pattern's own name, prefixed with its topic if other topics have that name, too.
    """
    topic, _, name = pattern.name.partition("/")
    namesakes = [other for other in patterns if other.name.endswith(f"/{name}")]
    return name if len(namesakes) < 2 else f"{topic}_{name}"


def _stamped_copy(root: Path, file: Path, stamp: Stamp) -> Copy:
    try:
        return Copy(find_pattern(root, stamp.pattern), file, stamp)
    except CatalogueError as error:
        message = f"{file} is a copy of a pattern that no longer exists: {error}"
        raise CatalogueError(message) from None


def _target(pattern: Pattern, destination: Path, stem: str) -> Path:
    """Return the main file of a new copy."""
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
    """Return the text of each file of a pattern by name; the main file's name is empty."""
    companions = {file.name: file.read_text(encoding="utf-8") for file in pattern.companions}
    return {"": pattern.path.read_text(encoding="utf-8")} | companions


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _text(path: Path) -> str:
    """Return the text of a file, or an empty string if it can't be read."""
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
    title = f"{pattern.name}/{ours.name}" if pattern.is_folder else pattern.name
    lines = unified_diff(
        ours.read_text(encoding="utf-8").splitlines(keepends=True),
        copied.splitlines(keepends=True),
        fromfile=f"{title} (catalogue)",
        tofile=str(theirs),
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
