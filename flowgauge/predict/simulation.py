# SPDX-License-Identifier: Apache-2.0
"""Simulates a workflow on a task runner whose costs are known, without Prefect or real waiting."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from flowgauge.runners.table import RUNNERS, ExecutionModel
from flowgauge.workflows.workflow import Kernel, Task, Workflow

HOLDS_INTERPRETER: frozenset[Kernel] = frozenset({"python", "memory", "bytes"})
"""Kernels that hold the interpreter's lock: only one of them runs at a time in a process."""


@dataclass(frozen=True)
class Costs:
    """The costs of a task runner.

    Attributes:
        submit: Seconds for which the flow's own thread is busy with each task that it submits.
        task: Seconds for which a worker is busy with each task, apart from its work.
        dependency_latency: Seconds from the end of a task's last parent until it may start.
        byte: Seconds for each byte of a result, half in the task that returns it and half in
            each task that reads it.
        background: Seconds for which a core is busy with each task apart from all workers, while
            they go on: with its events, in the server and in threads that send to it.
    """

    submit: float
    task: float
    dependency_latency: float
    byte: float
    background: float = 0.0


FREE = Costs(0.0, 0.0, 0.0, 0.0)
"""A task runner that costs nothing."""


@dataclass(frozen=True)
class Machine:
    """The machine that the workers share.

    Attributes:
        workers: How many tasks run at once.
        cores: How many of them can compute at once.
        load: How many other processes compute at the same time, on average; each gets an equal
            share of the cores.
    """

    workers: int
    cores: float
    load: float = 0.0

    @property
    def pace(self) -> float:
        """Seconds of work that each worker does in a second while all of them compute."""
        return min(1.0, self.cores / (self.workers + self.load))

    def at_pace(self, pace: float) -> Machine:
        """Return the machine with the load at which its workers have a given pace."""
        return replace(self, load=max(self.cores / pace - self.workers, 0.0))


_KINDS = _PLAIN, _CORE, _LOCK, _BACKGROUND = 0, 1, 2, 3
"""What an activity needs: nothing (it waits), a core, a core and the flow's interpreter, or the one
core on which all that goes on in the background shares."""


class _Clock:
    """Simulated time for concurrent activities, which share what they need equally.

    All activities of one kind progress equally fast, so each kind has its own progress counter:
    how far an activity would be that started at time zero. Only the pace of the counters changes.
    """

    def __init__(self, machine: Machine) -> None:
        self.now = 0.0
        self._cores, self._load = machine.cores, machine.load
        self._progress = [0.0] * len(_KINDS)
        self._ends: tuple[list[tuple[float, int, Callable[[], None]]], ...] = ([], [], [], [])
        self._started = 0

    def begin(self, kind: int, seconds: float, then: Callable[[], None]) -> None:
        """Start an activity that takes the given seconds if it shares with no other."""
        self._started += 1
        heappush(self._ends[kind], (self._progress[kind] + seconds, self._started, then))

    def run(self) -> float:
        """Run until only the background is left, and return the simulated seconds."""
        progress, ends = self._progress, self._ends
        plain, core, lock, background = ends
        while plain or core or lock:
            locking, behind = len(lock), len(background)
            sharing = len(core) + (1 if locking else 0) + (1 if behind else 0) + self._load
            share = self._cores / sharing if sharing > self._cores else 1.0
            paces = (1.0, share, share / (locking or 1), share / (behind or 1))
            left, next_kind = math.inf, _PLAIN
            for kind in _KINDS:
                if ends[kind]:
                    until = (ends[kind][0][0] - progress[kind]) / paces[kind]
                    if until < left:
                        left, next_kind = until, kind
            self.now += left
            for kind in _KINDS:
                if ends[kind]:
                    progress[kind] += left * paces[kind]
            progress[next_kind], _, then = heappop(ends[next_kind])
            then()
        return self.now


