# SPDX-License-Identifier: Apache-2.0
"""Runs a workflow that is given as data: as a flow on any task runner, and on a bare pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flowgauge.measure.host import inside_flow
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import TaskResult, TaskSpec, perform
from flowgauge.workflows.workflow import GraphError, Task, Workflow

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

Submit = Callable[..., "PrefectFuture[TaskResult]"]
"""Submits the task with a spec: `submit(spec, inputs, wait_for=futures)`."""


@task(task_run_name="{spec.id}", cache_policy=NO_CACHE)
def perform_task(spec: TaskSpec, inputs: list[TaskResult]) -> TaskResult:
    """Do one task of a workflow."""
    return perform(spec, inputs)


def run_as_flow(
    workflow: Workflow,
    task_runner: Callable[[], TaskRunner[Any]],
    speeds: Speeds,
    submit: Submit = perform_task.submit,
) -> dict[str, TaskResult]:
    """Run a workflow as a flow, its subflows as subflows.

    Args:
        workflow: What to run.
        task_runner: Makes the task runner of the flow and of each subflow.
        speeds: How much work a second is.
        submit: Of a task that does the work with other features of Prefect.

    Returns:
        The result of each task by its id.

    Raises:
        GraphError: If a subflow would have to start before a task that it needs, and end before
            one that needs it.
    """
    outputs: dict[str, TaskResult] = {}
    _run_level(workflow.tasks, (), outputs, task_runner, speeds, submit)
    return outputs


def submit_all(
    workflow: Workflow, speeds: Speeds, submit: Submit = perform_task.submit
) -> dict[str, TaskResult]:
    """Submit the tasks of a workflow in the flow run that this is called from, and wait.

    Args:
        workflow: What to run; its subflows are not made.
        speeds: How much work a second is.
        submit: Of a task that does the work with other features of Prefect.

    Returns:
        The result of each task by its id.
    """
    futures: dict[str, PrefectFuture[TaskResult]] = {}
    for each in workflow.tasks:
        futures[each.id] = _submitted(each, futures, {}, speeds, submit)
    return {id: future.result() for id, future in futures.items()}


def run_on_pool(workflow: Workflow, pool: Executor, speeds: Speeds) -> dict[str, TaskResult]:
    """Run a workflow on a bare pool: each task when its parents have ended.

    Args:
        workflow: What to run; its subflows are not made.
        pool: Whose workers do it.
        speeds: How much work a second is.

    Returns:
        The result of each task by its id.
    """
    outputs: dict[str, TaskResult] = {}
    waits = {each.id: len(set(each.parents)) for each in workflow.tasks}
    children: dict[str, list[Task]] = {each.id: [] for each in workflow.tasks}
    for each in workflow.tasks:
        for parent in set(each.parents):
            children[parent].append(each)
    ready = [each for each in workflow.tasks if not waits[each.id]]
    running: set[Future[TaskResult]] = set()
    while ready or running:
        for each in ready:
            inputs = [outputs[id] for id in each.needs]
            running.add(pool.submit(perform, TaskSpec.of(each, speeds), inputs))
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        ready = []
        for future in ended:
            outputs[future.result().id] = future.result()
            for child in children[future.result().id]:
                waits[child.id] -= 1
                if not waits[child.id]:
                    ready.append(child)
    return outputs


def run_on_dask(workflow: Workflow, client: Any, speeds: Speeds) -> dict[str, TaskResult]:
    """Run a workflow on bare Dask, whose scheduler knows its edges.

    Args:
        workflow: What to run; its subflows are not made.
        client: A client of a Dask cluster.
        speeds: How much work a second is.

    Returns:
        The result of each task by its id.
    """
    futures: dict[str, Any] = {}
    for each in workflow.tasks:
        futures[each.id] = client.submit(
            _perform_after,
            TaskSpec.of(each, speeds),
            [futures[id] for id in each.needs],
            [futures[id] for id in each.after],
            pure=False,
        )
    outputs: dict[str, TaskResult] = client.gather(futures)
    return outputs


def _perform_after(spec: TaskSpec, inputs: list[TaskResult], after: list[TaskResult]) -> TaskResult:
    return perform(spec, inputs)


def _run_level(
    tasks: Iterable[Task],
    path: tuple[str, ...],
    outputs: dict[str, TaskResult],
    task_runner: Callable[[], TaskRunner[Any]],
    speeds: Speeds,
    submit: Submit,
) -> None:
    """Run the tasks of one flow run, and the subflow runs that it starts."""
    steps = _steps(tasks, path)

    def body() -> None:
        futures: dict[str, PrefectFuture[TaskResult]] = {}
        for step in steps:
            if isinstance(step, Task):
                futures[step.id] = _submitted(step, futures, outputs, speeds, submit)
                continue
            # A subflow is called: what it needs has to be there, and it ends before we go on.
            for parent in {parent for each in step for parent in each.parents}:
                if parent in futures:
                    outputs[parent] = futures[parent].result()
            inner = (*path, step[0].subflow[len(path)])
            _run_level(step, inner, outputs, task_runner, speeds, submit)
        outputs.update({id: future.result() for id, future in futures.items()})

    inside_flow(task_runner(), body, name=path[-1] if path else None)


def _submitted(
    each: Task,
    futures: Mapping[str, PrefectFuture[TaskResult]],
    outputs: Mapping[str, TaskResult],
    speeds: Speeds,
    submit: Submit,
) -> PrefectFuture[TaskResult]:
    inputs = [futures.get(id) or outputs[id] for id in each.needs]
    return submit(
        TaskSpec.of(each, speeds),
        inputs,
        wait_for=[futures[id] for id in each.after if id in futures],
    )


def _steps(tasks: Iterable[Task], path: tuple[str, ...]) -> list[Task | tuple[Task, ...]]:
    """Order the tasks of a flow and its subflows, each subflow as one step."""
    tasks = tuple(tasks)
    depth = len(path)
    # A step is named by its task's id or by its subflow's name; the kinds may share a name.
    step_of = {each.id: _step_key(each, depth) for each in tasks}
    members: dict[tuple[bool, str], list[Task]] = {}
    for each in tasks:
        members.setdefault(step_of[each.id], []).append(each)
    waits = {
        key: {step_of[p] for each in group for p in each.parents if p in step_of} - {key}
        for key, group in members.items()
    }
    sorter = TopologicalSorter(waits)
    try:
        sorter.prepare()
    except CycleError as error:
        name = min(name for is_subflow, name in error.args[1] if is_subflow)
        raise GraphError(f'subflow "{name}" needs a task that needs it: no flow is so') from None
    steps: list[Task | tuple[Task, ...]] = []
    subflows: list[tuple[bool, str]] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        subflows += [key for key in ready if key[0]]
        # Tasks are submitted before a subflow is called, which takes until it has ended.
        now = [key for key in ready if not key[0]] or [subflows.pop(0)]
        steps += [tuple(members[key]) if key[0] else members[key][0] for key in now]
        sorter.done(*now)
    return steps


def _step_key(each: Task, depth: int) -> tuple[bool, str]:
    return (True, each.subflow[depth]) if len(each.subflow) > depth else (False, each.id)
