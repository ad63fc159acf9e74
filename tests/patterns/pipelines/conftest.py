# SPDX-License-Identifier: Apache-2.0
"""Leaves to the end-to-end runs what imports pandas and scikit-learn in new processes."""

from __future__ import annotations

from pathlib import Path

import pytest

NEW_PROCESSES = {"processes", "dask-processes"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder `e2e` on task runners that start processes."""
    here = Path(__file__).parent
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if item.path.parent == here and parameters.get("runner_name") in NEW_PROCESSES:
            item.add_marker("e2e")