class _Simulation:
    """One workflow on one task runner."""

    def __init__(
        self, workflow: Workflow, model: ExecutionModel, costs: Costs, machine: Machine
    ) -> None:
        self.workflow, self.model, self.costs = workflow, model, costs
        self.clock = _Clock(machine)
        self.unsubmitted = deque(workflow.tasks)
        self.waits = {task.id: len(set(task.parents)) for task in workflow.tasks}
        self.children: dict[str, list[Task]] = {task.id: [] for task in workflow.tasks}
        for task in workflow.tasks:
            for parent in set(task.parents):
                self.children[parent].append(task)
        self.places = math.inf if model.waits_at == "scheduler" else machine.workers
        self.idle = math.inf if model.waits_at == "worker" else machine.workers
        self.queue: deque[Task] = deque()
        self.ready: deque[Task] = deque()
        self.placed: set[str] = set()

    def submit_next(self) -> None:
        """Submit the next task from the flow's thread."""
        if self.unsubmitted:
            task = self.unsubmitted.popleft()
            then = self.start if self.model.inline else self.submitted
            self.clock.begin(_LOCK, self.costs.submit, lambda: then(task))

    def submitted(self, task: Task) -> None:
        """Queue a submitted task."""
        self.queue.append(task)
        self.submit_next()
        self.fill_places()

    def fill_places(self) -> None:
        """Give queued tasks, in order of submission, the free places to wait for their parents."""
        while self.queue and self.places:
            self.places -= 1
            task = self.queue.popleft()
            self.placed.add(task.id)
            if not self.waits[task.id]:
                self.parents_ended(task)

    def parents_ended(self, task: Task) -> None:
        """Make a task ready after the dependency latency; at once if it has no parents."""
        self.placed.discard(task.id)
        if task.parents:
            self.clock.begin(_PLAIN, self.costs.dependency_latency, lambda: self.is_ready(task))
        else:
            self.is_ready(task)

    def is_ready(self, task: Task) -> None:
        """Add a task to those that run as soon as a worker is idle."""
        self.ready.append(task)
        if self.model.waits_at == "queue":
            self.places += 1
            self.fill_places()
        self.fill_workers()

    def fill_workers(self) -> None:
        """Start ready tasks on idle workers."""
        while self.ready and self.idle:
            self.idle -= 1
            self.start(self.ready.popleft())

    def start(self, task: Task) -> None:
        """Let a worker do a task: read its inputs, work, and pass its result on."""
        input_bytes = sum(self.workflow[parent].output_bytes for parent in task.needs)
        before = self.costs.task + self.costs.byte * input_bytes / 2
        after = self.costs.byte * task.output_bytes / 2
        around, work = self.kind("python"), self.kind(task.kernel)
        begin = self.clock.begin
        if self.costs.background:
            begin(_BACKGROUND, self.costs.background, lambda: None)

        def ended() -> None:
            self.ended(task)

        if work == around:
            begin(work, before + task.seconds + after, ended)
        else:
            begin(
                around,
                before,
                lambda: begin(work, task.seconds, lambda: begin(around, after, ended)),
            )

    def ended(self, task: Task) -> None:
        """Free the worker, and make children ready that waited only for this task."""
        for child in self.children[task.id]:
            self.waits[child.id] -= 1
            if not self.waits[child.id] and child.id in self.placed:
                self.parents_ended(child)
        if self.model.inline:
            self.submit_next()
        elif self.model.waits_at == "worker":
            self.places += 1
            self.fill_places()
        else:
            self.idle += 1
            self.fill_workers()

    def kind(self, kernel: Kernel) -> int:
        """Return what a kernel needs: one of `_KINDS`."""
        if kernel == "wait":
            return _PLAIN
        shared = self.model.one_interpreter and kernel in HOLDS_INTERPRETER
        return _LOCK if shared else _CORE


def simulated_makespan(workflow: Workflow, runner: str, costs: Costs, machine: Machine) -> float:
    """Return how long a workflow takes on a task runner.

    Args:
        workflow: What is run, inside a flow that is running already; its subflows are ignored.
        runner: The name of the task runner.
        costs: The costs of the task runner.
        machine: The machine that it runs on.

    Returns:
        Seconds from the first submission to the end of the last task.
    """
    run = _Simulation(workflow, RUNNERS[runner].execution, costs, machine)
    run.submit_next()
    return run.clock.run()


def least_makespan(workflow: Workflow, runner: str, machine: Machine) -> float:
    """Return the makespan that no costs and no load of the machine can beat.

    Args:
        workflow: What is run; its subflows are ignored.
        runner: The name of the task runner.
        machine: The machine that it runs on; its load is ignored.

    Returns:
        Seconds: the largest of the critical path, the work for each worker, the computing for each
        core, and, if the workers share an interpreter, the work that holds it.
    """
    model = RUNNERS[runner].execution
    if model.inline:
        return workflow.total_work
    computing = math.fsum(task.seconds for task in workflow.tasks if task.kernel != "wait")
    holding = (task.seconds for task in workflow.tasks if task.kernel in HOLDS_INTERPRETER)
    return max(
        workflow.lower_bound(machine.workers),
        computing / machine.cores,
        math.fsum(holding) if model.one_interpreter else 0.0,
    )
