# SPDX-License-Identifier: Apache-2.0
"""The releases of Prefect that this was tested with: the one place that says so."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet
from packaging.version import Version

PROVED_WITH = ("3.8.8", "3.9.1")
"""A release of each minor version: `.ci/run` has the newest, nightly runs the others as well."""

_OLDEST, _NEWEST = Version(PROVED_WITH[0]), Version(PROVED_WITH[-1])
TESTED_PREFECT = SpecifierSet(
    f">={_OLDEST.major}.{_OLDEST.minor},<{_NEWEST.major}.{_NEWEST.minor + 1}"
)
"""All releases of those minor versions."""


def installed_prefect() -> Version:
    """Return the version of the Prefect that is installed."""
    return Version(importlib.metadata.version("prefect"))


def is_tested(version: Version) -> bool:
    """Say whether a release is in the tested range."""
    return TESTED_PREFECT.contains(version, prereleases=True)
