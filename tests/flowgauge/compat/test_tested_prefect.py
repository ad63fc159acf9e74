# SPDX-License-Identifier: Apache-2.0
"""The tested releases of Prefect are listed in one place, and everything else agrees with it."""

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
    """The release that these tests run with is in the range that is called tested."""
    assert is_tested(installed_prefect())


def test_the_tested_range_is_that_of_the_releases() -> None:
    """The range begins with the oldest release's minor version and ends with the newest's."""
    oldest, newest = Version(PROVED_WITH[0]), Version(PROVED_WITH[-1])
    assert str(TESTED_PREFECT) == f"<{newest.major}.{newest.minor + 1},>={MINORS[0]}"
    assert all(TESTED_PREFECT.contains(version) for version in (oldest, newest))
    assert len(set(MINORS)) == len(MINORS)


def test_the_newest_release_is_pinned_and_the_oldest_runs_nightly() -> None:
    """The newest release named in copies is pinned for CI; the nightly workflow uses the oldest."""
    pins = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert f"prefect=={PROVED_WITH[-1]}" in pins
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert f'"=={PROVED_WITH[0]}"' in nightly


def test_every_pattern_requires_the_prefect_that_the_project_requires() -> None:
    """A header has the project's bounds, which start at the oldest tested, or the tested range."""
    (ours,) = (d for d in PROJECT["project"]["dependencies"] if Requirement(d).name == "prefect")
    assert f">={MINORS[0]}" in ours
    for pattern in load_catalogue(ROOT / "patterns"):
        taken = [d for d in pattern.dependencies if Requirement(d).name == "prefect"]
        # One needs no Prefect. Two rely on what Prefect may change with each minor version.
        assert taken in ([], [ours], [f"prefect{TESTED}"]), pattern.name


def test_the_readme_names_the_tested_versions() -> None:
    """The README names every tested minor version of Prefect."""
    named = re.findall(r"Prefect ((?:3\.\d+(?:, | and )?)+)", (ROOT / "README.md").read_text())
    assert " and ".join(MINORS) in named


def test_no_fact_is_about_an_untested_version() -> None:
    """A header states what Prefect does only for versions that the tests run with."""
    for pattern in load_catalogue(ROOT / "patterns"):
        for fact in pattern.facts:
            assert set(fact.versions) <= set(MINORS), f"{pattern.name} {fact.id}"
