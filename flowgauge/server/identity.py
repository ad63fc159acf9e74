# SPDX-License-Identifier: Apache-2.0
"""The identity of the code that a zygote runs: this process can only use one with its own code."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path


@functools.cache
def code_identity() -> str:
    """Return a short name that changes with Python, installed packages and Flowgauge's code."""
    package = Path(__file__).parents[1]
    parts = (
        sys.executable,
        sys.version,
        version("prefect"),
        version("flowgauge"),
        sorted((str(p), p.stat().st_mtime_ns) for p in package.rglob("*.py")),
        # Its modification time changes when a package is installed, upgraded or removed.
        _site_packages().stat().st_mtime_ns,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _site_packages() -> Path:
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]
