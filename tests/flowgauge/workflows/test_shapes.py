# SPDX-License-Identifier: Apache-2.0
"""Shapes have the tasks and edges that their names imply, at every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows.shapes import SHAPES, nested, random_layered, shape
from flowgauge.workflows.workflow import GraphError, Workflow

SIZES = st.integers(1, 9)


def needs(workflow: Workflow, id: str) -> list[str]:
    """Return which points of the previous step a task needs."""
    return [parent.partition(".")[2] for parent in workflow[id].needs]


@given(st.sampled_from(SHAPES), SIZES, SIZES)
def test_edges_lead_from_one_step_to_the_next(name: str, width: int, steps: int) -> None:
    """Tasks need only tasks of the previous step, none twice; the depth is the number of steps.

    In `trivial` no task needs another: its depth is one, and its width the number of tasks.
    """
    workflow = shape(name, width, steps, seconds=1.0)
    if name in ("trivial", "chain", "stencil"):
        assert workflow.width == (width * steps if name == "trivial" else width)
    for task in workflow.tasks:
        step = int(task.id.partition(".")[0])
        assert {parent.partition(".")[0] for parent in task.needs} <= {str(step - 1)}
        assert len(set(task.needs)) == len(task.needs)
        assert bool(task.needs) == (step > 0 and name != "trivial")
    assert workflow.depth == (1 if name == "trivial" else steps)


COUNTS = {"tree": 1 + 2 + 4 + 4, "fork-join": 1 + 4 + 1 + 4}


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_tasks_of_each_shape(name: str) -> None:
    """Four steps of width four have 16 tasks, unless the shape starts from or joins in one."""
    assert len(shape(name, 4, 4).tasks) == COUNTS.get(name, 16)


def test_edges_by_hand() -> None:
    """Some edges of each shape except `trivial` are those worked out by hand."""
    assert needs(shape("chain", 8, 2), "1.3") == ["3"]
    assert needs(shape("stencil", 8, 2), "1.0") == ["0", "1"]
    assert needs(shape("stencil", 8, 2), "1.3") == ["2", "3", "4"]
    assert needs(shape("tree", 8, 4), "3.5") == ["2"]
    assert needs(shape("tree", 8, 5), "4.5") == ["5"]
    assert [needs(shape("butterfly", 8, 5), f"{step}.5") for step in (1, 2, 3, 4)] == [
        ["4", "5"],
        ["5", "7"],
        ["1", "5"],
        ["4", "5"],
    ]
    assert needs(shape("spread", 9, 2), "1.8") == ["2", "5", "8"]
    assert needs(shape("fork-join", 3, 3), "1.2") == ["0"]
    assert needs(shape("fork-join", 3, 3), "2.0") == ["0", "1", "2"]


@given(SIZES, SIZES, st.integers(0, 99), st.floats(0, 1))
def test_random_workflows_are_repeatable(width: int, steps: int, seed: int, density: float) -> None:
    """A seed always gives the same workflow; a task after step 0 needs at least one other."""
    once, again = (random_layered(width, steps, seed=seed, density=density) for _ in range(2))
    assert once == again
    assert all(task.needs for task in once.tasks if not task.id.startswith("0."))


def test_another_seed_gives_another_workflow() -> None:
    """The seed decides which edges there are, and the density how many."""
    assert random_layered(8, 4, seed=1).tasks != random_layered(8, 4, seed=2).tasks
    edges = [
        sum(len(task.needs) for task in random_layered(8, 9, seed=1, density=density).tasks)
        for density in (0.0, 0.5, 1.0)
    ]
    assert edges[0] == 8 * 8
    assert edges[0] < edges[1] < edges[2] == 8 * 8 * 8


@given(st.integers(0, 4), SIZES)
def test_nesting_is_as_deep_as_asked_for(depth: int, width: int) -> None:
    """Each level is a subflow of the enclosing level, and needs the last task of that level."""
    workflow = nested(depth, width)
    assert {len(task.subflow) for task in workflow.tasks} == set(range(depth + 1))
    assert len(workflow.tasks) == (depth + 1) * width
    deepest = workflow[f"{depth}.0"]
    assert deepest.subflow == tuple(f"subflow-{number}" for number in range(1, depth + 1))
    assert deepest.needs == ((f"{depth - 1}.{width - 1}",) if depth else ())


def test_every_task_does_the_work_that_is_asked_for() -> None:
    """Each task has the seconds, kernel and output size that were asked for."""
    for workflow in (
        shape("stencil", 3, 2, seconds=0.5, kernel="native", output_bytes=7),
        random_layered(3, 2, seed=0, seconds=0.5, kernel="native", output_bytes=7),
        nested(1, 3, seconds=0.5, kernel="native", output_bytes=7),
    ):
        work = {(task.seconds, task.kernel, task.output_bytes) for task in workflow.tasks}
        assert work == {(0.5, "native", 7)}


def test_mistakes_are_reported() -> None:
    """An unknown shape, a size of zero and a density above one are reported."""
    with pytest.raises(GraphError, match='no shape "star": choose one of trivial, chain'):
        shape("star", 2, 2)
    with pytest.raises(GraphError, match="width=0 is too small"):
        shape("chain", 0, 2)
    with pytest.raises(GraphError, match="steps=0 is too small"):
        random_layered(2, 0, seed=1)
    with pytest.raises(GraphError, match="depth=0 is too small"):
        nested(-1, 2)
    with pytest.raises(GraphError, match="density=2 is not a share"):
        random_layered(2, 2, seed=1, density=2)
