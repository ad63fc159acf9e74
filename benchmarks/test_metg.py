# SPDX-License-Identifier: Apache-2.0
"""Minimum effective task granularity (METG; Task Bench, SC'20) of each task runner.

It says how long tasks must be for a task runner to keep the machine busy.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.measure.granularity import MetgCase
from flowgauge.measure.graph_flow import Submit, perform_task
from flowgauge.plugin.metg_benchmark import MetgBenchmark
from flowgauge.runners.table import RUNNERS, STOCK, BaselineKind, names_where
from flowgauge.workflows.work_items import TaskResult, TaskSpec, perform
from flowgauge.workflows.workflow import Kernel

EDGES = ("stencil", "tree")
MORE_PROBES = 4
"""Amounts of work to try on baselines with hardly any overhead, whose runs are quick."""
in_one_interpreter = pytest.mark.runners(*(name for name in STOCK if RUNNERS[name].in_process))


@task(cache_policy=NO_CACHE)
def logging_task(spec: TaskSpec, inputs: list[TaskResult]) -> TaskResult:
    """Do one task of a workflow, and write a line to the run's log."""
    get_run_logger().log(logging.INFO, "doing %s", spec.id)
    return perform(spec, inputs)


def never_the_same(context: Any, parameters: dict[str, Any]) -> str:
    """Return a cache key that has never been used."""
    return uuid.uuid4().hex


FEATURES: dict[str, Submit] = {
    "retries": perform_task.with_options(retries=3, retry_delay_seconds=10).submit,
    "caching": perform_task.with_options(cache_key_fn=never_the_same, persist_result=True).submit,
    "persistence": perform_task.with_options(persist_result=True).submit,
    "logging": logging_task.submit,
    "tags": perform_task.with_options(tags=["red", "green", "blue"]).submit,
    "1 MB results": perform_task.submit,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Measure edges and features only in a full run."""
    full = metafunc.config.getoption("flow_full")
    values: dict[str, Iterable[str]] = {"edges": EDGES, "feature": FEATURES}
    for name in metafunc.fixturenames:
        if name in values:
            metafunc.parametrize(name, values[name] if full else ())


# One task at a time never keeps half of two workers busy.
@pytest.mark.full(on=lambda r: r.lean or not r.common or r.execution.inline)
def test_metg(metg: MetgBenchmark, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The length from which on independent tasks keep the machine busy."""
    metg.flow(MetgCase(runner_name, "native", "trivial"), task_runner)


@pytest.mark.full
@pytest.mark.runners(*names_where(lambda r: r.common and not r.execution.inline))
def test_metg_of_waiting(
    metg: MetgBenchmark, task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """The same for tasks that wait, whose workers leave the processors to what runs them."""
    metg.flow(MetgCase(runner_name, "wait", "trivial"), task_runner)


@pytest.mark.full
@in_one_interpreter
def test_metg_of_pure_python(
    metg: MetgBenchmark, task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """The same for tasks in pure Python, of which an interpreter runs one at a time.

    On workers with interpreters of their own they are as good as native ones.
    """
    metg.flow(MetgCase(runner_name, "python", "trivial"), task_runner)


@pytest.mark.runners(*STOCK)
def test_metg_with_edges(
    metg: MetgBenchmark, task_runner: TaskRunner[Any], runner_name: str, edges: str
) -> None:
    """The same for tasks that need the results of others."""
    metg.flow(MetgCase(runner_name, "native", edges), task_runner)


@pytest.mark.full
@pytest.mark.runners(*STOCK)
@pytest.mark.parametrize("kernel", ["native", "wait"])
def test_metg_of_baselines(metg: MetgBenchmark, baseline: Baseline, kernel: Kernel) -> None:
    """The same for the baselines of the task runners."""
    measure_baseline(metg, baseline, kernel)


@pytest.mark.full
@in_one_interpreter
def test_metg_of_a_baseline_in_pure_python(metg: MetgBenchmark, baseline: Baseline) -> None:
    """The same for a baseline in one interpreter."""
    measure_baseline(metg, baseline, "python")


def measure_baseline(metg: MetgBenchmark, baseline: Baseline, kernel: Kernel) -> None:
    """Measure independent tasks."""
    case = MetgCase(baseline.name, kernel, "trivial")
    is_pool = baseline.name in (BaselineKind.THREADS, BaselineKind.PROCESSES)
    probes = MORE_PROBES if is_pool else None
    metg(case, lambda graph: baseline.run(graph, metg.speeds), probes)


@pytest.mark.runners(*STOCK)
def test_metg_of_baselines_with_edges(metg: MetgBenchmark, baseline: Baseline, edges: str) -> None:
    """The same for tasks that need the results of others."""
    case = MetgCase(baseline.name, "native", edges)
    metg(case, lambda graph: baseline.run(graph, metg.speeds))


@in_one_interpreter
def test_metg_with_a_feature(
    metg: MetgBenchmark, task_runner: TaskRunner[Any], runner_name: str, feature: str
) -> None:
    """What a feature of Prefect adds to METG."""
    size = 10**6 if feature == "1 MB results" else 0
    case = MetgCase(runner_name, "native", "trivial", feature, size)
    metg.flow(case, task_runner, FEATURES[feature])
