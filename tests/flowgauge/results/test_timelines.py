# SPDX-License-Identifier: Apache-2.0
"""A timeline says when each task ran and on which worker."""

from __future__ import annotations

from flowgauge.results.timelines import timeline
from flowgauge.workflows.work_items import TaskResult, makespan


def test_workers_are_lanes_in_the_order_they_started() -> None:
    """Times count from the first task's start; each worker has one lane; the makespan is kept."""
    outputs = [
        TaskResult("fold_2", 0, b"", 101.0, 103.0, "b"),
        TaskResult("fold_1", 0, b"", 100.0, 101.5, "a"),
        TaskResult("merge", 0, b"", 103.0, 104.0, "a"),
    ]
    made = timeline("w", "threads", 2.0, outputs)
    assert [(span.task, span.lane, span.start) for span in made.spans] == [
        ("fold_1", 0, 0.0),
        ("fold_2", 1, 1.0),
        ("merge", 0, 3.0),
    ]
    assert [span.kind for span in made.spans] == ["fold", "fold", "merge"]
    assert made.makespan == makespan(outputs) == 4.0
