# SPDX-License-Identifier: Apache-2.0
"""Settings of this repository's own tests; the plugin is switched on in pyproject.toml."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from flowgauge.plugin.session import RUNS_NOTHING

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In the background of a shell; Prefect's workers, which tests start, would ignore SIGINT, too,
    # and it is by that that they end.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What this run was asked for is nothing to the runs of pytest that tests start.
os.environ.pop("PYTEST_ADDOPTS", None)

# A flow run takes as long as it takes. Shrinking would repeat one hundreds of times. Everybody's
# runs draw the same, and none keeps an example that the next would begin with.
settings.register_profile(
    "flowgauge",
    deadline=None,
    # A hundred at night.
    max_examples=40,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    print_blob=True,
)
settings.register_profile(
    "nightly", settings.get_profile("flowgauge"), max_examples=100, derandomize=False
)
settings.load_profile("flowgauge")


WORKERS = 2


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run whole suites in two processes, but nothing that is timed and no file asked for alone."""
    # Where pytest is asked for its help, it has no arguments yet.
    alone = ("benchmark_only", "file_or_dir", *RUNS_NOTHING)
    return 0 if any(config.getoption(name, None) for name in alone) else WORKERS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no tests where benchmarks alone are asked for."""
    if config.getoption("file_or_dir", None) or not config.getoption("benchmark_only", False):
        return None
    return collection_path.is_relative_to(config.rootpath / "tests") or None
