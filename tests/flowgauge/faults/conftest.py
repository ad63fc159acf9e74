# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of faults: running tasks, and faults that are not checked at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from flowgauge.faults.engine import hooks
from flowgauge.faults.faults import Faults, wanted_faults
from flowgauge.faults.process import FaultProcess, faults_folder
from flowgauge.plugin.session import run_home
from flowgauge.runners.table import IN_OWN_PROCESSES


@dataclass(frozen=True)
class Outcome:
    """The outcome of a submitted task."""

    task: str
    run: UUID
    value: Any
    error: Exception | None


RunTasks = Callable[..., tuple[State[Any], list[Outcome]]]


@pytest.fixture(scope="module")
def run_tasks(task_runner: TaskRunner[Any]) -> RunTasks:
    """Return a function that submits tasks with one argument each.

    It returns the state of the flow run and the outcomes of the tasks.
    """

    def run(*calls: tuple[Task[..., Any], object]) -> tuple[State[Any], list[Outcome]]:
        outcomes: list[Outcome] = []

        @flow(task_runner=task_runner)
        def run_all() -> None:
            futures = [a_task.submit(argument) for a_task, argument in calls]
            for (a_task, _), future in zip(calls, futures, strict=True):
                value, error = None, None
                try:
                    value = future.result()
                except Exception as raised:
                    error = raised
                outcomes.append(Outcome(a_task.name, future.task_run_id, value, error))

        return run_all(return_state=True), outcomes

    return run


@contextlib.contextmanager
def unchecked(config: pytest.Config, api_url: str) -> Iterator[Faults]:
    """Yield faults that are not checked at the end."""
    home = run_home(config)
    with (
        hooks(FaultProcess(home, expendable=False, crash_on=IN_OWN_PROCESSES)),
        wanted_faults(faults_folder(home), 1, api_url) as faults,
    ):
        yield faults


@pytest.fixture
def unchecked_faults(prefect_server: str, pytestconfig: pytest.Config) -> Iterator[Faults]:
    """Yield faults that are not checked at the end of the test."""
    with unchecked(pytestconfig, prefect_server) as faults:
        yield faults
