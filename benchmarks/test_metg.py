# SPDX-License-Identifier: Apache-2.0
"""Minimum effective task granularity (METG; Task Bench, SC'20) of each task runner.

It says how long tasks must be for a task runner to keep the machine busy.
"""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import Executor
from typing import Any

import pytest
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.measure.granularity import Granularity, MetgCase, measure_case
from flowgauge.measure.graph_flow import Submit, perform_task, submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.plugin.paired import Paired
from flowgauge.results.rows import Group
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import RUNNERS, STOCK, BaselineKind, names_where
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import TaskResult, TaskSpec, check_results, perform
from flowgauge.workflows.workflow import Kernel

KERNELS: tuple[Kernel, ...] = ("native", "python", "wait")
EDGES = ("chain", "stencil", "tree")
LONGEST, LONGEST_OF_PLAIN = 0.6, 1.0
"""The most work to try in one task, in seconds: in general, and where METG(90 %) is measured for
tasks without edges."""
RARE = names_where(lambda runner: runner.execution.inline or not runner.common)
MORE_PROBES = 4
"""Amounts of work to try on baselines with hardly any overhead, whose runs are quick."""


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
    """Measure one kernel without edges in a quick run, and all combinations in a full one."""
    full = metafunc.config.getoption("flow_full")
    values = {
        "kernel": KERNELS if full else KERNELS[:1],
        "shape": ("trivial", *EDGES) if full else (),
        "edges": EDGES if full else (),
        "feature": FEATURES if full else (),
    }
    for name in metafunc.fixturenames:
        if name in values:
            metafunc.parametrize(name, values[name])


class Measure:
    """Measures cases relative to the bare pool of this pytest run."""

    def __init__(
        self, paired: Paired, pool: Executor, speeds: Speeds, started: StartedRunners
    ) -> None:
        self.paired, self.pool, self.speeds, self.workers = paired, pool, speeds, started.workers

    def __call__(self, case: MetgCase, run: Any, more_probes: int = 0) -> None:
        """Measure a case, or only check that it runs if nothing is timed."""
        benchmark = self.paired.benchmark
        benchmark.group = Group.METG
        if benchmark.disabled:
            workflow = case.workflow(self.workers, 2, 0.001)
            check_results(workflow, self.speeds, benchmark.pedantic(run, args=(workflow,)))
            return
        full = self.paired.recorder.full
        benchmark.pedantic(lambda: None)
        # METG(90 %) takes the longest to measure.
        rare = case.feature or case.runner in RARE
        targets = (0.5, 0.9) if full and not rare else (0.5,)
        thorough = full and case.shape == "trivial" and not rare
        rounds, probes = (3, 3) if thorough else (2, 2)
        probes = more_probes or probes
        granularity = Granularity(case, run, self.pool, self.speeds, self.workers, rounds)
        longest = LONGEST_OF_PLAIN if thorough else LONGEST
        self.paired.add(measure_case(granularity, longest, targets, probes))

    def flow(
        self, case: MetgCase, task_runner: TaskRunner[Any], submit: Submit = perform_task.submit
    ) -> None:
        """Measure a case in a separate flow run."""
        inside_flow(
            task_runner,
            lambda: self(case, lambda graph: submit_all(graph, self.speeds, submit)),
        )


@pytest.fixture
def measure(
    paired: Paired, bare_pool: Executor, speeds: Speeds, started_runners: StartedRunners
) -> Measure:
    """Return what measures cases."""
    return Measure(paired, bare_pool, speeds, started_runners)


# One task at a time never keeps half of two workers busy.
@pytest.mark.full(on=lambda r: r.lean or not r.common or r.execution.inline)
def test_metg(
    measure: Measure, task_runner: TaskRunner[Any], runner_name: str, kernel: Kernel
) -> None:
    """The length from which on independent tasks keep the machine busy."""
    measure.flow(MetgCase(runner_name, kernel, "trivial"), task_runner)


@pytest.mark.runners(*STOCK)
def test_metg_with_edges(
    measure: Measure, task_runner: TaskRunner[Any], runner_name: str, kernel: Kernel, edges: str
) -> None:
    """The same for tasks that need the results of others."""
    measure.flow(MetgCase(runner_name, kernel, edges), task_runner)


@pytest.mark.runners(*STOCK)
def test_metg_of_baselines(
    measure: Measure, baseline: Baseline, kernel: Kernel, shape: str
) -> None:
    """The same for the baselines of the task runners."""
    case = MetgCase(baseline.name, kernel, shape)
    is_pool = baseline.name in (BaselineKind.THREADS, BaselineKind.PROCESSES)
    more_probes = MORE_PROBES if is_pool and shape == "trivial" else 0
    measure(case, lambda graph: baseline.run(graph, measure.speeds), more_probes)


@pytest.mark.runners(*(name for name in STOCK if not RUNNERS[name].starts_workers))
def test_metg_with_a_feature(
    measure: Measure, task_runner: TaskRunner[Any], runner_name: str, feature: str
) -> None:
    """What a feature of Prefect adds to METG."""
    size = 10**6 if feature == "1 MB results" else 0
    case = MetgCase(runner_name, "native", "trivial", feature, size)
    measure.flow(case, task_runner, FEATURES[feature])
