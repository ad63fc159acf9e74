# SPDX-License-Identifier: Apache-2.0
"""The error of `flowgauge advise`, on workflows that its costs were not fitted to.

Not part of the suite, because each of its many workflows needs rounds enough:

    uv run pytest benchmarks/advice_error.py --benchmark-only --flow-full \
        --flow-report-dir reports/advice

Its results are the rows of the group `prediction`: for each workflow and task runner the measured
makespan with the predicted one relative to it, then how many makespans were in their intervals, and
how often the advised task runner was about the best.
"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import TaskRunner

from flowgauge.measure.graph_flow import submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.measure.workflow_runs import scaled
from flowgauge.plugin.paired import Paired
from flowgauge.plugin.session import measures
from flowgauge.predict.held_out import HeldOut, advice_row, time_workflows
from flowgauge.predict.simulation import Machine
from flowgauge.results.rows import Group
from flowgauge.runners.chosen import default_workers
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import COMMON
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import random_layered, shape
from flowgauge.workflows.wfformat import load_workflow
from flowgauge.workflows.workflow import Kernel, Workflow

ROUNDS = 8
FITTED: tuple[tuple[str, int, float, Kernel], ...] = (
    ("trivial", 6, 0.0, "native"),
    ("trivial", 6, 0.03, "native"),
    ("trivial", 4, 0.1, "native"),
    ("trivial", 4, 0.04, "python"),
    ("trivial", 4, 0.1, "wait"),
    ("chain", 5, 0.0, "native"),
    ("chain", 5, 0.05, "native"),
    ("stencil", 4, 0.05, "native"),
)
"""Shape, steps, seconds and kernel of the workflows that costs are fitted to; their width is the
number of workers."""
HELD_OUT = (
    random_layered(4, 5, seed=7, seconds=0.03, kernel="native"),
    random_layered(5, 3, seed=8, seconds=0.06, kernel="python"),
    random_layered(3, 6, seed=9, seconds=0.02, kernel="wait"),
    shape("fork-join", 8, 4, seconds=0.04, kernel="native"),
    shape("tree", 8, 4, seconds=0.02, kernel="wait"),
    shape("spread", 6, 3, seconds=0.01, kernel="native"),
    shape("trivial", 24, 1, seconds=0.015, kernel="python"),
)
MEASURED: dict[str, HeldOut] = {}
"""The predictions of this run, by task runner, from which the last test advises."""
SECONDS = 0.8
"""The lower bound that a trace is scaled to."""


@pytest.fixture
def generated(pytestconfig: pytest.Config) -> tuple[Workflow, ...]:
    """Return the workflows to predict; one if nothing is timed."""
    return HELD_OUT if measures(pytestconfig) else HELD_OUT[:1]


@pytest.mark.runners(*COMMON)
def test_prediction(
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    bare_pool: Executor,
    speeds: Speeds,
    started_runners: StartedRunners,
    generated: tuple[Workflow, ...],
) -> None:
    """Predicted over measured makespans of random workflows, other shapes and traces from files."""
    config = paired.recorder.config
    workers = started_runners.workers
    traces = [Path(file) for file in config.getoption("flow_file")]
    scaled_traces = (scaled(load_workflow(file), workers, seconds=SECONDS) for file in traces)
    held_out = (*generated, *scaled_traces)
    fitted = [
        shape(name, workers, steps, seconds=seconds, kernel=kernel)
        for name, steps, seconds, kernel in FITTED
    ]
    paired.benchmark.group = Group.PREDICTION
    paired.benchmark.pedantic(lambda: None)

    def measure() -> None:
        submit_all(shape("trivial", workers, 2), speeds)
        timed = time_workflows(
            (*fitted, *held_out),
            lambda graph: submit_all(graph, speeds),
            bare_pool,
            speeds,
            workers,
            paired.size(ROUNDS),
        )
        split = len(fitted)
        machine = Machine(workers, default_workers())
        measured = HeldOut.of(runner_name, timed[:split], timed[split:], machine)
        MEASURED[runner_name] = measured
        paired.add(measured.rows())

    inside_flow(task_runner, measure)


def test_advice(paired: Paired) -> None:
    """How often the advised task runner was within a tenth of the best, of those measured above."""
    paired.benchmark.group = Group.PREDICTION
    paired.benchmark.pedantic(lambda: None)
    if len(MEASURED) < 2:
        pytest.skip("advice is a choice between task runners that this run has measured")
    paired.add([advice_row(list(MEASURED.values()))])
