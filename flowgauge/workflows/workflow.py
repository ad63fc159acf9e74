# SPDX-License-Identifier: Apache-2.0
"""A workflow as plain data: its tasks, their edges and work, and the bounds of its makespan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Literal, get_args

from flowgauge.mistake import Mistake

Kernel = Literal["wait", "python", "native", "memory", "bytes"]


class GraphError(Mistake):
    """An invalid workflow; the message is one line that names the task or the field."""


@dataclass(frozen=True)
class Task:
    """One task of a workflow.

    Attributes:
        id: Its name, unique in the workflow.
        needs: The ids of the tasks whose results it receives.
        after: The ids of tasks that must also have ended before it starts (`wait_for`).
        seconds: The amount of work: the time it takes on one worker while nothing else runs.
        kernel: The kind of work.
        output_bytes: The size of its result.
        subflow: The subflow it runs in, as names from the outermost in; empty for the flow itself.
    """

    id: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seconds: float = 0.0
    kernel: Kernel = "wait"
    output_bytes: int = 0
    subflow: tuple[str, ...] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        """All tasks that must have ended before it starts."""
        return (*self.needs, *self.after)


@dataclass(frozen=True)
class Workflow:
    """A workflow whose edges lead from tasks to later ones.

    Attributes:
        name: The name of the workflow.
        tasks: Its tasks, each after all of its parents, otherwise in the original order.

    Raises:
        GraphError: If there is no task, two have the same id, a parent is missing, tasks wait for
            each other in a circle, or an amount is negative or not a finite number.
    """

    name: str
    tasks: tuple[Task, ...]
    _by_id: dict[str, Task] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the tasks, and sort them topologically."""
        if not self.tasks:
            raise GraphError(f'workflow "{self.name}" has no tasks')
        known = {task.id: task for task in self.tasks}
        if len(known) < len(self.tasks):
            (id, _), *_ = Counter(task.id for task in self.tasks).most_common(1)
            raise GraphError(f'two tasks have the id "{id}"')
        for task in self.tasks:
            _check(task, known)
        object.__setattr__(self, "tasks", _in_order(self.tasks))
        object.__setattr__(self, "_by_id", known)

    def __getitem__(self, id: str) -> Task:
        """Return the task with an id."""
        return self._by_id[id]

    @property
    def total_work(self) -> float:
        """The seconds of all tasks together: the makespan on one worker without overhead."""
        return math.fsum(task.seconds for task in self.tasks)

    @property
    def critical_path(self) -> tuple[str, ...]:
        """The ids of the tasks on the longest path through the workflow, first to last."""
        ends = self._ends()
        last = max(self.tasks, key=lambda task: ends[task.id])
        path = [last]
        while path[-1].parents:
            path.append(self[max(path[-1].parents, key=ends.__getitem__)])
        return tuple(task.id for task in reversed(path))

    @property
    def critical_seconds(self) -> float:
        """The seconds of the critical path: the makespan with unlimited workers."""
        return max(self._ends().values())

    @property
    def depth(self) -> int:
        """The largest number of tasks that follow each other."""
        return max(self._levels().values()) + 1

    @property
    def width(self) -> int:
        """The largest number of tasks at the same depth."""
        return max(Counter(self._levels().values()).values())

    def lower_bound(self, workers: int) -> float:
        """Return the makespan that no scheduler can beat: `max(critical path, work / workers)`.

        Args:
            workers: How many tasks can run at once, at least one.

        Returns:
            Seconds.

        Raises:
            GraphError: If there is no worker.
        """
        if workers < 1:
            raise GraphError(f"workers={workers}: a workflow needs at least one")
        return max(self.critical_seconds, self.total_work / workers)

    def _ends(self) -> dict[str, float]:
        ends: dict[str, float] = {}
        for task in self.tasks:
            start = max((ends[parent] for parent in task.parents), default=0.0)
            ends[task.id] = start + task.seconds
        return ends

    def _levels(self) -> dict[str, int]:
        levels: dict[str, int] = {}
        for task in self.tasks:
            levels[task.id] = max((levels[parent] + 1 for parent in task.parents), default=0)
        return levels


def _check(task: Task, known: dict[str, Task]) -> None:
    for parent in task.parents:
        if parent not in known:
            raise GraphError(f'task "{task.id}" waits for "{parent}", which is not a task')
    if not (math.isfinite(task.seconds) and task.seconds >= 0):
        raise GraphError(f'task "{task.id}" takes {task.seconds} seconds: give zero or more')
    if task.output_bytes < 0:
        raise GraphError(f'task "{task.id}" returns {task.output_bytes} bytes: give zero or more')
    if task.kernel not in get_args(Kernel):
        kernels = ", ".join(get_args(Kernel))
        raise GraphError(
            f'task "{task.id}" has the kernel "{task.kernel}": choose one of {kernels}'
        )


def _in_order(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Sort tasks so that each follows its parents."""
    by_id = {task.id: task for task in tasks}
    # All ids first: otherwise a parent would come where it is first named as one.
    sorter = TopologicalSorter(dict.fromkeys(by_id, ()))
    for task in by_id.values():
        sorter.add(task.id, *task.parents)
    try:
        return tuple(by_id[id] for id in sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(f'"{id}"' for id in error.args[1])
        raise GraphError(f"tasks wait for each other: {circle}") from None
