# SPDX-License-Identifier: Apache-2.0
"""The releases of Prefect that Flowgauge is tested with: the single place that lists them."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet
from packaging.version import Version

PROVED_WITH = ("3.8.8", "3.9.1")
"""One release of each minor version: `.ci/run` tests the newest, nightly runs the others too."""

_OLDEST, _NEWEST = Version(PROVED_WITH[0]), Version(PROVED_WITH[-1])
TESTED_PREFECT = SpecifierSet(
    f">={_OLDEST.major}.{_OLDEST.minor},<{_NEWEST.major}.{_NEWEST.minor + 1}"
)
"""All releases of those minor versions."""


def installed_prefect() -> Version:
    """Return the version of the installed Prefect."""
    return Version(importlib.metadata.version("prefect"))


def is_tested(version: Version) -> bool:
    """Return whether a release is in the tested range."""
    return TESTED_PREFECT.contains(version, prereleases=True)
