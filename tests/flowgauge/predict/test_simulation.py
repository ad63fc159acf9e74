# SPDX-License-Identifier: Apache-2.0
"""The simulation takes as long as a task runner of known costs would."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.predict.simulation import Costs, Machine, simulated_makespan
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import SHAPES, random_layered, shape
from flowgauge.workflows.workflow import Kernel, Task, Workflow

FREE = Costs(0.0, 0.0, 0.0, 0.0)
TWO = Machine(2, 2.0)
KERNELS = get_args(Kernel)
runners = st.sampled_from(sorted(RUNNERS))
seconds = st.floats(0, 1)


@given(
    runners,
    st.sampled_from(SHAPES),
    st.builds(Costs, seconds, seconds, seconds, st.just(0.0)),
    st.sampled_from(KERNELS),
    st.integers(1, 4),
)
def test_nothing_beats_the_lower_bound(
    runner: str, name: str, costs: Costs, kernel: Kernel, workers: int
) -> None:
    """Whatever the costs, a makespan is no shorter than the bound and than all submissions."""
    workflow = shape(name, 3, 3, seconds=0.5, kernel=kernel)
    taken = simulated_makespan(workflow, runner, costs, Machine(workers, workers))
    assert taken >= workflow.lower_bound(workers) * (1 - 1e-9)
    assert taken >= len(workflow.tasks) * costs.submit * (1 - 1e-9)


@given(runners, st.integers(1, 40), st.integers(0, 100))
def test_one_free_worker_takes_the_total_work(runner: str, width: int, seed: int) -> None:
    """Where nothing costs anything, one worker takes as long as all tasks together."""
    workflow = random_layered(3, 1 + width // 4, seed=seed, seconds=0.25, kernel="native")
    taken = simulated_makespan(workflow, runner, FREE, Machine(1, 1.0))
    assert taken == pytest.approx(workflow.total_work)


@pytest.mark.parametrize(("kernel", "together"), [("python", 4.0), ("native", 2.0), ("wait", 2.0)])
def test_threads_share_an_interpreter(kernel: Kernel, together: float) -> None:
    """Four tasks of a second on two threads take two, and four where they hold the lock."""
    workflow = shape("trivial", 4, 1, seconds=1.0, kernel=kernel)
    assert simulated_makespan(workflow, "threads", FREE, TWO) == pytest.approx(together)
    assert simulated_makespan(workflow, "processes", FREE, TWO) == pytest.approx(2.0)
    assert simulated_makespan(workflow, "sequential", FREE, TWO) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("runner", "taken"),
    # The parent takes three seconds, its child one and the other two.
    [("threads", 6.0), ("processes", 5.0), ("dask-processes", 4.0), ("sequential", 6.0)],
)
def test_where_a_task_waits_for_its_parent(runner: str, taken: float) -> None:
    """On threads a task that waits keeps a worker; with processes it keeps those behind it."""
    tasks = (
        Task("parent", seconds=3.0),
        Task("child", ("parent",), seconds=1.0),
        Task("other", seconds=2.0),
    )
    queued = Workflow("queued", (*tasks[:1], *(Task(f"c{i}", ("parent",)) for i in "12"), tasks[2]))
    assert [task.id for task in queued.tasks][-2:] == ["c1", "c2"]
    assert simulated_makespan(Workflow("w", tasks), runner, FREE, TWO) <= taken


def test_costs_add_up() -> None:
    """A chain pays each cost for each of its tasks, and hand-overs between them."""
    chain = shape("chain", 1, 3, seconds=1.0, output_bytes=100)
    costs = Costs(submit=0.5, task=0.25, dependency_latency=0.125, byte=0.01)
    # Submissions but the first go on beside the work; a byte costs half on either side.
    taken = 0.5 + 3 * (1.0 + 0.25) + 2 * 0.125 + 5 * 0.5
    assert simulated_makespan(chain, "dask-processes", costs, TWO) == pytest.approx(taken)


@given(st.integers(1, 8), st.floats(0.05, 1))
def test_load_slows_to_a_pace(workers: int, pace: float) -> None:
    """At a pace, as many tasks as workers take as much longer; those that wait do not."""
    machine = Machine(workers, workers).at_pace(pace)
    for kernel, taken in (("native", 1 / pace), ("wait", 1.0)):
        workflow = shape("trivial", workers, 1, seconds=1.0, kernel=kernel)
        assert simulated_makespan(workflow, "processes", FREE, machine) == pytest.approx(taken)
    assert machine.pace == pytest.approx(pace)
