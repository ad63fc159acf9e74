# SPDX-License-Identifier: Apache-2.0
"""When each task of a workflow ran, and which worker did it."""

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
        task: Its id.
        lane: The number of its worker, from 0, in the order in which they began.
        start: Seconds after the workflow's first task began.
        end: The same, when it had ended.
    """

    task: str
    lane: int
    start: float
    end: float

    @property
    def kind(self) -> str:
        """What its id says it does: its first word, without a number at the end."""
        return re.sub(r"\d+$", "", re.split(r"[\W_]", self.task)[0]) or self.task


@dataclass(frozen=True)
class Timeline:
    """One run of a workflow.

    Attributes:
        workflow: Its name.
        runner: What ran it.
        lower_bound: Seconds that no scheduler can beat.
        spans: Its tasks, in the order in which they began.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    workflow: str
    runner: str
    lower_bound: float
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the begin of the first task to the end of the last one."""
        return max((span.end for span in self.spans), default=0.0)


def timeline(
    workflow: str, runner: str, lower_bound: float, outputs: Iterable[TaskResult]
) -> Timeline:
    """Make a timeline of what the workers of a run gave back.

    Args:
        workflow: Its name.
        runner: What ran it.
        lower_bound: Seconds that no scheduler can beat.
        outputs: The results of its tasks, one at least.

    Returns:
        The timeline.
    """
    begun = sorted(outputs, key=lambda output: (output.started, output.id))
    lanes = {worker: n for n, worker in enumerate(dict.fromkeys(each.worker for each in begun))}
    first = begun[0].started
    spans = tuple(
        Span(
            each.id,
            lanes[each.worker],
            round(each.started - first, _DIGITS),
            round(each.ended - first, _DIGITS),
        )
        for each in begun
    )
    return Timeline(workflow, runner, lower_bound, spans)
