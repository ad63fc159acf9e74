# SPDX-License-Identifier: Apache-2.0
"""What a worker is told of one task of a workflow, and what it gives back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flowgauge.workflows.kernels import Speeds, expected, work
from flowgauge.workflows.workflow import Kernel, Task, Workflow


class WrongInputError(AssertionError):
    """A task was given something other than the results of its parents."""


@dataclass(frozen=True)
class TaskSpec:
    """One task, as its worker needs it.

    Attributes:
        id: The task.
        needs: The tasks whose results it is given, in this order.
        kernel: What kind of work.
        iterations: How much of it.
        output_bytes: The size of its payload.
    """

    id: str
    needs: tuple[str, ...]
    kernel: Kernel
    iterations: int
    output_bytes: int

    @classmethod
    def of(cls, task: Task, speeds: Speeds) -> TaskSpec:
        """Return the spec of a task for a machine with these speeds."""
        iterations = speeds.iterations(task.kernel, task.seconds)
        return cls(task.id, task.needs, task.kernel, iterations, task.output_bytes)


@dataclass(frozen=True)
class TaskResult:
    """The result of one task.

    Attributes:
        id: The task.
        answer: What its kernel returned.
        payload: As many bytes as it was to return.
        started: When its work began, in seconds since the epoch.
        ended: When it had ended.
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
    """Check what a task is given, and do its work.

    Args:
        spec: The task.
        inputs: The results of its parents, in the order of `needs`.

    Returns:
        Its result.

    Raises:
        WrongInputError: If an input is missing, another task's, or damaged.
    """
    started = time.time()
    given = tuple(each.id for each in inputs)
    if given != spec.needs:
        raise WrongInputError(f'task "{spec.id}" needs {spec.needs} and was given {given}')
    for each in inputs:
        _check_payload(spec.id, each)
    answer = work(spec.kernel, spec.iterations)
    payload = _payload(spec.id, spec.output_bytes)
    worker = f"{os.getpid()}-{threading.get_ident()}"
    return TaskResult(spec.id, answer, payload, started, time.time(), worker)


def check_results(
    workflow: Workflow, speeds: Speeds, outputs: Mapping[str, TaskResult], *, order: bool = True
) -> None:
    """Check that a workflow was done, all of it and as its edges say.

    Args:
        workflow: What was to be done.
        speeds: The speeds that its specs were made with.
        outputs: The result of each task by its id.
        order: Whether the clocks of the workers are the same, so that the order can be checked.

    Raises:
        WrongInputError: If a task is missing, did other work, or began before a parent had ended.
    """
    if outputs.keys() != {task.id for task in workflow.tasks}:
        missing = sorted({task.id for task in workflow.tasks} ^ outputs.keys())
        raise WrongInputError(f"of {workflow.name}, missing or too many: {missing[:5]}")
    for task in workflow.tasks:
        output, told = outputs[task.id], TaskSpec.of(task, speeds)
        if output.id != task.id or output.answer != expected(told.kernel, told.iterations):
            raise WrongInputError(f'task "{task.id}" gave a wrong answer: {output.answer}')
        if len(output.payload) != task.output_bytes:
            raise WrongInputError(f'task "{task.id}" gave {len(output.payload)} bytes')
        for parent in task.parents if order else ():
            if output.started < outputs[parent].ended:
                raise WrongInputError(f'task "{task.id}" began before "{parent}" had ended')


def makespan(outputs: Iterable[TaskResult]) -> float:
    """Return the seconds from the begin of the first task's work to the end of the last one's."""
    outputs = tuple(outputs)
    return max(each.ended for each in outputs) - min(each.started for each in outputs)


def _payload(id: str, size: int) -> bytes:
    mark = f"{id}|".encode()
    return (mark * (size // len(mark) + 1))[:size]


def _check_payload(id: str, given: TaskResult) -> None:
    # The ends are enough to tell one that was cut, or is another's; all of it would be work.
    mark = _payload(given.id, min(len(given.payload), 256))
    if not given.payload.startswith(mark):
        raise WrongInputError(f'task "{id}" was given a damaged result of "{given.id}"')
