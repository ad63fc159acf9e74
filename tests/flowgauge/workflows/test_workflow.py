# SPDX-License-Identifier: Apache-2.0
"""A workflow is checked, ordered and bounded as one would do it by hand."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows.workflow import GraphError, Task, Workflow

DIAMOND = Workflow(
    "diamond",
    (
        Task("end", needs=("left",), after=("right",), seconds=1),
        Task("left", needs=("start",), seconds=5),
        Task("right", needs=("start",), seconds=2),
        Task("start", seconds=3),
    ),
)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Draw a workflow whose tasks were given in any order."""
    count = draw(st.integers(1, 12))
    tasks = []
    for number in range(count):
        parents = draw(st.lists(st.integers(0, number - 1), unique=True)) if number else []
        split = draw(st.integers(0, len(parents)))
        names = tuple(f"t{parent}" for parent in parents)
        seconds = draw(st.integers(0, 100))
        tasks.append(Task(f"t{number}", names[:split], names[split:], seconds=seconds))
    return Workflow("drawn", tuple(draw(st.permutations(tasks))))


@given(workflows())
def test_parents_come_first_and_no_task_is_lost(workflow: Workflow) -> None:
    """Each task is listed exactly once, after all the tasks that it waits for."""
    place = {task.id: index for index, task in enumerate(workflow.tasks)}
    assert len(place) == len(workflow.tasks)
    assert {task.id for task in workflow.tasks} == {f"t{n}" for n in range(len(place))}
    for task in workflow.tasks:
        assert all(place[parent] < place[task.id] for parent in task.parents)


def paths(workflow: Workflow, end: str) -> list[tuple[str, ...]]:
    """Return every path to a task, found by plain recursion."""
    parents = set(workflow[end].parents)
    before = [path for parent in parents for path in paths(workflow, parent)]
    return [(*path, end) for path in before] or [(end,)]


@given(workflows())
def test_the_critical_path_is_the_longest_path(workflow: Workflow) -> None:
    """No path takes longer than the critical path; the depth is the most tasks on any path."""
    every = [path for task in workflow.tasks for path in paths(workflow, task.id)]
    seconds = [sum(workflow[id].seconds for id in path) for path in every]
    assert workflow.critical_seconds == max(seconds)
    assert workflow.critical_path in every
    assert sum(workflow[id].seconds for id in workflow.critical_path) == max(seconds)
    assert workflow.depth == max(map(len, every))


def makespan(workflow: Workflow, workers: int, chance: random.Random) -> float:
    """Return the makespan of workers that pick each next task at random."""
    ends: dict[str, float] = {}
    free = [0.0] * workers
    left = list(workflow.tasks)
    while left:
        ready = [task for task in left if all(parent in ends for parent in task.parents)]
        task = chance.choice(ready)
        left.remove(task)
        worker = free.index(min(free))
        start = max([free[worker], *(ends[parent] for parent in task.parents)])
        ends[task.id] = free[worker] = start + task.seconds
    return max(ends.values())


@given(workflows(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_no_schedule_beats_the_lower_bound(
    workflow: Workflow, workers: int, chance: random.Random
) -> None:
    """No order of tasks beats the lower bound, which for one worker is the total work."""
    assert makespan(workflow, workers, chance) >= workflow.lower_bound(workers)
    assert makespan(workflow, 1, chance) >= workflow.total_work
    assert workflow.lower_bound(1) == workflow.total_work


def test_a_diamond_by_hand() -> None:
    """The work, critical path and bounds of four tasks are those worked out by hand."""
    assert [task.id for task in DIAMOND.tasks] == ["start", "left", "right", "end"]
    assert DIAMOND.total_work == 11
    assert DIAMOND.critical_path == ("start", "left", "end")
    assert DIAMOND.critical_seconds == 9
    assert (DIAMOND.depth, DIAMOND.width) == (3, 2)
    assert [DIAMOND.lower_bound(workers) for workers in (1, 2)] == [11, 9]


BROKEN = {
    "no tasks": ((), 'workflow "broken" has no tasks'),
    "two of one id": ((Task("a"), Task("a")), 'two tasks have the id "a"'),
    "missing data": ((Task("a", ("b",)),), 'task "a" waits for "b", which is not a task'),
    "missing wait": ((Task("a", after=("b",)),), 'task "a" waits for "b", which is not a task'),
    "itself": ((Task("a", ("a",)),), 'tasks wait for each other: "a" -> "a"'),
    "negative": ((Task("a", seconds=-1),), 'task "a" takes -1 seconds'),
    "not a number": ((Task("a", seconds=float("nan")),), 'task "a" takes nan seconds'),
    "bytes": ((Task("a", output_bytes=-1),), 'task "a" returns -1 bytes'),
    "kernel": ((Task("a", kernel="gpu"),), 'task "a" has the kernel "gpu"'),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("tasks", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_workflow_is_reported_in_one_line(tasks: tuple[Task, ...], said: str) -> None:
    """A broken workflow is refused in one line that says what is wrong."""
    with pytest.raises(GraphError) as error:
        Workflow("broken", tasks)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@given(st.integers(2, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_a_cycle_is_named(length: int, others: int, chance: random.Random) -> None:
    """The tasks of a cycle, and no others, are named in the order in which they wait."""
    circle = [f"c{number}" for number in range(length)]
    tasks = [Task(id, (before,)) for before, id in itertools.pairwise([circle[-1], *circle])]
    tasks += [Task(f"after{number}", (chance.choice(circle),)) for number in range(others)]
    chance.shuffle(tasks)
    with pytest.raises(GraphError) as error:
        Workflow("broken", tuple(tasks))
    named = str(error.value).partition(": ")[2].replace('"', "").split(" -> ")
    assert named[0] == named[-1]
    start = circle.index(named[0])
    assert named[:-1] == circle[start:] + circle[:start]


def test_a_bound_needs_a_worker() -> None:
    """A bound for zero workers is refused."""
    with pytest.raises(GraphError, match="workers=0: a workflow needs at least one"):
        DIAMOND.lower_bound(0)
