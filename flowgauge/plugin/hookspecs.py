# SPDX-License-Identifier: Apache-2.0
"""The hooks that a project or another plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flowgauge.runners.table import Runner


@pytest.hookspec
def pytest_flowgauge_runners(config: pytest.Config) -> Iterable[Runner]:  # type: ignore[empty-body]
    """Return additional task runners; tests and benchmarks run on them as on the built-in ones.

    For example, in `conftest.py`::

        from flowgauge import BaselineKind, ExecutionModel, Runner
        from our_project import OurTaskRunner

        def pytest_flowgauge_runners():
            yield Runner(
                "ours",
                start=lambda runner, started: OurTaskRunner(max_workers=started.workers),
                execution=ExecutionModel(one_interpreter=True),
                baseline=BaselineKind.THREADS,
            )

    A runner with worker processes calls `started.prepare_worker` at the start of each, so that the
    virtual clock and faults reach them.

    Args:
        config: The configuration of the pytest run.

    Returns:
        The task runners to add.
    """
