# SPDX-License-Identifier: Apache-2.0
"""The makespan of real workflows relative to the lower bound that no scheduler can beat."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.measure.graph_flow import submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.measure.pairs import Rounds, noise_of
from flowgauge.measure.workflow_runs import LOWER_BOUND, Makespans, run_in_turn, scaled
from flowgauge.plugin.paired import Paired
from flowgauge.plugin.session import measures
from flowgauge.results.rows import Group
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import COMMON, STOCK
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.recipes import RECIPES, recipe
from flowgauge.workflows.shapes import nested, shape
from flowgauge.workflows.wfformat import load_workflow
from flowgauge.workflows.work_items import check_results
from flowgauge.workflows.workflow import GraphError, Workflow

SEED = 1
SMALL = nested(2, 2, seconds=0.01)
"""The workflow to run if nothing is timed and no file is given."""
SECONDS = 0.8
"""The lower bound that a workflow is scaled to."""
ROUNDS = 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the files of `--flow-file`, or else, in a full run, all recipes of the smallest size."""
    if "source" not in metafunc.fixturenames:
        return
    sources: list[Any] = [Path(file) for file in metafunc.config.getoption("flow_file")]
    if not sources and metafunc.config.getoption("flow_full"):
        sources = [*RECIPES]
    elif not sources and not measures(metafunc.config):
        sources = [SMALL]
    metafunc.parametrize("source", sources, ids=_name)


def _name(source: str | Path | Workflow) -> str:
    return source.name if isinstance(source, Workflow) else Path(source).stem


@functools.cache
def _generated(name: str) -> Workflow | GraphError:
    try:
        return recipe(name, RECIPES[name], SEED)
    except GraphError as error:
        return error


@pytest.fixture
def workflow(
    source: str | Path | Workflow, pytestconfig: pytest.Config, started_runners: StartedRunners
) -> Workflow:
    """Return a scaled workflow; skip a recipe that can't be generated, with the reason."""
    if isinstance(source, Workflow):
        return source
    original = load_workflow(source) if isinstance(source, Path) else _generated(source)
    if isinstance(original, GraphError):
        pytest.skip(str(original))
    scale = pytestconfig.getoption("flow_time_scale")
    return scaled(
        original,
        started_runners.workers,
        time_scale=None if scale is None else float(scale),
        seconds=SECONDS,
        bytes_scale=float(pytestconfig.getoption("flow_bytes_scale")),
    )


@pytest.mark.runners(*COMMON)
def test_workflow(
    workflow: Workflow,
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    baseline: Baseline,
    speeds: Speeds,
    started_runners: StartedRunners,
) -> None:
    """The makespan inside a running flow, relative to the lower bound, and that of the baseline."""
    workers = started_runners.workers
    ours, again = (
        Makespans(workflow, runner_name, lambda graph: submit_all(graph, speeds), speeds, workers)
        for _ in range(2)
    )
    bare = Makespans(
        workflow, baseline.name, lambda graph: baseline.run(graph, speeds), speeds, workers
    )
    # Noise depends on the runner, not on the workflow, so it is measured with the first one only.
    measured = [row for rows in paired.recorder.measured.values() for row in rows]
    of = (noise_of(Group.WORKFLOWS)["params"], runner_name)
    for_noise = of not in [(row.params, row.runner) for row in measured]
    # The baselines of other runners are the same ones, or a plain call.
    with_baseline = runner_name in STOCK
    series = [bare] * with_baseline + [ours] + [again] * for_noise

    def measure() -> None:
        # Warm-up: the start of workers with the first tasks is not part of a makespan.
        warm_up = shape("trivial", workers, 2)
        check_results(warm_up, speeds, submit_all(warm_up, speeds))
        run_in_turn(paired.budget(ROUNDS), *series)

    paired.benchmark.pedantic(lambda: inside_flow(task_runner, measure))
    of_bound: dict[str, Any] = {"group": Group.WORKFLOWS, "reference": LOWER_BOUND}
    if with_baseline:
        paired.keep(bare.rounds(), **of_bound, **bare.labels)
    if for_noise:
        labels = ours.labels | noise_of(Group.WORKFLOWS)
        paired.keep(Rounds(tuple(again.seconds), tuple(ours.seconds)), **labels)
    paired.keep(ours.rounds(), **of_bound, **ours.labels)
    paired.keep_timeline(ours.typical())
