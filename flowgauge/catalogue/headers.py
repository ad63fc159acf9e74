# SPDX-License-Identifier: Apache-2.0
"""Parse the header of a pattern's file."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowgauge.mistake import Mistake

SPDX = "# SPDX-License-Identifier: 0BSD"
SECTIONS = ("Problem", "Guarantees", "Prefect", "Not for", "Costs", "Sources")
OPTIONAL_SECTIONS = ("Prefect",)

_ID = re.compile(r"[a-z][a-z0-9-]*")
_FACT = re.compile(r"(?P<id>[^\s:(]+) \((?P<versions>\d+\.\d+(?:, \d+\.\d+)*)\)")
_INDENT = "    "


class CatalogueError(Mistake):
    """A fault in the catalogue or in a request to it; the message is one line."""


@dataclass(frozen=True)
class Guarantee:
    """One property that a pattern guarantees."""

    id: str
    text: str


@dataclass(frozen=True)
class Fact:
    """One behaviour of Prefect, independent of the pattern, and the versions it was seen in."""

    id: str
    versions: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Pattern:
    """What a pattern file says about itself.

    Attributes:
        name: Topic and file: `retries/backoff`.
        path: The file with the header, which can be run.
        summary: The first line of its docstring.
        problem: What it is for; paragraphs are separated by a blank line, here and below.
        guarantees: What it guarantees, in the order of the header.
        not_for: Cases in which something else is better.
        costs: Which figures of the report belong to it.
        sources: Pages and Prefect issues.
        dependencies: Requirements in the form of PEP 508.
        requires_python: The Python versions it runs on: `>=3.11`.
        optional: Requirements of optional features; imported only inside functions.
        companions: The other files, if the pattern is a folder.
        facts: Behaviour of Prefect that the pattern responds to, or that its reader must know.
    """

    name: str
    path: Path
    summary: str
    problem: str
    guarantees: tuple[Guarantee, ...]
    not_for: str
    costs: str
    sources: tuple[str, ...]
    dependencies: tuple[str, ...]
    requires_python: str
    optional: tuple[str, ...] = ()
    companions: tuple[Path, ...] = ()
    facts: tuple[Fact, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its guarantees, then those of its facts."""
        return (*(g.id for g in self.guarantees), *(fact.id for fact in self.facts))

    @property
    def is_folder(self) -> bool:
        """Whether the pattern is a folder; its file of the same name has the header."""
        return _is_folder(self.path)


def is_companion(path: Path) -> bool:
    """Return whether a file is part of a folder pattern, other than the file with the header."""
    folder = path.parent
    return path.stem != folder.name and (folder / f"{folder.name}.py").is_file()


def pattern_name(root: Path, path: Path) -> str:
    """Return the name of the pattern in a file: its topic, and the name of the file or folder."""
    pattern = path.parent if _is_folder(path) else path.with_suffix("")
    return pattern.relative_to(root).as_posix()


def read(root: Path, path: Path) -> Pattern:
    """Read the header of a pattern file without importing it.

    Args:
        root: The folder of the catalogue.
        path: A file in a topic folder below it.

    Returns:
        What the header says.

    Raises:
        CatalogueError: If the file can't be read, or its header lacks something.
    """
    try:
        source, tree = parse(path)
        requires_python, dependencies, optional = _script_block(source.split("\n"))
        summary, sections = _sections(ast.get_docstring(tree) or "")
        guarantees = _guarantees(sections["Guarantees"])
        return Pattern(
            name=_name(root, path),
            path=path,
            summary=summary,
            problem=_paragraphs(sections["Problem"]),
            guarantees=guarantees,
            not_for=_paragraphs(sections["Not for"]),
            costs=_paragraphs(sections["Costs"]),
            sources=_sources(sections["Sources"]),
            dependencies=dependencies,
            requires_python=requires_python,
            optional=optional,
            companions=_companions(path),
            facts=_facts(sections.get("Prefect", []), {guarantee.id for guarantee in guarantees}),
        )
    except CatalogueError as fault:
        raise CatalogueError(f"{display_path(root, path)}: {fault}") from None


def display_path(root: Path, path: Path) -> str:
    """Return a file's path as shown in messages, relative to the parent of the catalogue."""
    return path.relative_to(root.parent).as_posix()


def _name(root: Path, path: Path) -> str:
    name = pattern_name(root, path)
    if name.count("/") != 1:
        raise CatalogueError(f"is not in a topic folder: move it to {root.name}/<topic>/")
    return name


def _is_folder(path: Path) -> bool:
    return path.stem == path.parent.name


def _companions(path: Path) -> tuple[Path, ...]:
    if not _is_folder(path):
        return ()
    files = (file for file in path.parent.iterdir() if file.is_file() and file != path)
    return tuple(sorted(file for file in files if file.name[0] not in "._"))


def parse(path: Path) -> tuple[str, ast.Module]:
    """Return the text of a Python file and its syntax tree."""
    try:
        source = path.read_text(encoding="utf-8")
        return source, ast.parse(source)
    except OSError as error:
        raise CatalogueError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise CatalogueError("is not UTF-8 text") from None
    except SyntaxError as error:
        raise CatalogueError(f"is not Python: {error.msg} in line {error.lineno}") from None
    except ValueError as error:
        raise CatalogueError(f"is not Python: {error}") from None


