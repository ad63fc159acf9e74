# SPDX-License-Identifier: Apache-2.0
"""Settings for this repository's own tests; pyproject.toml enables the plugin."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from flowgauge.plugin.session import RUNS_NOTHING

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored. Prefect's workers, which tests start,
    # would inherit that, and SIGINT is what stops them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The options of this pytest run must not apply to the pytest runs that tests start.
os.environ.pop("PYTEST_ADDOPTS", None)

# Prefect's temporary server, which a client without a server starts, gives up after 20 seconds; on
# a busy machine it takes longer.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")

# No deadline, because flow runs vary in duration. No shrinking, which would repeat a flow run
# hundreds of times. Everybody's runs draw the same examples, and no run stores one for the next.
settings.register_profile(
    "flowgauge",
    deadline=None,
    # 100 in the nightly profile.
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
    """Run whole suites in two processes, but not benchmarks and not selected files."""
    # With --help, pytest has not parsed the other options yet.
    in_one_process = ("benchmark_only", "file_or_dir", *RUNS_NOTHING)
    return 0 if any(config.getoption(name, None) for name in in_one_process) else WORKERS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect no tests with --benchmark-only."""
    if config.getoption("file_or_dir", None) or not config.getoption("benchmark_only", False):
        return None
    return collection_path.is_relative_to(config.rootpath / "tests") or None
