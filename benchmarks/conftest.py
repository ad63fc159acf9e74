# SPDX-License-Identifier: Apache-2.0
"""What a quick run leaves out."""

from __future__ import annotations

import pytest

LONG_ROUNDS = 10
"""Rounds from which on a run is no quick one."""
ON_DASK_THREADS = ("test_feature_of_a_task", "test_cache")
"""Half a minute, on a task runner that few use."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most features on Dask's threads to a run with `--full` or with many rounds."""
    if config.getoption("benchmark_min_rounds") >= LONG_ROUNDS:
        return
    left_out = [item for item in items if _is_left_out(item)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _is_left_out(item: pytest.Item) -> bool:
    return (
        isinstance(item, pytest.Function)
        and item.originalname in ON_DASK_THREADS
        and item.callspec.params.get("runner_name") == "dask-threads"
    )
