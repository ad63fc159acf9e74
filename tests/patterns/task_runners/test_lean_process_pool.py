# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/lean_process_pool.py`."""

from __future__ import annotations

import ast
import atexit
import decimal
import os
import re
import runpy
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import cloudpickle
import prefect
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.context import FlowRunContext, SyncClientContext
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from flowgauge.faults.points import kill_this_process
from flowgauge.runners.process_pool import PreloadedProcessPoolTaskRunner
from flowgauge.runners.started import StartedRunners
from patterns.task_runners import lean_process_pool
from patterns.task_runners.lean_process_pool import LeanProcessPoolTaskRunner, weigh_parcels
from tests.patterns.task_runners.drawn_flows import (
    EACH_KIND,
    Plan,
    assert_same_on_both,
    change,
    plans,
    seen_by_flows,
)

NAME = "task_runners/lean_process_pool"


@pytest.fixture(scope="module")
def stock(started_runners: StartedRunners) -> TaskRunner[Any]:
    """Return Prefect's own task runner, whose workers are forked to save time."""
    return started_runners.task_runner("processes")


@pytest.fixture(scope="module")
def lean(started_runners: StartedRunners) -> TaskRunner[Any]:
    """Return the lean task runner."""
    return started_runners.task_runner("lean-processes")


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.nightly
@settings(max_examples=20)
@given(drawn=st.lists(plans(), min_size=2, max_size=2))
def test_drawn_flows_run_as_on_the_stock_runner(
    stock: TaskRunner[Any], lean: TaskRunner[Any], drawn: list[Plan]
) -> None:
    """Values, states, attempts, events, logs, names and relationships match the stock runner's."""
    assert_same_on_both(stock, lean, *drawn)


@pytest.mark.guarantee(NAME, "same")
def test_each_kind_of_step_runs_as_on_the_stock_runner(
    stock: TaskRunner[Any], lean: TaskRunner[Any]
) -> None:
    """A fixed flow runs as on the stock runner.

    It has failures, retries, a roll-back, caching, subflows and tags.
    """
    assert_same_on_both(stock, lean, EACH_KIND)


@pytest.mark.guarantee(NAME, "around")
def test_tags_and_settings_are_those_around_the_submit(lean: TaskRunner[Any]) -> None:
    """Each task run has the tags and settings around its own submit."""
    assert change.with_options(task_runner=lean)() == [(100, ["0"]), (101, ["1"])]


@pytest.mark.fact(NAME, "first-around")
def test_tags_and_settings_of_a_process_pool_are_those_around_the_first_submit(
    stock: TaskRunner[Any],
) -> None:
    """With `ProcessPoolTaskRunner` all task runs have the tags and settings of the first submit."""
    assert change.with_options(task_runner=stock)() == [(100, ["0"])] * 2


@pytest.mark.guarantee(NAME, "apart")
def test_flow_runs_that_share_a_runner_are_kept_apart(lean: TaskRunner[Any]) -> None:
    """If two flow runs use a task runner in turn, the task runs of each see their own flow run."""
    assert seen_by_flows(lean.duplicate()) == [True, True]


@pytest.mark.guarantee(NAME, "same")
def test_the_example_returns_the_sum(lean: TaskRunner[Any]) -> None:
    """The pattern's flow returns the sum, and fails if a parcel does."""
    weigh = weigh_parcels.with_options(task_runner=lean)
    assert weigh(["book", "lamp", "chair"]) == 13
    assert weigh(["book", ""], return_state=True).is_failed()


@pytest.mark.guarantee(NAME, "same")
def test_no_flow_is_needed(lean: TaskRunner[Any], stock: TaskRunner[Any]) -> None:
    """A task that is submitted outside a flow is run, as on the stock runner."""
    for runner in (lean, stock):
        with runner.duplicate() as started:
            assert started.submit(region, {}).result() is None


@task(cache_policy=INPUTS, persist_result=True)
def stored(key: str) -> str:
    """Return a new value each time nothing is stored for the key."""
    return f"{key} {uuid.uuid4()}"


@flow
def store_again(key: str) -> list[str]:
    """Return a result that replaced a stored one, and what a worker then reads for its key."""
    first = stored.submit(key).result()
    assert stored.submit(key).result() == first
    second = stored.with_options(refresh_cache=True)(key)
    return [second, stored.submit(key).result()]


@pytest.mark.guarantee(NAME, "same")
def test_each_task_run_reads_what_is_stored(prefect_server: str) -> None:
    """A worker that has read a stored result reads it again, as it may have been replaced."""
    for kind in (LeanProcessPoolTaskRunner, PreloadedProcessPoolTaskRunner):
        runner: TaskRunner[Any] = kind(1)
        stored_last, read = store_again.with_options(task_runner=runner)(str(uuid.uuid4()))
        assert read == stored_last


