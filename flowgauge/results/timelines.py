# SPDX-License-Identifier: Apache-2.0
"""Timelines: when each task of a workflow ran, and on which worker."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from flowgauge.json_file import EXACT
from flowgauge.workflows.work_items import TaskResult

_DIGITS = 6


class Span(NamedTuple):
    """One task on the worker that did it.

    Attributes:
        task: The id of the task.
        lane: The number of its worker, from 0, in the order of their first tasks.
        start: When it started, in seconds after the start of the workflow's first task.
        end: When it ended, in seconds after the same moment.
    """

    task: str
    lane: int
    start: float
    end: float

    @property
    def kind(self) -> str:
        """The kind of the task: the first word of its id, without a number at the end."""
        return re.sub(r"\d+$", "", re.split(r"[\W_]", self.task)[0]) or self.task


@dataclass(frozen=True)
class Timeline:
    """The timeline of one run of a workflow.

    Attributes:
        workflow: The name of the workflow.
        runner: The name of the task runner or baseline.
        lower_bound: The makespan in seconds that no scheduler can beat.
        spans: The tasks, in the order in which they started.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    workflow: str
    runner: str
    lower_bound: float
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the start of the first task to the end of the last one."""
        return max((span.end for span in self.spans), default=0.0)


def timeline(
    workflow: str, runner: str, lower_bound: float, outputs: Iterable[TaskResult]
) -> Timeline:
    """Create the timeline of a run from the results of its tasks.

    Args:
        workflow: The name of the workflow.
        runner: The name of the task runner or baseline.
        lower_bound: The makespan in seconds that no scheduler can beat.
        outputs: The results of its tasks, at least one.

    Returns:
        The timeline.
    """
    ordered = sorted(outputs, key=lambda output: (output.started, output.id))
    workers = dict.fromkeys(output.worker for output in ordered)
    lanes = {worker: number for number, worker in enumerate(workers)}
    first = ordered[0].started
    spans = tuple(
        Span(
            output.id,
            lanes[output.worker],
            round(output.started - first, _DIGITS),
            round(output.ended - first, _DIGITS),
        )
        for output in ordered
    )
    return Timeline(workflow, runner, lower_bound, spans)
