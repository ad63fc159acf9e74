# SPDX-License-Identifier: Apache-2.0
"""The table of task runners."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow, task
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flowgauge.runners import table
from flowgauge.runners.chosen import chosen_runners, default_workers, narrowed
from flowgauge.runners.dask_cluster import local_cluster
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.starts import RunnerError
from flowgauge.runners.table import RUNNERS
from flowgauge.waiting import wait_until


@given(st.lists(st.sampled_from(sorted(chosen_runners(None))), min_size=1))
def test_runners_are_chosen_in_the_order_given(names: list[str]) -> None:
    """`--flow-runners` keeps the order of the names and drops duplicates."""
    assert chosen_runners(" , ".join(names)) == tuple(dict.fromkeys(names))


def test_the_simplest_runners_come_first() -> None:
    """Inline is before pools, they before clusters, threads before processes, stock before lean.

    `flowgauge advise` names the first of those between which it sees no difference.
    """
    order = list(RUNNERS)
    for one, other in permutations(RUNNERS.values(), 2):
        simpler = (
            one.execution.inline
            or (not one.cluster and bool(other.cluster))
            or (one.in_process and not other.in_process and one.cluster == other.cluster)
            or one.name == other.stock
        )
        if simpler:
            assert order.index(one.name) < order.index(other.name), (one.name, other.name)


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=","), min_size=1))
def test_an_unknown_name_is_reported_in_one_line(name: str) -> None:
    """A name that is not in the table is reported in one line, which lists those that are."""
    with pytest.raises(RunnerError, match="there is no task runner") as caught:
        chosen_runners(f"{name}?")
    assert all(runner in str(caught.value) for runner in RUNNERS)
    assert len(str(caught.value).splitlines()) == 1


def test_all_are_chosen_by_default() -> None:
    """Without `--flow-runners`, tests use the stock task runners, and benchmarks the lean ones too.

    Those that nobody gets without asking are not among them, even if they are installed.
    """
    asked = tuple(name for name, runner in RUNNERS.items() if not runner.by_default)
    assert asked == ("ray",)
    assert chosen_runners(None) == tuple(name for name in RUNNERS if name not in asked)
    stock = chosen_runners(None, lean=False)
    assert stock == ("sequential", "threads", "processes", "dask-threads", "dask-processes")


@pytest.mark.parametrize("chosen", list(permutations(["sequential", "threads", "processes"], 2)))
def test_a_mark_narrows_and_keeps_the_order(chosen: tuple[str, ...]) -> None:
    """A mark keeps those of the run's task runners that it names, in the run's order."""
    assert narrowed(chosen, ["processes", "threads"]) == tuple(
        name for name in chosen if name != "sequential"
    )


WRITTEN_FOR_EACH = ("flowgauge/leftovers/watch.py", "flowgauge/plugin/leftovers_fixture.py")
"""Modules in which "threads" and "processes" are what a test may leave behind."""


def texts(path: Path) -> set[str]:
    """Return the string literals of a module, except its docstrings."""
    tree = ast.parse(path.read_text())
    said = {
        id(node.value)
        for each in ast.walk(tree)
        if isinstance(each, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for node in each.body
        if isinstance(node, ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    }


def test_only_the_table_names_task_runners() -> None:
    """No other module of the package or the benchmarks has a task runner's name in a string."""
    root = Path(table.__file__).parents[2]
    modules = {*root.glob("flowgauge/**/*.py"), *root.glob("benchmarks/*.py")}
    kept = {root / name for name in ("flowgauge/runners/table.py", *WRITTEN_FOR_EACH)}
    told = re.compile("|".join(name for name in RUNNERS if "-" in name))
    assert kept < modules
    assert [
        f"{module.relative_to(root)}: {text}"
        for module in sorted(modules - kept)
        for text in texts(module)
        if text in RUNNERS or told.search(text)
    ] == []
    for module in kept:
        assert texts(module) & RUNNERS.keys(), f"{module} names none: take it from the list"


@task
def where() -> tuple[int, int]:
    """Return the process and the thread that a task runs in."""
    return os.getpid(), threading.get_ident()


@flow
def wheres() -> list[tuple[int, int]]:
    """Return where each of four tasks ran."""
    return [future.result() for future in [where.submit() for _ in range(4)]]


