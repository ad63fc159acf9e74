# SPDX-License-Identifier: Apache-2.0
"""When each task of a workflow ran and which worker did it, and the file that keeps it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgauge.files import write_whole
from flowgauge.results.rows import ResultsError
from flowgauge.workflows.work_items import Output

TIMELINES = "timelines.json"
_DIGITS = 6


@dataclass(frozen=True)
class Span:
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

    workflow: str
    runner: str
    lower_bound: float
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the begin of the first task to the end of the last one."""
        return max(span.end for span in self.spans)


def timeline(workflow: str, runner: str, lower_bound: float, outputs: Iterable[Output]) -> Timeline:
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


def keep_timeline(directory: Path, kept: Timeline) -> None:
    """Write a timeline beside the results, in place of one of the same workflow and runner.

    Args:
        directory: Of the report; made if need be.
        kept: The timeline.

    Raises:
        ResultsError: If the file that is there is broken.
        OSError: If the folder cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    others = [
        each
        for each in load_timelines(directory)
        if (each.workflow, each.runner) != (kept.workflow, kept.runner)
    ]
    document = {"timelines": [_record(each) for each in (*others, kept)]}
    write_whole(directory / TIMELINES, json.dumps(document, ensure_ascii=False) + "\n")


def load_timelines(directory: Path) -> tuple[Timeline, ...]:
    """Read the timelines beside results.

    Args:
        directory: Of the report.

    Returns:
        The timelines; none where there is no file, as beside older results.

    Raises:
        ResultsError: If the file is broken; the message is one line.
    """
    file = directory / TIMELINES
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return tuple(_timeline(record) for record in document["timelines"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultsError(f"{file} is broken: remove it, and measure again") from None


def _record(kept: Timeline) -> dict[str, Any]:
    return {
        "workflow": kept.workflow,
        "runner": kept.runner,
        "lower_bound": kept.lower_bound,
        "spans": [[span.task, span.lane, span.start, span.end] for span in kept.spans],
    }


def _timeline(record: Any) -> Timeline:
    """Return a record as a timeline, or raise what `load_timelines` takes for a broken file."""
    spans = tuple(
        Span(str(task), int(lane), float(start), float(end))
        for task, lane, start, end in record["spans"]
    )
    bound = float(record["lower_bound"])
    times = (bound, *(time for span in spans for time in (span.start, span.end)))
    if not spans or not all(map(math.isfinite, times)):
        raise ValueError("a timeline without tasks or times")
    return Timeline(str(record["workflow"]), str(record["runner"]), bound, spans)
