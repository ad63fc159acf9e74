# SPDX-License-Identifier: Apache-2.0
"""The cost of each feature of Prefect on each task runner, in steady state.

All but `flow` run inside one flow run, so that its start and the start of its workers are not
included; `benchmarks/test_startup.py` measures those.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.runtime import task_run
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.measure.host import inside_flow
from flowgauge.plugin.paired import Paired
from flowgauge.results.rows import Group
from flowgauge.runners.table import INLINE, RUNNERS

PER_TASK: dict[str, Any] = {"group": Group.FEATURES, "figure": "time per task run"}
PLAIN_SUBMIT = "submit of a plain task"
TASKS = 4
FEW_TASKS = 2
"""The number of task runs in a round on runners where one takes up to a tenth of a second."""

# On a lean runner these differ as `map` does.
full_on_lean = pytest.mark.full(on=lambda runner: runner.lean)
full_on_lean_and_rare = pytest.mark.full(on=lambda runner: runner.lean or not runner.common)


def tasks_of_a_round(runner_name: str) -> int:
    """Return the number of task runs in a round on a task runner."""
    runner = RUNNERS[runner_name]
    return TASKS if runner.in_process and not runner.cluster else FEW_TASKS


def add_one(number: int) -> int:
    """Return the next number: no work, so that only the cost of Prefect's engine is measured."""
    return number + 1


plain = task(add_one)
cached = plain.with_options(cache_policy=INPUTS, persist_result=True)
persisted = plain.with_options(cache_policy=NO_CACHE, persist_result=True)


@task(retries=1)
def retried(number: int) -> int:
    """Fail at the first attempt."""
    if task_run.get_run_count() == 1:
        raise ConnectionError
    return number + 1


@flow
def flow_of_nothing(number: int) -> int:
    """Return the next number from a flow that runs no task."""
    return number + 1


def submitted(prefect_task: Any, numbers: range) -> list[int]:
    """Submit a task for each number and return the results."""
    return [future.result() for future in [prefect_task.submit(number) for number in numbers]]


@full_on_lean
def test_flow(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The cost of a flow run that does nothing."""
    prefect_flow = flow_of_nothing.with_options(task_runner=task_runner)
    paired(
        lambda: prefect_flow(1),
        lambda: add_one(1),
        check=lambda answer: answer == 2,
        id="flow",
        group=Group.FEATURES,
        figure="time per flow run",
        runner=runner_name,
        against="plain function call",
    )


@pytest.mark.runners(*INLINE)
def test_task_call(paired: Paired, task_runner: TaskRunner[Any]) -> None:
    """The cost of calling a task directly, without a task runner."""
    numbers = range(paired.size(TASKS))
    inside_flow(
        task_runner,
        lambda: paired(
            lambda: [plain(number) for number in numbers],
            lambda: [add_one(number) for number in numbers],
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id="task-call",
            **PER_TASK,
            against="plain function call",
        ),
    )


@full_on_lean
def test_submit(
    paired: Paired, task_runner: TaskRunner[Any], runner_name: str, baseline: Baseline
) -> None:
    """The cost of submitting a task and waiting for its result."""
    numbers = range(paired.size(tasks_of_a_round(runner_name)))
    inside_flow(
        task_runner,
        lambda: paired(
            lambda: submitted(plain, numbers),
            lambda: baseline.map(add_one, numbers),
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id="submit",
            **PER_TASK,
            runner=runner_name,
            against=baseline.name,
        ),
    )


@pytest.mark.full(on=lambda runner: not runner.common)
def test_map(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The cost of `map` relative to the same number of submits."""
    numbers = range(paired.size(tasks_of_a_round(runner_name)))
    inside_flow(
        task_runner,
        lambda: paired(
            lambda: plain.map(numbers).result(),
            lambda: submitted(plain, numbers),
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id="map",
            **PER_TASK,
            runner=runner_name,
            against=PLAIN_SUBMIT,
        ),
    )


@full_on_lean_and_rare
def test_subflow(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The cost of calling a flow inside a flow."""
    subflow = flow_of_nothing.with_options(task_runner=task_runner)
    inside_flow(
        task_runner,
        lambda: paired(
            lambda: subflow(1),
            lambda: add_one(1),
            check=lambda answer: answer == 2,
            id="subflow",
            group=Group.FEATURES,
            figure="time per subflow run",
            runner=runner_name,
            against="plain function call",
        ),
    )


@full_on_lean_and_rare
@pytest.mark.parametrize(
    ("id", "tested"),
    [("retry", retried), ("persisted-result", persisted)],
    ids=["retry", "persist"],
)
def test_feature_of_a_task(
    paired: Paired, task_runner: TaskRunner[Any], runner_name: str, id: str, tested: Any
) -> None:
    """What one failed attempt and its retry, or a persisted result, adds to a submitted task."""
    numbers = range(paired.size(tasks_of_a_round(runner_name)))
    inside_flow(
        task_runner,
        lambda: paired(
            lambda: submitted(tested, numbers),
            lambda: submitted(plain, numbers),
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id=id,
            **PER_TASK,
            runner=runner_name,
            against=PLAIN_SUBMIT,
        ),
    )


@full_on_lean_and_rare
@pytest.mark.parametrize("id", ["cache-miss", "cache-hit"])
def test_cache(paired: Paired, task_runner: TaskRunner[Any], runner_name: str, id: str) -> None:
    """What looking up a cached result adds, for a cache miss and for a cache hit."""
    size = paired.size(tasks_of_a_round(runner_name))
    # Numbers that are used by no other benchmark and on no other runner.
    first = hash((runner_name, id)) & 0xFFFFFFFF
    fresh = itertools.count(first, size)

    def numbers() -> range:
        start = next(fresh) if id == "cache-miss" else first
        return range(start, start + size)

    def differences(prefect_task: Any, numbers: range) -> list[int]:
        results = submitted(prefect_task, numbers)
        return [result - number for result, number in zip(results, numbers, strict=True)]

    def measure() -> None:
        if id == "cache-hit":
            submitted(cached, range(first, first + size))
        paired(
            lambda: differences(cached, numbers()),
            lambda: differences(plain, numbers()),
            check=lambda answer: answer == [1] * size,
            per=size,
            id=id,
            **PER_TASK,
            runner=runner_name,
            against=PLAIN_SUBMIT,
        )

    inside_flow(task_runner, measure)


@full_on_lean
def test_noise(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The noise: the same submits compared with themselves."""
    numbers = range(paired.size(tasks_of_a_round(runner_name)))
    inside_flow(
        task_runner,
        lambda: paired.against_itself(
            lambda: submitted(plain, numbers),
            of=Group.FEATURES,
            check=lambda answer: answer == [number + 1 for number in numbers],
            per=len(numbers),
            id="submit",
            figure="time per task run",
            runner=runner_name,
        ),
    )
