# SPDX-License-Identifier: Apache-2.0
"""What a quick run leaves out, and how little is run where nothing is measured."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flowgauge.plugin.session import measures
from flowgauge.runners.table import RUNNERS, Runner

FOLDER = Path(__file__).parent
LONG_ROUNDS = 10
"""Rounds from which on a run is no quick one."""
SLOW = ("test_deployments.py", "test_harness.py")
"""Files whose services look for work every ten seconds, or that run pytest within this run."""
LONG = ("test_fan_out", "test_processor_time", "test_memory", "test_chunked_map")
"""Tests of thousands of tasks or of many flow runs."""
PREDICTION = "test_prediction.py"
"""Needs figures of its own before it predicts."""
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
"""What differs on a lean runner as `map` does."""
OF_FEW = (
    "test_feature_of_a_task",
    "test_cache",
    "test_map",
    "test_subflow",
    "test_first_task",
    "test_metg",
)
"""On runners that few use."""
ONE_AT_A_TIME = ("test_metg",)
"""It never keeps half of two workers busy."""
ALIKE = ("test_patterns.py",)
"""Patterns cost alike on each runner: a stock cluster is left out, which takes longest."""
KEPT = "test_shared_dask_cluster"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes long to a run that asks for it: by name, with `--flow-full` or many rounds.

    A run that measures nothing shows of each file that it works, with one test; the others are
    for the night.
    """
    if config.getoption("keyword") or any(".py" in name for name in config.option.file_or_dir):
        return
    benchmarks = [item for item in items if item.path.is_relative_to(FOLDER)]
    if not measures(config):
        quick = [item for item in benchmarks if item.path.name not in (*SLOW, PREDICTION)]
        shown = [next(each) for _, each in itertools.groupby(quick, lambda item: item.path)]
        for item in benchmarks:
            if item not in shown:
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
