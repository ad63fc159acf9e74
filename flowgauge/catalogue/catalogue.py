# SPDX-License-Identifier: Apache-2.0
"""The catalogue of patterns: found, read, and held against its tests and its table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from flowgauge.catalogue.headers import (
    CatalogueError,
    Fact,
    Guarantee,
    Pattern,
    is_companion,
    read,
    spelt_name,
)
from flowgauge.catalogue.marks import MarkKind, proofs
from flowgauge.catalogue.rules import violations

__all__ = [
    "CatalogueError",
    "Fact",
    "Guarantee",
    "Pattern",
    "catalogue_root",
    "find_pattern",
    "guarantee_mismatches",
    "load_catalogue",
    "mirror_mismatches",
    "problems",
    "readme_mismatches",
]

_README_ROW = re.compile(r"^\|\s*\[`?([^\]`]+)`?\]\((patterns/[^)]+)\)", re.MULTILINE)


def catalogue_root(start: Path | None = None) -> Path:
    """Find the folder of the catalogue.

    Args:
        start: Where to begin looking upwards for a checkout; by default the catalogue that
            came with this package, be it installed or itself a checkout.

    Returns:
        The folder that holds a folder for each topic.

    Raises:
        CatalogueError: If there is none.
    """
    package = Path(__file__).resolve().parents[1]
    # First, or an installed package would find the patterns/ of the project it serves.
    if start is None and any((package / "patterns").glob("*/*.py")):
        return package / "patterns"
    start = start or package.parent
    for folder in (start, *start.resolve().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "patterns").is_dir():
            return folder / "patterns"
    raise CatalogueError(f"no patterns/ beside a pyproject.toml in {start} or above it")


def load_catalogue(root: Path) -> tuple[Pattern, ...]:
    """Read the header of every pattern.

    Args:
        root: The folder of the catalogue.

    Returns:
        The patterns, sorted by name.

    Raises:
        CatalogueError: If a header lacks something.
    """
    return tuple(read(root, path) for path in _files(root))


def find_pattern(root: Path, name: str) -> Pattern:
    """Read one pattern.

    Args:
        root: The folder of the catalogue.
        name: Topic and file: `retries/backoff`.

    Returns:
        The pattern.

    Raises:
        CatalogueError: If there is none of that name, or its header lacks something.
    """
    paths = {spelt_name(root, path): path for path in _files(root)}
    if name in paths:
        return read(root, paths[name])
    # "backoff" alone is nearer to the file's own name than to "retries/backoff".
    spellings = {known.rpartition("/")[2]: known for known in paths} | {k: k for k in paths}
    near = get_close_matches(name.removesuffix(".py"), spellings, n=1)
    hint = f'did you mean "{spellings[near[0]]}"?' if near else "flowgauge list names them all"
    raise CatalogueError(f'no pattern "{name}": {hint}')


def problems(root: Path) -> list[str]:
    """Say where the catalogue breaks its own rules.

    Args:
        root: The folder of the catalogue.

    Returns:
        One line for each fault, empty if there is none.
    """
    return [fault for path in _files(root) for fault in violations(root, path)]


def guarantee_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Say which guarantees and facts have no test, and which tests prove what no header says.

    Args:
        patterns: The catalogue.
        tests_root: The folder of the tests that mirror it.

    Returns:
        One line for each, empty if they match.

    Raises:
        CatalogueError: If a test file can't be read.
    """
    promised: dict[tuple[str, str], MarkKind] = {}
    for pattern in patterns:
        promised |= {(pattern.name, each.id): "guarantee" for each in pattern.guarantees}
        promised |= {(pattern.name, each.id): "fact" for each in pattern.facts}
    proved = {(proof.pattern, proof.id, proof.kind) for proof in proofs(tests_root)}
    wanted = {(*key, kind) for key, kind in promised.items()}
    return [
        *(f'{name}: no test proves "{id_}"' for name, id_, _ in sorted(wanted - proved)),
        *(
            f'{name}: a test proves "{id_}", no {kind}'
            for name, id_, kind in sorted(proved - wanted)
        ),
    ]


def readme_mismatches(patterns: Sequence[Pattern], readme: Path) -> list[str]:
    """Say which patterns have no row in the README's table, and which rows have no pattern.

    Args:
        patterns: The catalogue.
        readme: A Markdown file; a row begins `| [topic/name](patterns/topic/name.py) |`, for a
            pattern that is a folder without the `.py`.

    Returns:
        One line for each, empty if they match.
    """
    rows = set(_README_ROW.findall(readme.read_text(encoding="utf-8")))
    wanted = {(p.name, f"patterns/{p.name}" + ("" if p.is_folder else ".py")) for p in patterns}
    return [
        *(
            f"{name}: no row [{name}]({link}) in {readme.name}"
            for name, link in sorted(wanted - rows)
        ),
        *(
            f"{readme.name}: row [{name}]({link}) has no pattern"
            for name, link in sorted(rows - wanted)
        ),
    ]


def mirror_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Say which patterns have no test file of their own, and which test files no pattern.

    Args:
        patterns: The catalogue.
        tests_root: The folder in which `topic/test_name.py` belongs to `topic/name`.

    Returns:
        One line for each, empty if they match.
    """
    found = {path.relative_to(tests_root).as_posix() for path in tests_root.rglob("test_*.py")}
    wanted = {"/test_".join(p.name.split("/")) + ".py": p.name for p in patterns}
    return [
        *(f"{wanted[file]}: no tests in {file}" for file in sorted(wanted.keys() - found)),
        *(f"{file}: tests of no pattern" for file in sorted(found - wanted.keys())),
    ]


def _files(root: Path) -> list[Path]:
    """Return every file that is meant to have a pattern's header, sorted by name."""
    files = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted(
        path
        for name, path in files
        if not any(part[0] in "._" for part in name.parts) and not is_companion(path)
    )
