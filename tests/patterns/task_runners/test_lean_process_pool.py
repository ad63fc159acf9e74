# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/lean_process_pool.py`."""

from __future__ import annotations

import ast
import atexit
import decimal
import os
import re
import runpy
import signal
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
    """Give Prefect's own task runner, its workers forked for the sake of speed."""
    return started_runners.task_runner("processes")


@pytest.fixture(scope="module")
def lean(started_runners: StartedRunners) -> TaskRunner[Any]:
    """Give the lean one."""
    return started_runners.task_runner("lean-processes")


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.nightly
@settings(max_examples=20)
@given(drawn=st.lists(plans(), min_size=2, max_size=2))
def test_all_is_as_on_the_stock_runner(
    stock: TaskRunner[Any], lean: TaskRunner[Any], drawn: list[Plan]
) -> None:
    """Values, states, attempts, events, logs, names and relationships are those of stock."""
    assert_same_on_both(stock, lean, *drawn)


@pytest.mark.guarantee(NAME, "same")
def test_each_kind_of_step_is_as_on_the_stock_runner(
    stock: TaskRunner[Any], lean: TaskRunner[Any]
) -> None:
    """So is one plan that has failures, retries, a roll-back, caching, subflows and tags."""
    assert_same_on_both(stock, lean, EACH_KIND)


@pytest.mark.guarantee(NAME, "around")
def test_tags_and_settings_are_those_around_the_submit(lean: TaskRunner[Any]) -> None:
    """Where they change within a flow run, each task run has those that it was submitted in."""
    assert change.with_options(task_runner=lean)() == [(100, ["0"]), (101, ["1"])]


@pytest.mark.fact(NAME, "first-around")
def test_tags_and_settings_of_a_process_pool_are_those_around_the_first_submit(
    stock: TaskRunner[Any],
) -> None:
    """With `ProcessPoolTaskRunner` each task run has the tags and settings of the first one."""
    assert change.with_options(task_runner=stock)() == [(100, ["0"])] * 2


@pytest.mark.guarantee(NAME, "apart")
def test_flow_runs_that_share_a_runner_are_apart(lean: TaskRunner[Any]) -> None:
    """Where two flow runs submit to one task runner, task runs of each see their own."""
    assert seen_by_flows(lean.duplicate()) == [True, True]


@pytest.mark.guarantee(NAME, "same")
def test_the_example_weighs(lean: TaskRunner[Any]) -> None:
    """The flow of the file gives the sum, and fails where a parcel does."""
    weigh = weigh_parcels.with_options(task_runner=lean)
    assert weigh(["book", "lamp", "chair"]) == 13
    assert weigh(["book", ""], return_state=True).is_failed()


@pytest.mark.guarantee(NAME, "same")
def test_no_flow_is_needed(lean: TaskRunner[Any], stock: TaskRunner[Any]) -> None:
    """A runner that is given a task outside of a flow runs it, as the stock runner does."""
    for runner in (lean, stock):
        with runner.duplicate() as started:
            assert started.submit(region, {}).result() is None


@task(cache_policy=INPUTS, persist_result=True)
def stored(key: str) -> str:
    """Return something else each time that nothing is stored for a key."""
    return f"{key} {uuid.uuid4()}"


@flow
def store_again(key: str) -> list[str]:
    """Return what a worker reads for a key before and after it is stored anew elsewhere."""
    first = stored.submit(key).result()
    assert stored.submit(key).result() == first
    second = stored.with_options(refresh_cache=True)(key)
    return [second, stored.submit(key).result()]


@pytest.mark.guarantee(NAME, "same")
def test_what_is_stored_is_read_by_each_task_run(prefect_server: str) -> None:
    """A worker that has read a stored result reads it again, as it may be another one now."""
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
    """Return those of many task runs."""
    return [future.result() for future in [set_up.submit() for _ in range(number)]]


@pytest.mark.guarantee(NAME, "once")
def test_a_worker_is_set_up_once(lean: TaskRunner[Any]) -> None:
    """Task runs of a flow run in a worker share a client."""
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
    """A worker's client is that of the flow run's settings, and starts no server of its own."""
    of_worker, of_flow = servers.with_options(task_runner=lean)()
    assert of_worker == of_flow


@pytest.mark.guarantee(NAME, "start")
def test_workers_are_forked_from_what_has_prefect_imported(lean: TaskRunner[Any]) -> None:
    """The workers of two flow runs are others, and children of one process."""
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
    """Run a main module: return the processes that imported it, and what it and its tasks saw."""
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
def test_what_was_to_be_preloaded_still_is(seen_by_main: tuple[set[int], list[Any]]) -> None:
    """What the program told multiprocessing to preload, the workers have, and from one process."""
    _, (_, first, second) = seen_by_main
    assert first[1] == second[1]
    assert first[2]
    assert second[2]


