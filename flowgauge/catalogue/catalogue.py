# SPDX-License-Identifier: Apache-2.0
"""Find and read the patterns, and compare them with their tests and the README's table."""

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
    pattern_name,
    read,
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

_README_ROW = re.compile(
    r"^\|[^|\n]+\|\s*\[`?([^\]`]+)`?\]\((patterns/[^)]+)\)\s*\|$", re.MULTILINE
)


def catalogue_root(start: Path | None = None) -> Path:
    """Find the folder of the catalogue.

    Args:
        start: The folder from which to search upwards for a checkout; by default the catalogue
            that belongs to this package, whether installed or in a checkout.

    Returns:
        The folder that has one folder for each topic.

    Raises:
        CatalogueError: If there is none.
    """
    package = Path(__file__).resolve().parents[1]
    # First, or an installed package would find the patterns/ of the project it is used in.
    if start is None and any((package / "patterns").glob("*/*.py")):
        return package / "patterns"
    start = start or package.parent
    for folder in (start, *start.resolve().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "patterns").is_dir():
            return folder / "patterns"
    raise CatalogueError(f"no patterns/ next to a pyproject.toml in {start} or above it")


def load_catalogue(root: Path) -> tuple[Pattern, ...]:
    """Read the header of every pattern.

    Args:
        root: The folder of the catalogue.

    Returns:
        The patterns, sorted by name.

    Raises:
        CatalogueError: If a header can't be read.
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
        CatalogueError: If there is no pattern of that name, or its header can't be read.
    """
    paths = {pattern_name(root, path): path for path in _files(root)}
    if name in paths:
        return read(root, paths[name])
    # The bare file name is also a candidate, so that "backoff" without its topic matches.
    spellings = {known.rpartition("/")[2]: known for known in paths} | {k: k for k in paths}
    near = get_close_matches(name.removesuffix(".py"), spellings, n=1)
    hint = f'did you mean "{spellings[near[0]]}"?' if near else 'see "flowgauge list"'
    raise CatalogueError(f'no pattern "{name}": {hint}')


def problems(root: Path) -> list[str]:
    """Return where the catalogue breaks its own rules.

    Args:
        root: The folder of the catalogue.

    Returns:
        One line for each fault; empty if there is none.
    """
    return [fault for path in _files(root) for fault in violations(root, path)]


def guarantee_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Return the guarantees and facts without a test, and the tests that prove neither.

    Args:
        patterns: The catalogue.
        tests_root: The folder of the tests that mirror it.

    Returns:
        One line for each mismatch; empty if there is none.

    Raises:
        CatalogueError: If a test file can't be read.
    """
    promised: dict[tuple[str, str], MarkKind] = {}
    for pattern in patterns:
        promised |= {(pattern.name, guarantee.id): "guarantee" for guarantee in pattern.guarantees}
        promised |= {(pattern.name, fact.id): "fact" for fact in pattern.facts}
    proved = {(proof.pattern, proof.id, proof.kind) for proof in proofs(tests_root)}
    claimed = {(*key, kind) for key, kind in promised.items()}
    return [
        *(f'{name}: no test proves "{id_}"' for name, id_, _ in sorted(claimed - proved)),
        *(
            f'{name}: a test proves "{id_}", which is not a {kind}'
            for name, id_, kind in sorted(proved - claimed)
        ),
    ]


def readme_mismatches(patterns: Sequence[Pattern], readme: Path) -> list[str]:
    """Return the patterns without a row in the README's table, and the rows without a pattern.

    Args:
        patterns: The catalogue.
        readme: A Markdown file; a row is `| problem | [topic/name](patterns/topic/name.py) |`,
            without the `.py` for a pattern that is a folder.

    Returns:
        One line for each mismatch; empty if there is none.
    """
    rows = set(_README_ROW.findall(readme.read_text(encoding="utf-8")))
    expected = {(p.name, f"patterns/{p.name}" + ("" if p.is_folder else ".py")) for p in patterns}
    return [
        *(
            f"{name}: no row [{name}]({link}) in {readme.name}"
            for name, link in sorted(expected - rows)
        ),
        *(
            f"{readme.name}: row [{name}]({link}) has no pattern"
            for name, link in sorted(rows - expected)
        ),
    ]


def mirror_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Return the patterns without a test file, and the test files without a pattern.

    Args:
        patterns: The catalogue.
        tests_root: The folder in which `topic/test_name.py` tests `topic/name`.

    Returns:
        One line for each mismatch; empty if there is none.
    """
    files = {path.relative_to(tests_root).as_posix() for path in tests_root.rglob("test_*.py")}
    expected = {"/test_".join(p.name.split("/")) + ".py": p.name for p in patterns}
    return [
        *(f"{expected[file]}: no tests in {file}" for file in sorted(expected.keys() - files)),
        *(f"{file}: tests of no pattern" for file in sorted(files - expected.keys())),
    ]


def _files(root: Path) -> list[Path]:
    """Return every file that should have a pattern's header, sorted by name."""
    files = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted(
        path
        for name, path in files
        if not any(part[0] in "._" for part in name.parts) and not is_companion(path)
    )