@pytest.mark.runners(*RUNNERS)
def test_each_runner_runs_tasks_where_its_name_says(
    task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """Tasks run inline, in threads of this process, or in other processes, as the name says."""
    places = wheres.with_options(task_runner=task_runner)()
    here = {process for process, _ in places} == {os.getpid()}
    inline = set(places) == {(os.getpid(), threading.get_ident())}
    assert here == (runner_name in {"sequential", "threads", "dask-threads"})
    assert inline == (runner_name == "sequential")


@pytest.mark.runners(*RUNNERS)
def test_no_more_workers_than_asked_for(
    task_runner: TaskRunner[Any], started_runners: StartedRunners, runner_name: str
) -> None:
    """Tasks run in at most `--flow-workers` threads or processes."""
    places = wheres.with_options(task_runner=task_runner)()
    processes = {process for process, _ in places}
    assert len(processes) <= started_runners.workers
    if runner_name in {"threads", "dask-threads"}:
        assert len(set(places)) <= started_runners.workers


@pytest.mark.runners("dask-threads", "dask-processes")
def test_a_cluster_is_started_once(started_runners: StartedRunners, runner_name: str) -> None:
    """All flows of a pytest run share one Dask cluster of each kind."""
    first = started_runners.dask_scheduler(runner_name)
    assert started_runners.dask_scheduler(runner_name) == first
    assert first.startswith("tcp://127.0.0.1:" if runner_name == "dask-processes" else "inproc://")


def test_the_preloaded_pool_is_still_needed() -> None:
    """Prefect's own process pool spawns its workers; once it forks them, ours can be removed."""
    with ProcessPoolTaskRunner(max_workers=1) as runner:
        executor: Any = runner._executor
        assert executor._mp_context.get_start_method() == "spawn"


def test_the_preloaded_pool_forks(started_runners: StartedRunners) -> None:
    """The runner `processes` forks its workers from a process that has Prefect imported."""
    with started_runners.task_runner("processes") as runner:
        executor: Any = runner._executor  # type: ignore[attr-defined]
        assert executor._mp_context.get_start_method() == "forkserver"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen here")
def test_default_workers_are_the_cores_of_this_process() -> None:
    """The default is the number of cores that this process may use, not of all cores."""
    code = (
        "import os\nfrom flowgauge.runners.chosen import default_workers\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(default_workers())"
    )
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1\n"
    assert default_workers() == len(os.sched_getaffinity(0))


def profiles(dask_worker: Any) -> bool:
    """Return whether a worker's profiler samples its threads."""
    return "profile" in dask_worker.periodic_callbacks


@pytest.mark.parametrize("as_shipped", [False, True])
@pytest.mark.parametrize(
    "in_process", [True, pytest.param(False, marks=pytest.mark.e2e)], ids=["threads", "processes"]
)
def test_workers_are_profiled_only_where_they_are_measured(
    tmp_path: Path, in_process: bool, as_shipped: bool
) -> None:
    """Dask's profiler, which sometimes crashes CPython 3.11, runs only where Dask is measured."""
    pytest.importorskip("distributed")
    import dask
    from distributed import Client

    with (
        dask.config.set({"distributed.worker.profile.enabled": True}),
        local_cluster(1, tmp_path, in_process=in_process, as_shipped=as_shipped) as address,
        Client(address, set_as_default=False) as client,
    ):
        assert list(client.run(profiles).values()) == [as_shipped]


@pytest.mark.e2e
def test_a_worker_that_restarts_late_rejoins_its_cluster(tmp_path: Path) -> None:
    """A cluster does not give up a killed worker, however long its new process takes to start.

    Dask gives up after 15 s, which a busy machine may need; here the timeout is zero.
    """
    pytest.importorskip("distributed")
    import dask
    from distributed import Client

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": 0}),
        local_cluster(1, tmp_path, in_process=False, as_shipped=False) as address,
        Client(address, set_as_default=False) as client,
    ):
        (killed,) = client.run(os.getpid).values()
        os.kill(killed, signal.SIGKILL)

        def back() -> bool:
            found = client.run(os.getpid, on_error="ignore").values()
            return bool(found) and killed not in found

        wait_until(back)
