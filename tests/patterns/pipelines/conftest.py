# SPDX-License-Identifier: Apache-2.0
"""Defers tests that import pandas and scikit-learn in new processes to longer pytest runs."""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = {"processes": "nightly", "dask-processes": "e2e"}
"""The suite by task runner that starts processes; a pool starts new ones for each flow run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in this folder that use task runners which start processes."""
    here = Path(__file__).parent
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        suite = SUITE.get(parameters.get("runner_name", ""))
        if item.path.parent == here and suite:
            item.add_marker(suite)
