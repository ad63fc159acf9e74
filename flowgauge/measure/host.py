# SPDX-License-Identifier: Apache-2.0
"""A flow that benchmarks run inside, so that a round times task runs but not their flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect import flow

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

_bodies: list[Callable[[], Any]] = []


def _run_body() -> Any:
    """Run the body that `inside_flow` registered.

    Process pools and Dask pickle the flow, its parameters and the globals it names, but functions
    only by name. So the body, which refers to pools, is not pickled.
    """
    return _bodies[-1]()


@flow
def measurement() -> Any:
    """Run the registered body."""
    return _run_body()


def inside_flow(
    task_runner: TaskRunner[Any], body: Callable[[], Any], name: str | None = None
) -> None:
    """Run a function as the body of a flow.

    Args:
        task_runner: The flow's task runner; its workers are started and stopped with the flow.
        body: Any function; it stays in this process.
        name: The name of the flow run; None for one that Prefect makes up.
    """
    _bodies.append(body)
    try:
        measurement.with_options(task_runner=task_runner, flow_run_name=name)()
    finally:
        _bodies.pop()
