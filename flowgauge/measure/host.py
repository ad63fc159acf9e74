# SPDX-License-Identifier: Apache-2.0
"""A flow to measure in, so that a round pays for task runs and not for their flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect import flow

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

_bodies: list[Callable[[], Any]] = []


def _run_body() -> Any:
    """Run what `inside_flow` left.

    Process pools and Dask pickle the flow, its parameters and the globals it names, but a
    function only by its name: that keeps the body, which holds pools, in this process.
    """
    return _bodies[-1]()


@flow
def measurement() -> Any:
    """Run the body."""
    return _run_body()


def inside_flow(
    task_runner: TaskRunner[Any], body: Callable[[], Any], name: str | None = None
) -> None:
    """Run a function as the body of a flow.

    Args:
        task_runner: What its tasks run on; its workers are started and stopped with the flow.
        body: Any function; it stays in this process.
        name: Of the flow run; None for one that Prefect makes up.
    """
    _bodies.append(body)
    try:
        measurement.with_options(task_runner=task_runner, flow_run_name=name)()
    finally:
        _bodies.pop()
