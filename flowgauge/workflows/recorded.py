# SPDX-License-Identifier: Apache-2.0
"""A recorded flow run as a workflow: its task runs, how long each ran, and what it read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from flowgauge.workflows.workflow import Task, Workflow


@dataclass(frozen=True)
class RecordedRun:
    """A task run, or the run of a subflow, which a flow run's record has in place of one.

    Attributes:
        key: Its identifier.
        name: Its name.
        seconds: How long it ran, all attempts together, without waits between them.
        reads: The keys of the runs whose results it received.
        waits_for: The keys of the runs that it waited for without reading their results.
        inside: The key of the task run that it was a part of; empty if of none.
        subflow: If it is the run of a subflow, what ran in that.
        output_bytes: The size of its stored result; 0 if unknown.
    """

    key: str
    name: str
    seconds: float = 0.0
    reads: frozenset[str] = frozenset()
    waits_for: frozenset[str] = frozenset()
    inside: str = ""
    subflow: tuple[RecordedRun, ...] = ()
    output_bytes: int = 0


def as_workflow(name: str, runs: Iterable[RecordedRun]) -> Workflow:
    """Return the workflow that a flow run has executed.

    A task run inside of another one is a part of it, and not a task. The task runs of a subflow
    begin after what the subflow waited for; what waited for the subflow waits for all of them.

    Args:
        name: The name of the workflow.
        runs: The task runs of the flow run.

    Returns:
        The workflow, with the kernel `wait` for all tasks.

    Raises:
        GraphError: If there are no task runs.
    """
    tasks: dict[str, RecordedRun] = {}
    stand_ins: dict[str, tuple[str, ...]] = {}
    _expand(runs, frozenset(), tasks, stand_ins)
    ids = _unique(tasks)

    def resolved(keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for key in keys:
            found |= {key} if key in tasks else resolved(stand_ins.get(key, ()))
        return found

    def named(keys: set[str]) -> tuple[str, ...]:
        return tuple(ids[key] for key in tasks if key in keys)

    listed = []
    for key, run in tasks.items():
        needs = resolved(run.reads) - {key}
        after = resolved(run.waits_for) - needs - {key}
        size = run.output_bytes
        listed.append(Task(ids[key], named(needs), named(after), run.seconds, output_bytes=size))
    return Workflow(name, tuple(listed))


def _expand(
    runs: Iterable[RecordedRun],
    before: frozenset[str],
    tasks: dict[str, RecordedRun],
    stand_ins: dict[str, tuple[str, ...]],
) -> None:
    """Add runs to `tasks`, or to `stand_ins` those that others stand for."""
    for run in runs:
        if run.inside:
            stand_ins[run.key] = (run.inside,)
        elif run.subflow:
            _expand(run.subflow, before | run.reads | run.waits_for, tasks, stand_ins)
            stand_ins[run.key] = tuple(inner.key for inner in run.subflow)
        else:
            tasks[run.key] = replace(run, waits_for=run.waits_for | before)


def _unique(tasks: Mapping[str, RecordedRun]) -> dict[str, str]:
    """Return a unique name for each run, its own if no other one has it."""
    count = Counter(run.name for run in tasks.values())
    return {
        key: run.name if count[run.name] == 1 else f"{run.name}-{key}" for key, run in tasks.items()
    }
