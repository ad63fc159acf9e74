# SPDX-License-Identifier: Apache-2.0
"""The catalogue is read from its files, and its patterns are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue import catalogue
from flowgauge.catalogue.catalogue import (
    CatalogueError,
    catalogue_root,
    find_pattern,
    load_catalogue,
)

PATTERN = '''\
# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Retry a flaky call.

Problem:
    A service is down.

Guarantees:
    attempts: the call is tried at most four times.

Not for:
    Errors that stay.

Costs:
    Row `retries/backoff`.

Sources:
    - Prefect #14745
"""

import json


def main() -> None:
    print(json)


if __name__ == "__main__":
    main()
'''


def placed(root: Path, text: str = PATTERN, name: str = "retries/backoff") -> Path:
    """Write a pattern file into a catalogue, and return the catalogue."""
    file = root / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a catalogue of one pattern."""
    return placed(tmp_path / "patterns")


def test_private_and_hidden_files_are_not_patterns(root: Path) -> None:
    """Files whose own name or folder begins with an underscore or a dot are not read."""
    for name in ("retries/_shared", "retries/__init__", "_old/retries", ".hidden/x"):
        placed(root, "not a pattern", name)
    assert [pattern.name for pattern in load_catalogue(root)] == ["retries/backoff"]


def test_patterns_are_sorted_by_name(root: Path) -> None:
    """The catalogue lists its patterns sorted by name."""
    for name in ("tasks/b", "caching/c", "tasks/a"):
        placed(root, name=name)
    names = [pattern.name for pattern in load_catalogue(root)]
    assert names == ["caching/c", "retries/backoff", "tasks/a", "tasks/b"]


@pytest.mark.parametrize(
    "name", ["retires/backoff", "backoff", "retries/backoff.py", "patterns/retries/backoff"]
)
def test_the_right_name_is_suggested_for_a_misspelt_one(root: Path, name: str) -> None:
    """The error for a name that is nearly right suggests the right one."""
    placed(root, name="tasks/basics")
    with pytest.raises(CatalogueError, match='did you mean "retries/backoff"'):
        find_pattern(root, name)


def test_an_unknown_name_leads_to_the_list_of_names(root: Path) -> None:
    """The error for a name that resembles no pattern gives the command that lists them."""
    with pytest.raises(CatalogueError, match='no pattern "zzz": see "flowgauge list"'):
        find_pattern(root, "zzz")


def test_a_pattern_is_found_next_to_a_broken_one(root: Path) -> None:
    """One pattern can be read while another is broken."""
    placed(root, "", name="retries/broken")
    assert find_pattern(root, "retries/backoff").summary == "Retry a flaky call."


def test_the_catalogue_of_a_checkout_is_found_from_a_subfolder(root: Path) -> None:
    """The catalogue is the patterns/ next to the nearest pyproject.toml that has one."""
    (root.parent / "pyproject.toml").touch()
    below = root.parent / "tests" / "deep"
    below.mkdir(parents=True)
    (root.parent / "tests" / "pyproject.toml").touch()
    assert catalogue_root(below) == root


def test_an_installed_package_brings_its_own_catalogue(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package installed in a project that also has a patterns/ uses its own."""
    (root.parent / "pyproject.toml").touch()
    package = root.parent / ".venv" / "flowgauge"
    placed(package / "patterns")
    monkeypatch.setattr(catalogue, "__file__", str(package / "catalogue" / "catalogue.py"))
    assert catalogue_root() == (package / "patterns").resolve()


def test_a_missing_catalogue_is_reported(tmp_path: Path) -> None:
    """Where there is no catalogue, the error says where it was looked for."""
    with pytest.raises(CatalogueError, match="no patterns/ next to"):
        catalogue_root(tmp_path)
