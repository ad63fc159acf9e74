# SPDX-License-Identifier: Apache-2.0
"""Runs a workflow that is described as data: as a flow on any task runner, or on a bare pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from prefect import task as prefect_task
from prefect.cache_policies import NO_CACHE

from flowgauge.measure.host import inside_flow
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.work_items import TaskResult, TaskSpec, perform
from flowgauge.workflows.workflow import GraphError, Task, Workflow

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

Submit = Callable[..., "PrefectFuture[TaskResult]"]
"""Submits the task that a spec describes: `submit(spec, inputs, wait_for=futures)`."""


@prefect_task(task_run_name="{spec.id}", cache_policy=NO_CACHE)
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
        task_runner: Creates the task runner of the flow and of each subflow.
        speeds: The iterations of each kernel in a second.
        submit: Submits a task; another one than the default uses other features of Prefect.

    Returns:
        The result of each task by its id.

    Raises:
        GraphError: If a subflow needs a task that in turn needs a task of that subflow.
    """
    outputs: dict[str, TaskResult] = {}
    _run_level(workflow.tasks, (), outputs, task_runner, speeds, submit)
    return outputs


def submit_all(
    workflow: Workflow, speeds: Speeds, submit: Submit = perform_task.submit
) -> dict[str, TaskResult]:
    """Submit the tasks of a workflow in the current flow run, and wait for them.

    Args:
        workflow: What to run; its subflows are ignored.
        speeds: The iterations of each kernel in a second.
        submit: Submits a task; another one than the default uses other features of Prefect.

    Returns:
        The result of each task by its id.
    """
    futures: dict[str, PrefectFuture[TaskResult]] = {}
    for task in workflow.tasks:
        futures[task.id] = _submit_task(task, futures, {}, speeds, submit)
    return {id: future.result() for id, future in futures.items()}


def run_on_pool(workflow: Workflow, pool: Executor, speeds: Speeds) -> dict[str, TaskResult]:
    """Run a workflow on a bare pool: each task is submitted when its parents have ended.

    Args:
        workflow: What to run; its subflows are ignored.
        pool: The pool.
        speeds: The iterations of each kernel in a second.

    Returns:
        The result of each task by its id.
    """
    outputs: dict[str, TaskResult] = {}
    waits = {task.id: len(set(task.parents)) for task in workflow.tasks}
    children: dict[str, list[Task]] = {task.id: [] for task in workflow.tasks}
    for task in workflow.tasks:
        for parent in set(task.parents):
            children[parent].append(task)
    ready = [task for task in workflow.tasks if not waits[task.id]]
    running: set[Future[TaskResult]] = set()
    while ready or running:
        for task in ready:
            inputs = [outputs[id] for id in task.needs]
            running.add(pool.submit(perform, TaskSpec.of(task, speeds), inputs))
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
        workflow: What to run; its subflows are ignored.
        client: A client of a Dask cluster.
        speeds: The iterations of each kernel in a second.

    Returns:
        The result of each task by its id.
    """
    futures: dict[str, Any] = {}
    for task in workflow.tasks:
        futures[task.id] = client.submit(
            _perform_after,
            TaskSpec.of(task, speeds),
            [futures[id] for id in task.needs],
            [futures[id] for id in task.after],
            pure=False,
        )
    outputs: dict[str, TaskResult] = client.gather(futures)
    return outputs


def run_on_ray(workflow: Workflow, ray: Any, speeds: Speeds) -> dict[str, TaskResult]:
    """Run a workflow on bare Ray, whose scheduler knows its edges.

    Args:
        workflow: What to run; its subflows are ignored.
        ray: The module, once it is connected to a cluster.
        speeds: The iterations of each kernel in a second.

    Returns:
        The result of each task by its id.
    """
    submit = ray.remote(_perform_with)
    references: dict[str, Any] = {}
    for task in workflow.tasks:
        # Ray waits for references that are arguments themselves, but not for those in a list.
        parents = [references[id] for id in (*task.needs, *task.after)]
        references[task.id] = submit.remote(TaskSpec.of(task, speeds), len(task.needs), *parents)
    return dict(zip(references, ray.get(list(references.values())), strict=True))


def _perform_with(spec: TaskSpec, needs: int, *parents: TaskResult) -> TaskResult:
    return perform(spec, list(parents[:needs]))


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
                futures[step.id] = _submit_task(step, futures, outputs, speeds, submit)
                continue
            # A subflow is called and blocks, so the results it needs must be available before.
            for parent in {parent for task in step for parent in task.parents}:
                if parent in futures:
                    outputs[parent] = futures[parent].result()
            inner = (*path, step[0].subflow[len(path)])
            _run_level(step, inner, outputs, task_runner, speeds, submit)
        outputs.update({id: future.result() for id, future in futures.items()})

    inside_flow(task_runner(), body, name=path[-1] if path else None)


def _submit_task(
    task: Task,
    futures: Mapping[str, PrefectFuture[TaskResult]],
    outputs: Mapping[str, TaskResult],
    speeds: Speeds,
    submit: Submit,
) -> PrefectFuture[TaskResult]:
    inputs = [futures.get(id) or outputs[id] for id in task.needs]
    return submit(
        TaskSpec.of(task, speeds),
        inputs,
        wait_for=[futures[id] for id in task.after if id in futures],
    )


def _steps(tasks: Iterable[Task], path: tuple[str, ...]) -> list[Task | tuple[Task, ...]]:
    """Order the tasks and subflows of a flow topologically; each subflow is one step."""
    tasks = tuple(tasks)
    depth = len(path)
    # The key of a step is a task id or a subflow name; the flag distinguishes equal ones.
    step_of = {task.id: _step_key(task, depth) for task in tasks}
    members: dict[tuple[bool, str], list[Task]] = {}
    for task in tasks:
        members.setdefault(step_of[task.id], []).append(task)
    waits = {
        key: {step_of[p] for task in group for p in task.parents if p in step_of} - {key}
        for key, group in members.items()
    }
    sorter = TopologicalSorter(waits)
    try:
        sorter.prepare()
    except CycleError as error:
        name = min(name for is_subflow, name in error.args[1] if is_subflow)
        raise GraphError(f'subflow "{name}" and a task outside it need each other') from None
    steps: list[Task | tuple[Task, ...]] = []
    subflows: list[tuple[bool, str]] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        subflows += [key for key in ready if key[0]]
        # Tasks are submitted before a subflow is called, because the call blocks until its end.
        now = [key for key in ready if not key[0]] or [subflows.pop(0)]
        steps += [tuple(members[key]) if key[0] else members[key][0] for key in now]
        sorter.done(*now)
    return steps


def _step_key(task: Task, depth: int) -> tuple[bool, str]:
    return (True, task.subflow[depth]) if len(task.subflow) > depth else (False, task.id)
