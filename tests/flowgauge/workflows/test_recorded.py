# SPDX-License-Identifier: Apache-2.0
"""A recorded flow run becomes a workflow with the same order and the same durations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows.recorded import RecordedRun, as_workflow
from flowgauge.workflows.workflow import Task


def keys(*names: str) -> frozenset[str]:
    """Return keys."""
    return frozenset(names)


def test_reads_and_waits_are_told_apart() -> None:
    """A task needs what it reads, and starts after what it only waited for."""
    workflow = as_workflow(
        "bakery",
        [
            RecordedRun("1", "mix", 2.0, output_bytes=7),
            RecordedRun("2", "heat", 1.0),
            RecordedRun("3", "bake", 4.0, reads=keys("1"), waits_for=keys("1", "2")),
        ],
    )
    assert workflow.tasks == (
        Task("mix", seconds=2.0, output_bytes=7),
        Task("heat", seconds=1.0),
        Task("bake", ("mix",), ("heat",), 4.0),
    )


def test_a_task_run_inside_of_another_is_a_part_of_it() -> None:
    """What was called in a task is no task; who reads its result needs the one it was called in."""
    workflow = as_workflow(
        "bakery",
        [
            RecordedRun("1", "mix", 2.0),
            RecordedRun("2", "sift", 1.0, inside="1"),
            RecordedRun("3", "weigh", 1.0, inside="2"),
            RecordedRun("4", "bake", 4.0, reads=keys("3")),
        ],
    )
    assert workflow.tasks == (Task("mix", seconds=2.0), Task("bake", ("mix",), seconds=4.0))


def test_a_subflow_stands_for_its_tasks() -> None:
    """A subflow's tasks start after what it waited for, and who waits for it waits for them all."""
    inner = (
        RecordedRun("2", "sift", 1.0),
        RecordedRun("3", "mix", 2.0, reads=keys("2")),
        RecordedRun("4", "rest", 3.0, subflow=(RecordedRun("5", "sleep", 9.0),)),
    )
    workflow = as_workflow(
        "bakery",
        [
            RecordedRun("1", "buy", 5.0),
            RecordedRun("9", "dough", 6.0, reads=keys("1"), subflow=inner),
            RecordedRun("6", "bake", 4.0, reads=keys("9")),
        ],
    )
    assert {task.id: (task.needs, task.after) for task in workflow.tasks} == {
        "buy": ((), ()),
        "sift": ((), ("buy",)),
        "mix": (("sift",), ("buy",)),
        "sleep": ((), ("buy",)),
        "bake": (("sift", "mix", "sleep"), ()),
    }
    assert workflow.critical_path == ("buy", "sleep", "bake")


def test_runs_with_the_same_name_stay_apart() -> None:
    """Task runs that share a name are told apart by their keys."""
    runs = [RecordedRun("1", "mix"), RecordedRun("2", "mix"), RecordedRun("3", "bake")]
    assert [task.id for task in as_workflow("bakery", runs).tasks] == ["mix-1", "mix-2", "bake"]


@given(st.data())
def test_nothing_is_lost(data: st.DataObject) -> None:
    """All seconds, and all edges between task runs that are in no other one, are there."""
    count = data.draw(st.integers(1, 8))
    runs = []
    for number in range(count):
        some = st.frozensets(st.sampled_from([str(n) for n in range(number)] or ["unknown"]))
        seconds = data.draw(st.floats(0, 100))
        runs.append(
            RecordedRun(str(number), f"n{number}", seconds, data.draw(some), data.draw(some))
        )
    workflow = as_workflow("any", runs)
    assert {task.id: task.seconds for task in workflow.tasks} == {r.name: r.seconds for r in runs}
    for run in runs:
        before = {f"n{key}" for key in run.reads | run.waits_for if key != "unknown"}
        assert set(workflow[run.name].parents) == before
