# SPDX-License-Identifier: Apache-2.0
"""Which releases of Prefect were tested is said in one place, and meant everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from flowgauge.catalogue.catalogue import catalogue_root, load_catalogue
from flowgauge.compat.tested_prefect import (
    PROVED_WITH,
    TESTED_PREFECT,
    installed_prefect,
    is_tested,
)

ROOT = catalogue_root(Path(__file__).parent).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TESTED = ",".join(sorted(map(str, TESTED_PREFECT), reverse=True))
MINORS = [".".join(version.split(".")[:2]) for version in PROVED_WITH]


def test_the_installed_prefect_is_one_that_was_tested() -> None:
    """What these tests run with is in the range that they are said to have run with."""
    assert is_tested(installed_prefect())


def test_the_tested_range_is_that_of_the_releases() -> None:
    """The range begins with the oldest release, and what comes after the newest is outside."""
    oldest, newest = Version(PROVED_WITH[0]), Version(PROVED_WITH[-1])
    assert str(TESTED_PREFECT) == f"<{newest.major}.{newest.minor + 1},>={MINORS[0]}"
    assert all(TESTED_PREFECT.contains(version) for version in (oldest, newest))
    assert len(set(MINORS)) == len(MINORS)


def test_the_newest_release_is_pinned_and_the_oldest_runs_at_night() -> None:
    """CI runs with the newest of the releases that copies name, nightly with the oldest."""
    pins = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert f"prefect=={PROVED_WITH[-1]}" in pins
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert f'"=={PROVED_WITH[0]}"' in nightly


def test_every_pattern_takes_the_prefect_that_the_project_takes() -> None:
    """The bounds of a header are those of the project, which begin with the tested range."""
    (ours,) = (d for d in PROJECT["project"]["dependencies"] if Requirement(d).name == "prefect")
    assert f">={MINORS[0]}" in ours
    for pattern in load_catalogue(ROOT / "patterns"):
        taken = [d for d in pattern.dependencies if Requirement(d).name == "prefect"]
        # One needs no Prefect. Two stand on what Prefect may change with each minor version.
        assert taken in ([], [ours], [f"prefect{TESTED}"]), pattern.name


def test_the_readme_names_the_tested_versions() -> None:
    """Whoever reads the README knows with which versions the claims hold."""
    named = re.findall(r"Prefect ((?:3\.\d+(?:, | and )?)+)", (ROOT / "README.md").read_text())
    assert " and ".join(MINORS) in named


def test_no_fact_is_of_a_version_that_was_not_tested() -> None:
    """A header states what Prefect does in versions that the tests are run with."""
    for pattern in load_catalogue(ROOT / "patterns"):
        for fact in pattern.facts:
            assert set(fact.versions) <= set(MINORS), f"{pattern.name} {fact.id}"
