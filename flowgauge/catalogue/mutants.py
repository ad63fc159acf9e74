# SPDX-License-Identifier: Apache-2.0
"""Named mutants: small changes of a pattern, each of which a test of a guarantee must notice.

They stand beside the tests: `tests/patterns/retries/backoff.mutants.toml` has those of
`retries/backoff`, a table for each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgauge.catalogue.headers import CatalogueError, Pattern
from flowgauge.catalogue.marks import proofs

_SUFFIX = ".mutants.toml"
_NEEDED = ("guarantee", "old", "new")
_KNOWN = (*_NEEDED, "file", "runner")
_CHECKOUT = ("conftest.py", "pyproject.toml", "README.md", "flowgauge", "patterns", "tests")


@dataclass(frozen=True)
class Mutant:
    """A change of a pattern that breaks one of its guarantees.

    Attributes:
        name: What is wrong with the pattern then.
        pattern: The pattern's name.
        guarantee: The id of the guarantee that it breaks.
        old: What stands in the pattern, once.
        new: What the mutant has in its place.
        file: The changed file, within the folder of the pattern.
        runner: The task runner on which it is noticed; empty where any does.
    """

    name: str
    pattern: str
    guarantee: str
    old: str
    new: str
    file: str
    runner: str = ""

    def apply(self, folder: Path) -> None:
        """Change the pattern that lies in a folder.

        Raises:
            CatalogueError: If what is to be changed does not stand there exactly once.
        """
        (folder / self.file).write_text(self.changed(folder), encoding="utf-8")

    def changed(self, folder: Path) -> str:
        """Return the text of the changed file of the pattern that lies in a folder.

        Raises:
            CatalogueError: If what is to be changed does not stand there exactly once.
        """
        place = folder / self.file
        text = place.read_text(encoding="utf-8") if place.is_file() else ""
        if (times := text.count(self.old)) != 1:
            raise CatalogueError(
                f'{self.pattern}: mutant "{self.name}": its old text stands in {self.file}'
                f" {times} times, not once"
            )
        return text.replace(self.old, self.new)


def mutants(patterns: Sequence[Pattern], tests_root: Path) -> tuple[Mutant, ...]:
    """Read the mutants of all patterns.

    Args:
        patterns: The catalogue.
        tests_root: The folder of the tests that mirror it.

    Returns:
        The mutants, in the order of the patterns and of their files.

    Raises:
        CatalogueError: If a file of mutants can't be read, or belongs to no pattern.
    """
    files = {tests_root / f"{pattern.name}{_SUFFIX}": pattern for pattern in patterns}
    for path in sorted(tests_root.rglob(f"*{_SUFFIX}")):
        if path not in files:
            raise CatalogueError(f"{path}: mutants of no pattern")
    return tuple(
        mutant for path, pattern in files.items() if path.is_file() for mutant in _in(path, pattern)
    )


def mutant_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Say which guarantees have no mutant, and which mutants break none or can't be made.

    Args:
        patterns: The catalogue.
        tests_root: The folder of the tests that mirror it.

    Returns:
        One line for each, empty if they match.

    Raises:
        CatalogueError: If a file of mutants can't be read.
    """
    found = mutants(patterns, tests_root)
    promised = {(p.name, guarantee.id) for p in patterns for guarantee in p.guarantees}
    broken = {(mutant.pattern, mutant.guarantee) for mutant in found}
    folders = {pattern.name: pattern.path.parent for pattern in patterns}
    return [
        *(f'{name}: no mutant breaks "{id_}"' for name, id_ in sorted(promised - broken)),
        *(f'{name}: a mutant breaks "{id_}", no guarantee' for name, id_ in broken - promised),
        *(line for mutant in found for line in _faults(mutant, folders[mutant.pattern])),
    ]


def proving_tests(mutant: Mutant, tests_root: Path) -> tuple[str, ...]:
    """Return the node ids of the tests that prove what a mutant breaks, below the tests' folder."""
    found = (
        f"{proof.file.relative_to(tests_root).as_posix()}::{proof.test}"
        for proof in proofs(tests_root)
        if (proof.kind, proof.pattern, proof.id) == ("guarantee", mutant.pattern, mutant.guarantee)
    )
    return tuple(dict.fromkeys(found))


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy what the tests of patterns need, to break a pattern there.

    Args:
        root: The checkout.
        folder: Where the copy goes; it is made.

    Returns:
        The folder.
    """
    folder.mkdir()
    for name in _CHECKOUT:
        if (root / name).is_dir():
            shutil.copytree(
                root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(root / name, folder)
    return folder


def run_tests(
    copy: Path, tests: Sequence[str], runner: str, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tests of a copied checkout until the first of them fails.

    Args:
        copy: The copy.
        tests: Files or node ids.
        runner: The task runner they run on.
        seconds: How long they may take.

    Returns:
        How pytest ended, and what it said.

    Raises:
        subprocess.TimeoutExpired: If they take longer.
    """
    options = ("-x", "-q", "-n0", "-m", "not nightly", "--flow-runners", runner)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        # Or the plugin, and the subprocesses of tests, would come from the installed package.
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def _in(path: Path, pattern: Pattern) -> Iterator[Mutant]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise CatalogueError(f'{path}: "{name}" is not a table of texts')
        if (lacks := [key for key in _NEEDED if key not in table]) or table.keys() - set(_KNOWN):
            wrong = f"lacks {lacks[0]}" if lacks else f"may have {', '.join(_KNOWN)} only"
            raise CatalogueError(f'{path}: mutant "{name}" {wrong}')
        given: dict[str, Any] = {"file": pattern.path.name, **table}
        yield Mutant(name=name, pattern=pattern.name, **given)


def _faults(mutant: Mutant, folder: Path) -> Iterator[str]:
    told = f'{mutant.pattern}: mutant "{mutant.name}"'
    try:
        changed = mutant.changed(folder)
    except CatalogueError as error:
        yield str(error)
        return
    if mutant.new == mutant.old:
        yield f"{told} changes nothing"
    if mutant.file.endswith(".py"):
        try:
            compile(changed, mutant.file, "exec")
        except SyntaxError as error:
            yield f"{told} is not Python: {error.msg}"