@task
def set_up() -> tuple[int, int, int]:
    """Return the process, the one that started it, and the identity of its client."""
    client = SyncClientContext.get()
    assert client is not None
    return os.getpid(), os.getppid(), id(client.client)


@flow
def set_ups(number: int) -> list[tuple[int, int, int]]:
    """Return what `set_up` returns in many task runs."""
    return [future.result() for future in [set_up.submit() for _ in range(number)]]


@pytest.mark.guarantee(NAME, "once")
def test_a_worker_is_set_up_once(lean: TaskRunner[Any]) -> None:
    """All task runs of a flow run in one worker share a client."""
    found = set(set_ups.with_options(task_runner=lean)(20))
    assert len(found) == len({process for process, *_ in found})


@task
def server() -> str:
    """Return the address that the worker's client talks to."""
    client = SyncClientContext.get()
    assert client is not None
    return str(client.client.api_url)


@flow
def servers() -> tuple[str, str]:
    """Return the addresses that a worker and the flow talk to."""
    client = SyncClientContext.get()
    assert client is not None
    return server.submit().result(), str(client.client.api_url)


@pytest.mark.guarantee(NAME, "once")
def test_a_worker_talks_to_the_server_of_the_flow(lean: TaskRunner[Any]) -> None:
    """A worker's client talks to the same server as the flow."""
    of_worker, of_flow = servers.with_options(task_runner=lean)()
    assert of_worker == of_flow


@pytest.mark.guarantee(NAME, "start")
def test_workers_of_all_flow_runs_are_forked_from_one_process(lean: TaskRunner[Any]) -> None:
    """The workers of two flow runs are different processes, forked from the same fork server."""
    first, second = (set(set_ups.with_options(task_runner=lean)(4)) for _ in range(2))
    parents = {parent for _, parent, _ in first | second}
    assert len(parents) == 1
    assert "forkserver" in " ".join(psutil.Process(parents.pop()).cmdline())
    assert not {process for process, *_ in first} & {process for process, *_ in second}


MAIN = """
import multiprocessing, os, sys
from pathlib import Path

Path(sys.argv[1], str(os.getpid())).touch()
from prefect import flow, task
from patterns.task_runners.lean_process_pool import LeanProcessPoolTaskRunner

@task
def process():
    return os.getpid(), os.getppid(), "wave" in sys.modules

@flow
def processes():
    return process.submit().result()

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["wave"])
    run = processes.with_options(task_runner=LeanProcessPoolTaskRunner(1))
    print("SEEN", os.getpid(), run(), run())
"""


