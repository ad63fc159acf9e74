# SPDX-License-Identifier: Apache-2.0
"""Mutants are read, compared with the guarantees, and applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import CatalogueError, Pattern, load_catalogue
from flowgauge.catalogue.mutants import Mutant, mutant_mismatches, mutants, proving_tests
from tests.flowgauge.catalogue.test_headers import PATTERN, placed

MUTANTS = """\
[nothing-read]
guarantee = "attempts"
old = "print(json, path, yaml, flow)"
new = "print(path, yaml, flow)"

[other-end]
guarantee = "last-error2"
old = "asyncio.run(main())"
new = "main()"
runner = "processes"
"""


@pytest.fixture
def patterns(tmp_path: Path) -> tuple[Pattern, ...]:
    """Return the patterns of a catalogue that has one."""
    return load_catalogue(placed(tmp_path / "patterns"))


@pytest.fixture
def tests_root(tmp_path: Path) -> Path:
    """Return a folder of tests with the mutants of that pattern."""
    root = tmp_path / "tests"
    (root / "retries").mkdir(parents=True)
    (root / "retries" / "backoff.mutants.toml").write_text(MUTANTS)
    (root / "retries" / "test_backoff.py").write_text(
        '@pytest.mark.guarantee("retries/backoff", "attempts")\ndef test_a(): ...\n'
        '@pytest.mark.fact("retries/backoff", "attempts")\ndef test_b(): ...\n'
        '@pytest.mark.guarantee("retries/backoff", "last-error2")\ndef test_c(): ...\n'
    )
    return root


def changed(tests_root: Path, old: str, new: str) -> None:
    """Replace a text in the file of mutants."""
    file = tests_root / "retries" / "backoff.mutants.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_mutants_are_read(patterns: tuple[Pattern, ...], tests_root: Path) -> None:
    """A mutant has a name, a guarantee, a change and a file, and a task runner if it names one."""
    one, other = mutants(patterns, tests_root)
    assert one == Mutant(
        name="nothing-read",
        pattern="retries/backoff",
        guarantee="attempts",
        old="print(json, path, yaml, flow)",
        new="print(path, yaml, flow)",
        file="backoff.py",
    )
    assert (one.runner, other.runner) == ("", "processes")
    assert mutant_mismatches(patterns, tests_root) == []


def test_the_proving_tests_of_a_mutant_are_those_of_its_guarantee(
    patterns: tuple[Pattern, ...], tests_root: Path
) -> None:
    """A mutant has to fail the tests of its own guarantee, not those of a fact with the same id."""
    one, other = mutants(patterns, tests_root)
    assert proving_tests(one, tests_root) == ("retries/test_backoff.py::test_a",)
    assert proving_tests(other, tests_root) == ("retries/test_backoff.py::test_c",)


def test_a_mutant_changes_one_place(patterns: tuple[Pattern, ...], tests_root: Path) -> None:
    """A mutant replaces its old text with its new one; applying it a second time is an error."""
    one, _ = mutants(patterns, tests_root)
    (pattern,) = patterns
    one.apply(pattern.path.parent)
    assert pattern.path.read_text() == PATTERN.replace("print(json, ", "print(")
    with pytest.raises(CatalogueError, match=r"its old text occurs in backoff\.py 0 times"):
        one.apply(pattern.path.parent)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"last-error2"', '"attempts"', 'no mutant breaks "last-error2"'),
        ('"last-error2"', '"unheard"', 'a mutant breaks "unheard", which is not a guarantee'),
        ("print(path,", "print(json, path,", 'mutant "nothing-read" changes nothing'),
        ('new = "main()"', 'new = "main("', 'mutant "other-end" is not Python'),
        ('old = "asyncio.run(main())"', 'old = "asyncio"', "occurs in backoff.py 2 times"),
        ('runner = "processes"', 'file = "other.yaml"', "occurs in other.yaml 0 times"),
    ],
)
def test_a_missing_or_useless_mutant_is_reported(
    patterns: tuple[Pattern, ...], tests_root: Path, old: str, new: str, fault: str
) -> None:
    """A guarantee without a mutant is reported, as is a mutant that can't break a guarantee."""
    changed(tests_root, old, new)
    found = mutant_mismatches(patterns, tests_root)
    assert any(fault in line for line in found), found
    assert all(line.startswith("retries/backoff: ") for line in found)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('new = "main()"\n', "", 'mutant "other-end" lacks new'),
        ("runner =", "on =", 'mutant "other-end" may only have guarantee, old, new, file, runner'),
        ('guarantee = "attempts"', "guarantee = 3", '"nothing-read" is not a table of strings'),
        ("[other-end]", "[other-end", r"backoff\.mutants\.toml: "),
    ],
)
def test_a_file_of_mutants_that_cannot_be_read_is_reported(
    patterns: tuple[Pattern, ...], tests_root: Path, old: str, new: str, fault: str
) -> None:
    """Mutants that can't be read are an error that names the mutant, or the file if not TOML."""
    changed(tests_root, old, new)
    with pytest.raises(CatalogueError, match=fault):
        mutants(patterns, tests_root)


def test_mutants_without_a_pattern_are_reported(
    patterns: tuple[Pattern, ...], tests_root: Path
) -> None:
    """A file of mutants that is not named after a pattern is an error."""
    (tests_root / "retries" / "other.mutants.toml").write_text(MUTANTS)
    with pytest.raises(CatalogueError, match=r"other\.mutants\.toml: mutants of no pattern"):
        mutants(patterns, tests_root)
