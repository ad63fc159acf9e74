# SPDX-License-Identifier: Apache-2.0
"""What a quick run leaves out."""

from __future__ import annotations

import pytest

LONG_ROUNDS = 8
"""Rounds from which on a run is no quick one."""
_ALIKE = (
    "test_flow",
    "test_submit",
    "test_subflow",
    "test_feature_of_a_task",
    "test_cache",
    "test_noise",
    "test_first_task",
    "test_metg",
)
LEFT_OUT: dict[str | None, tuple[str, ...]] = {
    None: ("test_deployments.py",),
    "sequential": ("test_metg",),
    "dask-threads": (
        "test_feature_of_a_task",
        "test_cache",
        "test_map",
        "test_subflow",
        "test_first_task",
    ),
    "dask-processes": ("test_patterns.py", "test_cache"),
    "lean-dask": _ALIKE,
    "lean-processes": _ALIKE,
}
"""Three minutes of tests or files, by runner: what few use, what is known ("one task at a time
never keeps half of two workers busy"), patterns where all cost alike, and deployed runs, whose
services look every ten seconds."""
KEPT = "test_shared_dask_cluster"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to a run with `--full` or with many rounds what takes long."""
    if config.getoption("benchmark_min_rounds") >= LONG_ROUNDS:
        return
    left_out = [item for item in items if _is_left_out(item)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.originalname == KEPT:
        return False
    runner = item.callspec.params.get("runner_name") if hasattr(item, "callspec") else None
    left_out = LEFT_OUT.get(str(runner) if runner else None, ())
    return bool({item.originalname, item.path.name} & {*left_out})
