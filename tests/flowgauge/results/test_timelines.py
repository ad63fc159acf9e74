# SPDX-License-Identifier: Apache-2.0
"""A timeline says when each task ran and on which worker, and survives its file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.results.rows import ResultsError
from flowgauge.results.timelines import (
    TIMELINES,
    Span,
    Timeline,
    keep_timeline,
    load_timelines,
    timeline,
)
from flowgauge.workflows.work_items import Output, makespan

times = st.floats(0, 1e4).map(lambda value: round(value, 6))
spans = st.builds(Span, st.text("ab_1", min_size=1), st.integers(0, 9), times, times)
timelines = st.builds(
    Timeline,
    st.sampled_from("ab"),
    st.sampled_from(["threads", "processes"]),
    times,
    st.lists(spans, min_size=1).map(tuple),
)


@given(st.lists(timelines))
def test_the_last_of_each_workflow_and_runner_is_kept(kept: list[Timeline]) -> None:
    """What is read is what was written last for each workflow and runner."""
    with tempfile.TemporaryDirectory() as folder:
        for each in kept:
            keep_timeline(Path(folder), each)
        found = load_timelines(Path(folder))
    assert {(each.workflow, each.runner): each for each in kept} == {
        (each.workflow, each.runner): each for each in found
    }
    assert len(found) == len({(each.workflow, each.runner) for each in kept})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"timelines": [{}]}', '{"timelines": [{"spans": []}]}']
)
def test_a_broken_file_is_told_in_a_line(tmp_path: Path, text: str) -> None:
    """The line names the file and says how to mend it."""
    (tmp_path / TIMELINES).write_text(text)
    with pytest.raises(ResultsError, match=r"\A.*timelines\.json is broken: remove it, .*\Z"):
        load_timelines(tmp_path)


def test_workers_are_lanes_in_the_order_they_began() -> None:
    """Times count from the first task's begin; a worker has one lane; the makespan stays."""
    outputs = [
        Output("fold_2", 0, b"", 101.0, 103.0, "b"),
        Output("fold_1", 0, b"", 100.0, 101.5, "a"),
        Output("merge", 0, b"", 103.0, 104.0, "a"),
    ]
    made = timeline("w", "threads", 2.0, outputs)
    assert [(span.task, span.lane, span.start) for span in made.spans] == [
        ("fold_1", 0, 0.0),
        ("fold_2", 1, 1.0),
        ("merge", 0, 3.0),
    ]
    assert [span.kind for span in made.spans] == ["fold", "fold", "merge"]
    assert made.makespan == makespan(outputs) == 4.0
