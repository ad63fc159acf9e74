# SPDX-License-Identifier: Apache-2.0
"""The work item of one task of a workflow: the spec that a worker gets, and its result."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flowgauge.workflows.kernels import Speeds, expected, work
from flowgauge.workflows.workflow import Kernel, Task, Workflow


class WrongInputError(AssertionError):
    """A task received or returned something wrong, or started before a parent had ended."""


@dataclass(frozen=True)
class TaskSpec:
    """What a worker needs to know of one task.

    Attributes:
        id: The id of the task.
        needs: The ids of the tasks whose results it receives, in this order.
        kernel: The kind of work.
        iterations: The amount of work.
        output_bytes: The size of its payload.
    """

    id: str
    needs: tuple[str, ...]
    kernel: Kernel
    iterations: int
    output_bytes: int

    @classmethod
    def of(cls, task: Task, speeds: Speeds) -> TaskSpec:
        """Return the spec of a task, on a machine with the given speeds."""
        iterations = speeds.iterations(task.kernel, task.seconds)
        return cls(task.id, task.needs, task.kernel, iterations, task.output_bytes)


@dataclass(frozen=True)
class TaskResult:
    """The result of one task.

    Attributes:
        id: The id of the task.
        answer: What its kernel returned.
        payload: Bytes, as many as its spec says.
        started: When its work started, in seconds since the epoch.
        ended: When its work had ended, in seconds since the epoch.
        worker: The process and thread that did it.
    """

    id: str
    answer: int
    payload: bytes
    started: float
    ended: float
    worker: str


RunWorkflow = Callable[[Workflow], Mapping[str, TaskResult]]
"""Runs a workflow and returns the result of each task by its id."""


def perform(spec: TaskSpec, inputs: Sequence[TaskResult]) -> TaskResult:
    """Check the inputs of a task, and do its work.

    Args:
        spec: The task.
        inputs: The results of its parents, in the order of `needs`.

    Returns:
        The result of the task.

    Raises:
        WrongInputError: If an input is missing, another task's, or damaged.
    """
    started = time.time()
    received = tuple(result.id for result in inputs)
    if received != spec.needs:
        raise WrongInputError(f'task "{spec.id}" needs {spec.needs} but received {received}')
    for result in inputs:
        _check_payload(spec.id, result)
    answer = work(spec.kernel, spec.iterations)
    payload = _payload(spec.id, spec.output_bytes)
    worker = f"{os.getpid()}-{threading.get_ident()}"
    return TaskResult(spec.id, answer, payload, started, time.time(), worker)


def check_results(
    workflow: Workflow, speeds: Speeds, outputs: Mapping[str, TaskResult], *, order: bool = True
) -> None:
    """Check that a workflow was done completely and in the order of its edges.

    Args:
        workflow: The workflow that was run.
        speeds: The speeds that its specs were made with.
        outputs: The result of each task by its id.
        order: Whether to check the order, for which all workers must share one clock.

    Raises:
        WrongInputError: If a task is missing, did other work, or started before a parent had
            ended.
    """
    if outputs.keys() != {task.id for task in workflow.tasks}:
        different = sorted({task.id for task in workflow.tasks} ^ outputs.keys())
        raise WrongInputError(f"tasks missing from {workflow.name} or too many: {different[:5]}")
    for task in workflow.tasks:
        output, spec = outputs[task.id], TaskSpec.of(task, speeds)
        if output.id != task.id or output.answer != expected(spec.kernel, spec.iterations):
            raise WrongInputError(f'task "{task.id}" returned a wrong answer: {output.answer}')
        if len(output.payload) != task.output_bytes:
            raise WrongInputError(
                f'task "{task.id}" returned {len(output.payload)} bytes, not {task.output_bytes}'
            )
        for parent in task.parents if order else ():
            if output.started < outputs[parent].ended:
                raise WrongInputError(f'task "{task.id}" started before "{parent}" had ended')


def makespan(outputs: Iterable[TaskResult]) -> float:
    """Return the seconds from the start of the first task's work to the end of the last one's."""
    outputs = tuple(outputs)
    return max(output.ended for output in outputs) - min(output.started for output in outputs)


def _payload(id: str, size: int) -> bytes:
    mark = f"{id}|".encode()
    return (mark * (size // len(mark) + 1))[:size]


def _check_payload(id: str, result: TaskResult) -> None:
    # The beginning shows whether it is another task's; comparing all of it would take time.
    mark = _payload(result.id, min(len(result.payload), 256))
    if not result.payload.startswith(mark):
        raise WrongInputError(f'task "{id}" received a damaged result of "{result.id}"')
