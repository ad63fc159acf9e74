# SPDX-License-Identifier: Apache-2.0
"""Task runners, drawn from those of the pytest run."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowgauge.faults.checks import refuse
from flowgauge.runners.chosen import of_this_run
from flowgauge.runners.starts import RunnerError


def runner_names(*names: str) -> SearchStrategy[str]:
    """Draw names of the task runners that the pytest run tests.

    The fixture `started_runners` makes a task runner of a name:
    `flow.with_options(task_runner=started_runners.task_runner(name))`.

    Args:
        *names: Only some of these, as in the mark `runners`; lean ones must be named.

    Returns:
        A strategy for names. If `--flow-runners` excludes them all, the test is skipped.
    """

    def of_the_run() -> SearchStrategy[str]:
        try:
            available = of_this_run(names or None)
        except RunnerError as error:
            refuse(
                str(error).replace("mark runners", f"runner_names({', '.join(map(repr, names))})")
            )
        if not available:
            pytest.skip("--flow-runners excludes all task runners of this test")
        return st.sampled_from(available)

    # When the test is defined, the options of the run may be unknown.
    return st.deferred(of_the_run)
