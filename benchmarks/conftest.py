# SPDX-License-Identifier: Apache-2.0
"""Selects the benchmarks of a quick run, and of a pytest run that measures nothing.

The mark `full` leaves a benchmark out of a quick run; `full(on=…)` does so on the task runners for
which the condition holds.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flowgauge.plugin.session import measures
from flowgauge.runners.table import RUNNERS

FOLDER = Path(__file__).parent
LONG_ROUNDS = 10
"""The number of rounds from which on a run is not a quick one."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", "full(*, on=None): not measured in a quick run")


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
        for _, of_file in itertools.groupby(benchmarks, lambda item: item.path):
            tests = list(of_file)
            shows = next((test for test in tests if not _is_full_everywhere(test)), None)
            for test in tests:
                if test is not shows:
                    test.add_marker(pytest.mark.nightly)
    elif config.getoption("benchmark_min_rounds") < LONG_ROUNDS:
        left_out = [item for item in benchmarks if _is_full(item)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _is_full(item: pytest.Item) -> bool:
    """Return whether a benchmark is left out of a quick run."""
    mark = item.get_closest_marker("full")
    if mark is None or "on" not in mark.kwargs:
        return mark is not None
    assert isinstance(item, pytest.Function)
    params = item.callspec.params if hasattr(item, "callspec") else {}
    runner = RUNNERS.get(str(params.get("runner_name")))
    return runner is not None and bool(mark.kwargs["on"](runner))


def _is_full_everywhere(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("full")
    return mark is not None and "on" not in mark.kwargs