@pytest.mark.fact(NAME, "main-again")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="CPython has mended it")
def test_each_worker_imports_the_main_module(seen_by_main: tuple[set[int], list[Any]]) -> None:
    """The main module is imported by each worker, and not by the process they fork from."""
    imported, (main, first, second) = seen_by_main
    assert imported == {main, first[0], second[0]}


def set_precision() -> None:
    """Set what a thread keeps in a context variable."""
    decimal.getcontext().prec = 50


@task
def look(folder: str) -> tuple[str | None, str | None, int]:
    """Return what a task sees, change it, and leave a file at the worker's end."""
    seen = os.environ.get("FLOWGAUGE_LOOK"), os.environ.get("FLOWGAUGE_NEW")
    os.environ |= {"FLOWGAUGE_LOOK": "changed by a task", "FLOWGAUGE_NEW": "made by a task"}
    atexit.register(Path(folder, "ended").touch)
    return *seen, decimal.getcontext().prec


@flow
def look_twice(folder: str) -> list[tuple[str | None, str | None, int]]:
    """Return what two task runs see, one after the other in one worker."""
    return [look.submit(folder).result() for _ in "12"]


@pytest.mark.guarantee(NAME, "fresh")
def test_a_worker_begins_as_if_it_were_spawned(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task runs see the flow's environment and what an initializer set; `atexit` is heeded."""
    runner: TaskRunner[Any] = LeanProcessPoolTaskRunner(1, initializer=set_precision)
    run = look_twice.with_options(task_runner=runner)
    for value in ("of the flow", "of another"):
        monkeypatch.setenv("FLOWGAUGE_LOOK", value)
        assert run(str(tmp_path)) == [(value, None, 50)] * 2
        assert (tmp_path / "ended").exists()
        (tmp_path / "ended").unlink()


def set_region() -> None:
    """Set the variable in a worker that begins."""
    os.environ["FLOWGAUGE_REGION"] = "of the initializer"


@task
def region() -> str | None:
    """Return a variable of the environment."""
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
    """What a flow sets after its first submit its tasks don't see, as on the stock runner.

    An initializer's variables are beside the flow's, and don't replace them.
    """
    monkeypatch.setenv("FLOWGAUGE_REGION", "none")
    for runner in (lean, stock):
        assert regions.with_options(task_runner=runner)() == ["first", "first"]
    begun: TaskRunner[Any] = LeanProcessPoolTaskRunner(1, initializer=set_region)
    assert regions.with_options(task_runner=begun)() == ["first", "first"]


@pytest.mark.guarantee(NAME, "same")
def test_a_runner_that_was_used_is_pickled(lean: TaskRunner[Any]) -> None:
    """A runner that has run tasks goes with a flow to other processes, as the stock one does."""
    runner = lean.duplicate()
    assert weigh_parcels.with_options(task_runner=runner)(["book"]) == 4
    assert cloudpickle.loads(cloudpickle.dumps(runner)) is not None


@task
def where(parcel: str) -> tuple[str, str, Any]:
    """Return the flow run, and its parameters, as a worker sees them."""
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    return parcel, run.flow_run.name, run.parameters


@flow
def here(parcel: str) -> tuple[Any, str]:
    """Return what a worker sees, and the name of this flow run."""
    return where.submit(parcel).result(), flow_run.name


@pytest.mark.guarantee(NAME, "apart")
def test_each_flow_run_sees_its_own(lean: TaskRunner[Any]) -> None:
    """Flow runs one after the other have their own run and parameters in the workers."""
    for parcel in ("book", "lamp"):
        found, name = here.with_options(task_runner=lean)(parcel)
        assert found == (parcel, name, {"parcel": parcel})


@pytest.mark.guarantee(NAME, "gone")
@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_nothing_is_left_of_a_flow_run(
    lean: TaskRunner[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """After a flow run its workers and the folder of what was sent are gone."""
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
    os.kill(os.getpid(), signal.SIGKILL)


@flow
def outlive() -> list[str]:
    """Return how a task ends whose worker is killed, and one after it."""
    ends = []
    for each in (die, set_up):
        try:
            each.submit().result()
            ends.append("result")
        except Exception as error:
            ends.append(type(error).__name__)
    return ends


@pytest.mark.guarantee(NAME, "died")
def test_tasks_fail_where_a_worker_dies(lean: TaskRunner[Any], stock: TaskRunner[Any]) -> None:
    """The future of a task whose worker is killed raises what it does with the stock runner."""
    ours, theirs = (outlive.with_options(task_runner=each)() for each in (lean, stock))
    assert ours == theirs
    assert ours[0] == "BrokenProcessPool"


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("version", ["3.99.0", "3.10.0rc1", "3.7.5"])
def test_another_prefect_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """With a Prefect that was not tried, the import says so in one line, whatever it lacks."""
    monkeypatch.setattr(prefect, "__version__", version)
    monkeypatch.setitem(sys.modules, "prefect._flow_run_suspension", None)
    with pytest.raises(ImportError, match=f"not with {re.escape(version)}; use prefect") as caught:
        runpy.run_path(str(lean_process_pool.__file__))
    assert "\n" not in str(caught.value)
