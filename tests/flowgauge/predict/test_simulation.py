# SPDX-License-Identifier: Apache-2.0
"""A simulated makespan is what a task runner with known costs would take."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.predict.simulation import (
    FREE,
    Costs,
    Machine,
    least_makespan,
    simulated_makespan,
)
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import SHAPES, random_layered, shape
from flowgauge.workflows.workflow import Kernel, Task, Workflow

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
    """Whatever the costs, no makespan is below the lower bound or the time of all submissions."""
    workflow = shape(name, 3, 3, seconds=0.5, kernel=kernel)
    taken = simulated_makespan(workflow, runner, costs, Machine(workers, workers))
    assert taken >= workflow.lower_bound(workers) * (1 - 1e-9)
    assert taken >= len(workflow.tasks) * costs.submit * (1 - 1e-9)


@given(
    runners,
    st.integers(0, 100),
    st.builds(Costs, seconds, seconds, seconds, st.just(0.0), seconds),
    st.sampled_from(KERNELS),
    st.integers(1, 4),
    seconds,
)
def test_nothing_beats_the_least_makespan(
    runner: str, seed: int, costs: Costs, kernel: Kernel, cores: int, load: float
) -> None:
    """Cores, the interpreter and the critical path limit a makespan, whatever costs and load."""
    workflow = random_layered(3, 3, seed=seed, seconds=0.5, kernel=kernel)
    machine = Machine(3, cores, load)
    least = least_makespan(workflow, runner, machine)
    assert simulated_makespan(workflow, runner, costs, machine) >= least * (1 - 1e-9)
    serial = RUNNERS[runner].execution.inline or (
        RUNNERS[runner].execution.one_interpreter and kernel in ("python", "memory", "bytes")
    )
    if serial:
        assert least == pytest.approx(workflow.total_work)


@pytest.mark.parametrize(("kernel", "cores", "taken"), [("native", 2, 1.25), ("wait", 2, 1.0)])
@pytest.mark.parametrize("spare", [0, 1])
def test_the_background_only_slows_what_needs_its_core(
    kernel: Kernel, cores: int, taken: float, spare: int
) -> None:
    """What goes on in the background delays computing tasks if no core is left for it."""
    workflow = shape("trivial", 2, 1, seconds=1.0, kernel=kernel)
    costs = Costs(0.0, 0.0, 0.0, 0.0, background=0.25)
    found = simulated_makespan(workflow, "processes", costs, Machine(2, cores + spare))
    assert found == pytest.approx(1.0 if spare else taken)


@given(runners, st.integers(1, 40), st.integers(0, 100))
def test_one_worker_without_costs_takes_the_total_work(runner: str, width: int, seed: int) -> None:
    """Without costs, one worker takes the sum of the work of all tasks."""
    workflow = random_layered(3, 1 + width // 4, seed=seed, seconds=0.25, kernel="native")
    taken = simulated_makespan(workflow, runner, FREE, Machine(1, 1.0))
    assert taken == pytest.approx(workflow.total_work)


@pytest.mark.parametrize(("kernel", "together"), [("python", 4.0), ("native", 2.0), ("wait", 2.0)])
def test_threads_share_an_interpreter(kernel: Kernel, together: float) -> None:
    """Four tasks of a second take two threads two seconds, or four if they hold the lock."""
    workflow = shape("trivial", 4, 1, seconds=1.0, kernel=kernel)
    assert simulated_makespan(workflow, "threads", FREE, TWO) == pytest.approx(together)
    assert simulated_makespan(workflow, "processes", FREE, TWO) == pytest.approx(2.0)
    assert simulated_makespan(workflow, "sequential", FREE, TWO) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("runner", "taken"),
    # The parent takes three seconds, its child one second and the other task two.
    [("threads", 6.0), ("processes", 5.0), ("dask-processes", 4.0), ("sequential", 6.0)],
)
def test_where_a_task_waits_for_its_parent(runner: str, taken: float) -> None:
    """If a task waits for its parent, the makespan is within the limit of each task runner."""
    tasks = (
        Task("parent", seconds=3.0),
        Task("child", ("parent",), seconds=1.0),
        Task("other", seconds=2.0),
    )
    queued = Workflow("queued", (*tasks[:1], *(Task(f"c{i}", ("parent",)) for i in "12"), tasks[2]))
    assert [task.id for task in queued.tasks][-2:] == ["c1", "c2"]
    assert simulated_makespan(Workflow("w", tasks), runner, FREE, TWO) <= taken


def test_costs_add_up() -> None:
    """In a chain the costs of tasks, edges, bytes and the first submission add up."""
    chain = shape("chain", 1, 3, seconds=1.0, output_bytes=100)
    costs = Costs(submit=0.5, task=0.25, dependency_latency=0.125, byte=0.01)
    # All submissions but the first overlap with work; each side pays half of a byte.
    taken = 0.5 + 3 * (1.0 + 0.25) + 2 * 0.125 + 5 * 0.5
    assert simulated_makespan(chain, "dask-processes", costs, TWO) == pytest.approx(taken)


@given(st.integers(1, 8), st.floats(0.05, 1))
def test_load_slows_to_a_pace(workers: int, pace: float) -> None:
    """At a given pace, one task per worker takes 1 / pace times as long, unless it only waits."""
    machine = Machine(workers, workers).at_pace(pace)
    for kernel, taken in (("native", 1 / pace), ("wait", 1.0)):
        workflow = shape("trivial", workers, 1, seconds=1.0, kernel=kernel)
        assert simulated_makespan(workflow, "processes", FREE, machine) == pytest.approx(taken)
    assert machine.pace == pytest.approx(pace)