def _script_block(lines: list[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return requires-python, dependencies and optional ones from the `# /// script` block."""
    if lines[0] != SPDX:
        raise CatalogueError(f'line 1 is not "{SPDX}"')
    if len(lines) < 2 or lines[1] != "# /// script":
        raise CatalogueError('line 2 is not "# /// script"; dependencies are declared there')
    if "# ///" not in lines[2:]:
        raise CatalogueError('the "# /// script" block has no end: close it with "# ///"')
    block = lines[2 : lines.index("# ///", 2)]
    try:
        script = tomllib.loads("\n".join(line.removeprefix("#") for line in block))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f'the "# /// script" block is not TOML: {error}') from None
    requires_python, dependencies = script.get("requires-python"), script.get("dependencies")
    if not isinstance(requires_python, str):
        raise CatalogueError('the "# /// script" block has no requires-python = "..."')
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise CatalogueError('the "# /// script" block has no dependencies = ["...", ...]')
    # Script metadata has no field for optional dependencies, so they are in a tool table.
    optional = script.get("tool", {}).get("flowgauge", {}).get("optional-dependencies", [])
    return requires_python, tuple(dependencies), tuple(optional)


def _sections(docstring: str) -> tuple[str, dict[str, list[str]]]:
    """Return the summary, and the unindented lines of each section."""
    summary, *lines = docstring.split("\n")
    if not summary or (lines and lines[0]):
        raise CatalogueError("its docstring does not begin with one line followed by a blank line")
    sections: dict[str, list[str]] = {}
    section: list[str] | None = None
    for line in lines:
        if line and not line.startswith(_INDENT):
            section = sections.setdefault(_title(line, sections), [])
        elif section is not None:
            section.append(line.removeprefix(_INDENT))
        elif line:
            raise CatalogueError(f'"{line.strip()}" is in no section')
    for title in SECTIONS:
        if title in OPTIONAL_SECTIONS and title not in sections:
            continue
        if not any(sections.get(title, ())):
            fault = "is empty" if title in sections else "is missing"
            raise CatalogueError(f'section "{title}:" {fault}')
    if tuple(sections) != tuple(title for title in SECTIONS if title in sections):
        raise CatalogueError(f"its sections are not in the order {', '.join(SECTIONS)}")
    return summary, sections


def _title(line: str, seen: dict[str, list[str]]) -> str:
    title = line.removesuffix(":")
    if title == line:
        raise CatalogueError(f'"{line}" is in no section: indent it by four spaces')
    if title not in SECTIONS:
        raise CatalogueError(f'unknown section "{line}"; the sections are {", ".join(SECTIONS)}')
    if title in seen:
        raise CatalogueError(f'section "{line}" appears twice')
    return title


def _paragraphs(lines: list[str]) -> str:
    paragraphs = "\n".join(lines).split("\n\n")
    return "\n\n".join(" ".join(words) for text in paragraphs if (words := text.split()))


def _items(lines: list[str]) -> Iterator[str]:
    """Yield each item of a list as one line; further indented lines continue an item."""
    item: list[str] = []
    for line in filter(None, lines):
        if line.startswith(" "):
            if not item:
                raise CatalogueError(
                    f'"{line.strip()}" continues no item: indent it by four spaces'
                )
        elif item:
            yield " ".join(item)
            item = []
        item += line.split()
    yield " ".join(item)


def _guarantees(lines: list[str]) -> tuple[Guarantee, ...]:
    guarantees: dict[str, Guarantee] = {}
    for item in _items(lines):
        name, colon, text = item.partition(":")
        if not (colon and text.strip()):
            raise CatalogueError(f'guarantee "{item}" is not written as "id: what holds"')
        if not _ID.fullmatch(name):
            raise CatalogueError(
                f'guarantee id "{name}" is not made of lower-case letters, digits and hyphens'
            )
        if name in guarantees:
            raise CatalogueError(f'guarantee "{name}" appears twice')
        guarantees[name] = Guarantee(name, text.strip())
    return tuple(guarantees.values())


def _facts(lines: list[str], taken: set[str]) -> tuple[Fact, ...]:
    facts: dict[str, Fact] = {}
    for item in _items(lines) if any(lines) else ():
        head, colon, text = item.partition(":")
        match = _FACT.fullmatch(head)
        if not (colon and text.strip() and match and _ID.fullmatch(match["id"])):
            raise CatalogueError(
                f'fact "{item}" is not written as "id (3.8, 3.9): what Prefect does", with the'
                " versions in which it does so"
            )
        name = match["id"]
        if name in facts or name in taken:
            raise CatalogueError(f'fact "{name}" has an id that is already used')
        facts[name] = Fact(name, tuple(match["versions"].split(", ")), text.strip())
    return tuple(facts.values())


def _sources(lines: list[str]) -> tuple[str, ...]:
    items = tuple(_items(lines))
    for item in items:
        if not item.startswith("- "):
            raise CatalogueError(f'source "{item}" does not begin with "- "')
    return tuple(item.removeprefix("- ") for item in items)