@pytest.fixture(scope="module")
def seen_by_main(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[set[int], list[Any]]:
    """Run a main module; return the processes that imported it, and what it and its tasks saw."""
    folder = tmp_path_factory.mktemp("main")
    (folder / "imported").mkdir()
    (folder / "main.py").write_text(MAIN)
    root = Path(__file__).parents[3]
    printed = subprocess.run(
        [sys.executable, folder / "main.py", folder / "imported"],
        env=os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    line = next(each for each in printed.splitlines() if each.startswith("SEEN "))
    main, _, runs = line.removeprefix("SEEN ").partition(" ")
    seen = [int(main), *ast.literal_eval(f"[{runs.replace(') (', '), (')}]")]
    return {int(each.name) for each in (folder / "imported").iterdir()}, seen


@pytest.mark.guarantee(NAME, "start")
def test_preloads_of_the_program_are_kept(seen_by_main: tuple[set[int], list[Any]]) -> None:
    """Workers are forked from one process, and have what multiprocessing was asked to preload."""
    _, (_, first, second) = seen_by_main
    assert first[1] == second[1]
    assert first[2]
    assert second[2]


@pytest.mark.fact(NAME, "main-again")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="CPython has mended it")
def test_each_worker_imports_the_main_module(seen_by_main: tuple[set[int], list[Any]]) -> None:
    """The main module is imported by each worker, but not by the process they are forked from."""
    imported, (main, first, second) = seen_by_main
    assert imported == {main, first[0], second[0]}


def set_precision() -> None:
    """Set the decimal precision, which is kept in a context variable."""
    decimal.getcontext().prec = 50


@task
def look(folder: str) -> tuple[str | None, str | None, int]:
    """Return what a task sees, change it, and have a file created when the worker exits."""
    seen = os.environ.get("FLOWGAUGE_LOOK"), os.environ.get("FLOWGAUGE_NEW")
    os.environ |= {"FLOWGAUGE_LOOK": "changed by a task", "FLOWGAUGE_NEW": "made by a task"}
    atexit.register(Path(folder, "ended").touch)
    return *seen, decimal.getcontext().prec


@flow
def look_twice(folder: str) -> list[tuple[str | None, str | None, int]]:
    """Return what two task runs see, one after the other in one worker."""
    return [look.submit(folder).result() for _ in "12"]


@pytest.mark.guarantee(NAME, "fresh")
def test_a_worker_starts_as_if_it_were_spawned(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task runs see the flow's environment, whatever earlier task runs changed.

    They also see what an initializer set, and `atexit` functions run when the worker exits.
    """
    runner: TaskRunner[Any] = LeanProcessPoolTaskRunner(1, initializer=set_precision)
    run = look_twice.with_options(task_runner=runner)
    for value in ("of the flow", "of another"):
        monkeypatch.setenv("FLOWGAUGE_LOOK", value)
        assert run(str(tmp_path)) == [(value, None, 50)] * 2
        assert (tmp_path / "ended").exists()
        (tmp_path / "ended").unlink()


def set_region() -> None:
    """Set the variable in a worker that starts."""
    os.environ["FLOWGAUGE_REGION"] = "of the initializer"


@task
def region() -> str | None:
    """Return an environment variable."""
    return os.environ.get("FLOWGAUGE_REGION")


@flow
def regions() -> list[str | None]:
    """Return the variable as two tasks see it, one before and one after the flow changes it."""
    seen = []
    for name in ("first", "second"):
        os.environ["FLOWGAUGE_REGION"] = name
        seen.append(region.submit().result())
    return seen


@pytest.mark.guarantee(NAME, "fresh")
@pytest.mark.guarantee(NAME, "same")
def test_the_environment_is_that_of_the_first_submit(
    lean: TaskRunner[Any], stock: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks don't see variables that the flow sets after its first submit, as on the stock runner.

    Variables that an initializer sets don't replace the flow's.
    """
    monkeypatch.setenv("FLOWGAUGE_REGION", "none")
    for runner in (lean, stock):
        assert regions.with_options(task_runner=runner)() == ["first", "first"]
    begun: TaskRunner[Any] = LeanProcessPoolTaskRunner(1, initializer=set_region)
    assert regions.with_options(task_runner=begun)() == ["first", "first"]


@pytest.mark.guarantee(NAME, "same")
def test_a_used_runner_can_be_pickled(lean: TaskRunner[Any]) -> None:
    """A runner that has run tasks can be pickled and unpickled."""
    runner = lean.duplicate()
    assert weigh_parcels.with_options(task_runner=runner)(["book"]) == 4
    assert cloudpickle.loads(cloudpickle.dumps(runner)) is not None


@task
def where(parcel: str) -> tuple[str, str, Any]:
    """Return the parcel, and the flow run's name and parameters as a worker sees them."""
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    return parcel, run.flow_run.name, run.parameters


@flow
def here(parcel: str) -> tuple[Any, str]:
    """Return what a worker sees, and the name of this flow run."""
    return where.submit(parcel).result(), flow_run.name


@pytest.mark.guarantee(NAME, "apart")
def test_each_flow_run_sees_its_own_run_and_parameters(lean: TaskRunner[Any]) -> None:
    """In the workers, consecutive flow runs each see their own run and parameters."""
    for parcel in ("book", "lamp"):
        found, name = here.with_options(task_runner=lean)(parcel)
        assert found == (parcel, name, {"parcel": parcel})


@pytest.mark.guarantee(NAME, "gone")
@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_nothing_is_left_of_a_flow_run(
    lean: TaskRunner[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """After a flow run, even a failed one, its workers and the folder of sent data are gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[int] = []

    @flow(task_runner=lean)
    def look() -> None:
        seen.extend(process for process, *_ in [set_up.submit().result() for _ in "12"])
        assert list(tmp_path.glob("lean-process-pool-*"))
        assert not fails

    assert look(return_state=True).is_completed() != fails
    assert seen
    assert not [process for process in seen if psutil.pid_exists(process)]
    assert not list(tmp_path.glob("lean-process-pool-*"))


@task
def die() -> None:
    """Kill the worker."""
    kill_this_process()


@flow
def outlive() -> list[str]:
    """Return how a task whose worker is killed ends, and how the next task does."""
    ends = []
    for each in (die, set_up):
        try:
            each.submit().result()
            ends.append("result")
        except Exception as error:
            ends.append(type(error).__name__)
    return ends


@pytest.mark.guarantee(NAME, "died")
def test_tasks_fail_when_a_worker_dies(lean: TaskRunner[Any], stock: TaskRunner[Any]) -> None:
    """If a worker is killed, its task and the next one end as on the stock runner."""
    ours, theirs = (outlive.with_options(task_runner=each)() for each in (lean, stock))
    assert ours == theirs
    assert ours[0] == "BrokenProcessPool"


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("version", ["3.99.0", "3.10.0rc1", "3.7.5"])
def test_an_untried_prefect_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """With an untried Prefect version, importing fails with one line, even if it lacks a module."""
    monkeypatch.setattr(prefect, "__version__", version)
    monkeypatch.setitem(sys.modules, "prefect._flow_run_suspension", None)
    with pytest.raises(ImportError, match=f"not with {re.escape(version)}; use prefect") as caught:
        runpy.run_path(str(lean_process_pool.__file__))
    assert "\n" not in str(caught.value)
