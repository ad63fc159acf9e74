# SPDX-License-Identifier: Apache-2.0
"""Named mutants: small changes of a pattern that a test of a guarantee must detect.

They are kept next to the tests: `tests/patterns/retries/backoff.mutants.toml` has those of
`retries/backoff`, one table for each.
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
        name: What is wrong with the changed pattern.
        pattern: The pattern's name.
        guarantee: The id of the guarantee that it breaks.
        old: Text that occurs in the pattern exactly once.
        new: The text that replaces it.
        file: The changed file, within the folder of the pattern.
        runner: The task runner on which the tests detect it; empty if any does.
    """

    name: str
    pattern: str
    guarantee: str
    old: str
    new: str
    file: str
    runner: str = ""

    def apply(self, folder: Path) -> None:
        """Apply the change to the pattern in a folder.

        Args:
            folder: The folder that the pattern's main file is in.

        Raises:
            CatalogueError: If the old text does not occur exactly once.
        """
        (folder / self.file).write_text(self.changed(folder), encoding="utf-8")

    def changed(self, folder: Path) -> str:
        """Return the changed text without writing it.

        Args:
            folder: The folder that the pattern's main file is in.

        Returns:
            The text of the changed file.

        Raises:
            CatalogueError: If the old text does not occur exactly once.
        """
        path = folder / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (times := text.count(self.old)) != 1:
            raise CatalogueError(
                f'{self.pattern}: mutant "{self.name}": its old text occurs in {self.file}'
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
        mutant
        for path, pattern in files.items()
        if path.is_file()
        for mutant in _mutants_in(path, pattern)
    )


def mutant_mismatches(patterns: Sequence[Pattern], tests_root: Path) -> list[str]:
    """Return the guarantees without a mutant, and the mutants that break none or can't be applied.

    Args:
        patterns: The catalogue.
        tests_root: The folder of the tests that mirror it.

    Returns:
        One line for each mismatch; empty if there is none.

    Raises:
        CatalogueError: If a file of mutants can't be read.
    """
    named = mutants(patterns, tests_root)
    guaranteed = {(p.name, guarantee.id) for p in patterns for guarantee in p.guarantees}
    broken = {(mutant.pattern, mutant.guarantee) for mutant in named}
    folders = {pattern.name: pattern.path.parent for pattern in patterns}
    return [
        *(f'{name}: no mutant breaks "{id_}"' for name, id_ in sorted(guaranteed - broken)),
        *(
            f'{name}: a mutant breaks "{id_}", which is not a guarantee'
            for name, id_ in broken - guaranteed
        ),
        *(line for mutant in named for line in _faults(mutant, folders[mutant.pattern])),
    ]


def proving_tests(mutant: Mutant, tests_root: Path) -> tuple[str, ...]:
    """Return the node ids, relative to the tests, of the tests for what a mutant breaks."""
    node_ids = (
        f"{proof.file.relative_to(tests_root).as_posix()}::{proof.test}"
        for proof in proofs(tests_root)
        if (proof.kind, proof.pattern, proof.id) == ("guarantee", mutant.pattern, mutant.guarantee)
    )
    return tuple(dict.fromkeys(node_ids))


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy what the tests of patterns need, so that a pattern can be broken in the copy.

    Args:
        root: The checkout.
        folder: The folder for the copy, which is created.

    Returns:
        That folder.
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
    """Run tests of a copied checkout until the first failure.

    Args:
        copy: The copied checkout.
        tests: Files or node ids.
        runner: The task runner to run them on.
        seconds: The time limit.

    Returns:
        The completed pytest process with its output.

    Raises:
        subprocess.TimeoutExpired: If the tests take longer.
    """
    options = ("-x", "-q", "-n0", "-m", "not nightly", "--flow-runners", runner)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        # So that the plugin and subprocesses of tests use the copy, not the installed package.
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def _mutants_in(path: Path, pattern: Pattern) -> Iterator[Mutant]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise CatalogueError(f'{path}: "{name}" is not a table of strings')
        if (missing := [key for key in _NEEDED if key not in table]) or table.keys() - set(_KNOWN):
            fault = f"lacks {missing[0]}" if missing else f"may only have {', '.join(_KNOWN)}"
            raise CatalogueError(f'{path}: mutant "{name}" {fault}')
        fields: dict[str, Any] = {"file": pattern.path.name, **table}
        yield Mutant(name=name, pattern=pattern.name, **fields)


def _faults(mutant: Mutant, folder: Path) -> Iterator[str]:
    label = f'{mutant.pattern}: mutant "{mutant.name}"'
    try:
        changed = mutant.changed(folder)
    except CatalogueError as error:
        yield str(error)
        return
    if mutant.new == mutant.old:
        yield f"{label} changes nothing"
    if mutant.file.endswith(".py"):
        try:
            compile(changed, mutant.file, "exec")
        except SyntaxError as error:
            yield f"{label} is not Python: {error.msg}"
