# SPDX-License-Identifier: Apache-2.0
"""The releases of Prefect that this was tested with: the one place that says so."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet
from packaging.version import Version

TESTED_PREFECT = SpecifierSet(">=3.8,<3.10")
"""Both ends are run: `.ci/run` has the newest release, nightly runs the oldest as well."""


def installed_prefect() -> Version:
    """Return the version of the Prefect that is installed."""
    return Version(importlib.metadata.version("prefect"))


def is_tested(version: Version) -> bool:
    """Say whether a release is in the tested range."""
    return TESTED_PREFECT.contains(version, prereleases=True)
