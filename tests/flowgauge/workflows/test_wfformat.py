# SPDX-License-Identifier: Apache-2.0
"""Traces in WfFormat are read and written, and a broken one is reported in one line."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows.shapes import SHAPES, shape
from flowgauge.workflows.wfformat import dump_workflow, load_workflow, parse_workflow
from flowgauge.workflows.workflow import GraphError, Task, Workflow

TRACE: dict[str, Any] = {
    "name": "bakery",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {
                    "name": "mix",
                    "id": "mix_1",
                    "parents": [],
                    "children": ["bake_2"],
                    "inputFiles": ["flour"],
                    "outputFiles": ["dough", "crumbs"],
                },
                {
                    "name": "heat",
                    "id": "heat_3",
                    "parents": [],
                    "children": ["bake_2"],
                },
                {
                    "name": "bake",
                    "id": "bake_2",
                    "parents": ["mix_1", "heat_3"],
                    "children": [],
                    "inputFiles": ["dough"],
                    "outputFiles": [],
                },
            ],
            "files": [
                {"id": "flour", "sizeInBytes": 500},
                {"id": "dough", "sizeInBytes": 700},
                {"id": "crumbs", "sizeInBytes": 5},
            ],
        },
        "execution": {
            "makespanInSeconds": 70,
            "executedAt": "2026-01-01T00:00:00Z",
            "tasks": [
                {"id": "mix_1", "runtimeInSeconds": 12.5},
                {"id": "bake_2", "runtimeInSeconds": 40},
            ],
        },
    },
}


def test_a_trace_is_read() -> None:
    """A parent provides data if one of its files is read, and is only waited for if not."""
    assert parse_workflow(TRACE) == Workflow(
        "bakery",
        (
            Task("mix_1", seconds=12.5, output_bytes=705),
            Task("heat_3"),
            Task("bake_2", needs=("mix_1",), after=("heat_3",), seconds=40),
        ),
    )


@given(st.sampled_from(SHAPES), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, width: int, steps: int, size: int
) -> None:
    """A workflow of `wait` kernels is read back unchanged, whatever its edges and sizes."""
    workflow = shape(name, width, steps, seconds=0.25, output_bytes=size)
    file = tmp_path_factory.mktemp("trace") / "trace.json"
    dump_workflow(workflow, file)
    assert load_workflow(file) == workflow


def test_edges_without_data_are_written_too(tmp_path: Path) -> None:
    """An edge without data is read back as one, even if the parent gives data to another task."""
    tasks = (Task("a", output_bytes=3), Task("b", after=("a",)), Task("c", ("a",), ("b",)))
    dump_workflow(Workflow("edges", tasks), tmp_path / "trace.json")
    assert load_workflow(tmp_path / "trace.json").tasks == tasks


BROKEN: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "no tasks": (("specification", "tasks"), [], 'workflow "bakery" has no tasks'),
    "tasks missing": (
        ("specification", "tasks"),
        None,
        'specification.tasks" has a wrong type: null',
    ),
    "missing parent": (
        ("specification", "tasks", 2, "parents"),
        ["knead"],
        'task "bake_2": parent "knead" is not a task',
    ),
    "cycle": (("specification", "tasks", 0, "parents"), ["bake_2"], "tasks wait for each other"),
    "negative": (
        ("execution", "tasks", 0, "runtimeInSeconds"),
        -1,
        'task "mix_1": runtimeInSeconds is -1',
    ),
    "text": (
        ("execution", "tasks", 0, "runtimeInSeconds"),
        "long",
        'runtimeInSeconds" has a wrong type: "long"',
    ),
    "ghost": (("execution", "tasks", 0, "id"), "knead", 'task "knead" is in execution but not'),
    "file": (
        ("specification", "files", 1, "id"),
        "bread",
        'task "mix_1": "dough" is in outputFiles but not in files',
    ),
    "size": (("specification", "files", 1), {"id": "dough"}, 'field "sizeInBytes" of task "dough"'),
}


@pytest.mark.parametrize(("path", "value", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_trace_is_reported_in_one_line(
    tmp_path: Path, path: tuple[Any, ...], value: Any, said: str
) -> None:
    """What is wrong is reported in one line, with the file and the task or field."""
    broken = copy.deepcopy(TRACE)
    place: Any = broken["workflow"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(broken))
    with pytest.raises(GraphError) as error:
        load_workflow(file)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", '"workflow" is missing'),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_trace_is_reported(tmp_path: Path, text: str, said: str) -> None:
    """A file that is not in WfFormat, or does not exist, is reported."""
    file = tmp_path / "trace.json"
    with pytest.raises(GraphError, match="cannot be read: no such file"):
        load_workflow(file)
    file.write_text(text)
    with pytest.raises(GraphError, match=said):
        load_workflow(file)


def test_the_time_to_read_grows_with_the_number_of_tasks(tmp_path: Path) -> None:
    """Ten times as many tasks take less than twenty times as many function calls."""

    def calls(width: int) -> int:
        file = tmp_path / f"{width}.json"
        dump_workflow(shape("chain", width, 10, seconds=1.0), file)
        counted = itertools.count()
        sys.setprofile(lambda frame, event, argument: event == "call" and next(counted))
        try:
            workflow = load_workflow(file)
        finally:
            sys.setprofile(None)
        assert len(workflow.tasks) == 10 * width
        assert workflow.lower_bound(2) == 5 * width
        return next(counted)

    calls(2)
    assert calls(200) < 20 * calls(20)
