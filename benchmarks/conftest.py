# SPDX-License-Identifier: Apache-2.0
"""What a quick run leaves out."""

from __future__ import annotations

import pytest

LONG_ROUNDS = 10
"""Rounds from which on a run is no quick one."""
LEFT_OUT = {
    "dask-threads": ("test_feature_of_a_task", "test_cache", "test_map", "test_subflow"),
    "dask-processes": ("test_patterns.py",),
}
"""A minute of tests or files: on a runner that few use, and of patterns where all cost alike."""
KEPT = "test_shared_dask_cluster"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to a run with `--full` or with many rounds what takes long on Dask."""
    if config.getoption("benchmark_min_rounds") >= LONG_ROUNDS:
        return
    left_out = [item for item in items if _is_left_out(item)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.originalname == KEPT:
        return False
    runner = getattr(item, "callspec", None) and item.callspec.params.get("runner_name")
    return bool({item.originalname, item.path.name} & {*LEFT_OUT.get(str(runner), ())})
