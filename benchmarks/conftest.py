# SPDX-License-Identifier: Apache-2.0
"""Selects the benchmarks of a quick run, and of a pytest run that measures nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flowgauge.plugin.session import measures
from flowgauge.runners.table import RUNNERS, Runner

FOLDER = Path(__file__).parent
LONG_ROUNDS = 10
"""The number of rounds from which on a run is not a quick one."""
SLOW = ("test_deployments.py", "test_harness.py")
"""Files whose services poll for work every ten seconds, or that run pytest in a subprocess."""
LONG = ("test_fan_out", "test_processor_time", "test_memory", "test_chunked_map")
"""Tests with thousands of tasks or many flow runs."""
PREDICTION = "test_prediction.py"
"""The file that must measure other workflows before it can predict any."""
AS_STOCK = (
    "test_flow",
    "test_submit",
    "test_subflow",
    "test_feature_of_a_task",
    "test_cache",
    "test_noise",
    "test_first_task",
    "test_metg",
)
"""Tests left out on lean runners, where what they measure differs as `map` does."""
OF_FEW = (
    "test_feature_of_a_task",
    "test_cache",
    "test_map",
    "test_subflow",
    "test_first_task",
    "test_metg",
)
"""Tests left out on runners that are rarely used."""
ONE_AT_A_TIME = ("test_metg",)
"""Tests left out on a runner that runs one task at a time and so never reaches the target."""
ALIKE = ("test_patterns.py",)
"""Files left out on a stock cluster, which takes longest: patterns cost alike on each runner."""
KEPT = "test_shared_dask_cluster"
"""The test that is never left out."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow benchmarks, unless they are named, with `--flow-full` or with many rounds.

    In a pytest run that measures nothing, one test of each file shows that it works; the others
    are marked as nightly.
    """
    if config.getoption("keyword") or any(".py" in name for name in config.option.file_or_dir):
        return
    benchmarks = [item for item in items if item.path.is_relative_to(FOLDER)]
    if not measures(config):
        quick = [item for item in benchmarks if item.path.name not in (*SLOW, PREDICTION)]
        by_file = itertools.groupby(quick, lambda item: item.path)
        first_of_each = [next(of_file) for _, of_file in by_file]
        for item in benchmarks:
            if item not in first_of_each:
                item.add_marker(pytest.mark.nightly)
    elif config.getoption("benchmark_min_rounds") < LONG_ROUNDS:
        left_out = [item for item in benchmarks if _is_left_out(item)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.originalname == KEPT:
        return False
    name = item.callspec.params.get("runner_name") if hasattr(item, "callspec") else None
    left_out = (*SLOW, *LONG, *(_left_out_on(RUNNERS[str(name)]) if name in RUNNERS else ()))
    return item.originalname in left_out or item.path.name in left_out


def _left_out_on(runner: Runner) -> tuple[str, ...]:
    if runner.lean:
        return AS_STOCK
    if not runner.common:
        return OF_FEW
    if runner.execution.inline:
        return ONE_AT_A_TIME
    return ALIKE if runner.cluster else ()
