# SPDX-License-Identifier: Apache-2.0
"""Leaves to longer runs what imports pandas and scikit-learn in new processes."""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = {"processes": "nightly", "dask-processes": "e2e"}
"""By task runners that start processes; a pool's are started anew for each flow run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder on task runners that start processes."""
    here = Path(__file__).parent
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        suite = SUITE.get(parameters.get("runner_name", ""))
        if item.path.parent == here and suite:
            item.add_marker(suite)
