# SPDX-License-Identifier: Apache-2.0
"""A workflow given as data runs as a flow on every task runner, and on bare pools."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.task_runners import TaskRunner

from flowgauge.measure.graph_flow import run_as_flow, run_on_dask, run_on_pool
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import SHAPES, nested, random_layered, shape
from flowgauge.workflows.work_items import check_results
from flowgauge.workflows.workflow import GraphError, Kernel, Task, Workflow

SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 10_000.0))
WORK: dict[str, Any] = {"seconds": 0.0002, "kernel": "python", "output_bytes": 300}
MIXED = Workflow(
    "mixed",
    (
        Task("read", kernel="bytes", seconds=0.001, output_bytes=100),
        Task("inner.1", ("read",), kernel="memory", seconds=0.001, subflow=("inner",)),
        Task("deep", ("inner.1",), seconds=0.001, subflow=("inner", "deeper")),
        Task("inner.2", after=("deep", "read"), subflow=("inner",)),
        Task("beside", ("read",), kernel="native", seconds=0.001),
        Task("last", ("inner.2", "read"), ("beside", "deep"), kernel="python", seconds=0.001),
    ),
)
SHAPED = (
    shape("stencil", 3, 3, **WORK),
    shape("tree", 4, 3, **WORK),
    random_layered(3, 3, seed=1, **WORK),
    nested(2, 2, **WORK),
)


@pytest.fixture
def make_runner(task_runner: TaskRunner[Any]) -> Callable[[], TaskRunner[Any]]:
    """Return a function that makes a task runner for each flow run."""
    return task_runner.duplicate


@pytest.mark.usefixtures("prefect_server")
def test_a_workflow_is_a_flow(make_runner: Callable[[], TaskRunner[Any]]) -> None:
    """On each task runner every task gets its parents' results, after the parents have ended."""
    check_results(MIXED, SPEEDS, run_as_flow(MIXED, make_runner, SPEEDS))


@pytest.mark.parametrize("workflow", SHAPED, ids=lambda workflow: workflow.name)
@pytest.mark.runners("sequential", "threads")
@pytest.mark.usefixtures("prefect_server")
def test_any_workflow_is_a_flow(
    workflow: Workflow, make_runner: Callable[[], TaskRunner[Any]]
) -> None:
    """Whatever the shape, every task gets its parents' results, after the parents have ended."""
    check_results(workflow, SPEEDS, run_as_flow(workflow, make_runner, SPEEDS))


@pytest.mark.nightly
@pytest.mark.parametrize("workflow", SHAPED, ids=lambda workflow: workflow.name)
@pytest.mark.runners("processes", "dask-threads", "dask-processes")
@pytest.mark.usefixtures("prefect_server")
def test_any_workflow_is_a_flow_where_tasks_start_slowly(
    workflow: Workflow, make_runner: Callable[[], TaskRunner[Any]]
) -> None:
    """Whatever the shape, every task gets its parents' results, after the parents have ended."""
    check_results(workflow, SPEEDS, run_as_flow(workflow, make_runner, SPEEDS))


@pytest.mark.runners("threads")
@pytest.mark.usefixtures("prefect_server")
def test_subflows_are_flow_runs(make_runner: Callable[[], TaskRunner[Any]]) -> None:
    """A subflow in the data becomes a subflow run of the same name, inside its parent's run."""
    started = time.time()
    run_as_flow(MIXED, make_runner, SPEEDS)
    with get_client(sync_client=True) as client:
        runs = {run.name: run for run in named(client, ["inner", "deeper"], started)}
        within = runs["deeper"].parent_task_run_id
        assert within is not None
        assert client.read_task_run(within).flow_run_id == runs["inner"].id


def named(client: SyncPrefectClient, names: list[str], since: float) -> list[FlowRun]:
    """Return the flow runs with one of the names that were created since a given time."""
    wanted = FlowRunFilter(name=FlowRunFilterName(any_=names))
    runs = client.read_flow_runs(flow_run_filter=wanted)
    return [run for run in runs if run.created and run.created.timestamp() >= since]


@pytest.mark.runners("sequential")
@pytest.mark.usefixtures("prefect_server")
def test_circular_subflows_are_reported(
    make_runner: Callable[[], TaskRunner[Any]],
) -> None:
    """A subflow that must start before a task outside it, but end after it, is an error."""
    workflow = Workflow(
        "through",
        (
            Task("in", subflow=("sub",)),
            Task("out", ("in",)),
            Task("back", ("out",), subflow=("sub",)),
        ),
    )
    with pytest.raises(GraphError, match='subflow "sub" and a task outside it need each other'):
        run_as_flow(workflow, make_runner, SPEEDS)


@given(st.sampled_from(SHAPES), st.integers(1, 5), st.integers(1, 4))
def test_a_pool_runs_any_shape(name: str, width: int, steps: int) -> None:
    """On a bare pool every task gets its parents' results, after the parents have ended."""
    workflow = shape(name, width, steps, **WORK)
    with ThreadPoolExecutor(2) as pool:
        check_results(workflow, SPEEDS, run_on_pool(workflow, pool, SPEEDS))


def test_dask_runs_workflows() -> None:
    """On bare Dask every task gets its parents' results, after the parents have ended."""
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        for workflow in (*SHAPED, MIXED):
            check_results(workflow, SPEEDS, run_on_dask(workflow, client, SPEEDS))
