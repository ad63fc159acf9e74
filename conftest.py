# SPDX-License-Identifier: Apache-2.0
"""Settings of this repository's own tests; the plugin is switched on in pyproject.toml."""

import signal

import pytest
from hypothesis import Phase, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In the background of a shell; Prefect's workers, which tests start, would ignore SIGINT, too,
    # and it is by that that they end.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A flow run takes as long as it takes. Shrinking would repeat one hundreds of times; the seed
# that Hypothesis prints repeats the example as it was found.
settings.register_profile(
    "flowgauge",
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    print_blob=True,
)
settings.load_profile("flowgauge")


WORKERS = 2


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run whole suites in two processes, but nothing that is timed and no file asked for alone."""
    timed = config.getoption("benchmark_only", False)
    return 0 if timed or config.getoption("file_or_dir") else WORKERS
