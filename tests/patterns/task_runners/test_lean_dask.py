# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/lean_dask.py`."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import runpy
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import prefect
import pytest
from distributed import Client, LocalCluster, get_worker
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, tags, task
from prefect.cache_policies import INPUTS
from prefect.context import FlowRunContext, SyncClientContext
from prefect.runtime import flow_run
from prefect.settings import PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flowgauge.runners.started import StartedRunners
from flowgauge.waiting import wait_until
from patterns.task_runners import lean_dask
from patterns.task_runners.lean_dask import LeanDaskTaskRunner, weigh_parcels
from tests.hosts import Cluster
from tests.patterns.task_runners.cut_off_worker import Cut, cut_off_worker
from tests.patterns.task_runners.drawn_flows import (
    EACH_KIND,
    Plan,
    add,
    assert_same_on_both,
    change,
    plans,
    seen_by_flows,
)

NAME = "task_runners/lean_dask"


@pytest.fixture(scope="module")
def scheduler(started_runners: StartedRunners) -> str:
    """Return the address of the cluster that serves the whole pytest run."""
    pytest.importorskip("prefect_dask")
    return started_runners.dask_scheduler("dask-processes")


@pytest.fixture(scope="module")
def stock(scheduler: str) -> TaskRunner[Any]:
    """Return Prefect's own task runner on that cluster."""
    return DaskTaskRunner(address=scheduler)


@pytest.fixture(scope="module")
def lean(scheduler: str) -> TaskRunner[Any]:
    """Return the lean task runner on that cluster."""
    return LeanDaskTaskRunner(address=scheduler)


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.nightly
@settings(max_examples=20)
@given(drawn=st.lists(plans(), min_size=3, max_size=3))
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
def test_tags_and_settings_are_those_around_the_submit(
    stock: TaskRunner[Any], lean: TaskRunner[Any]
) -> None:
    """Each task run has the tags and settings around its own submit, as on the stock runner."""
    theirs, ours = (change.with_options(task_runner=runner)() for runner in (stock, lean))
    assert ours == theirs == [(100, ["0"]), (101, ["1"])]


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


@task
def set_up() -> tuple[int, int, int]:
    """Return the ids of the process, of its client and of its result storage."""
    client = SyncClientContext.get()
    run = FlowRunContext.get()
    assert client is not None
    assert run is not None
    return os.getpid(), id(client.client), id(run.result_store.result_storage)


@flow
def set_ups(number: int) -> list[tuple[int, int, int]]:
    """Return what `set_up` returns in many task runs."""
    return [future.result() for future in [set_up.submit() for _ in range(number)]]


@pytest.mark.guarantee(NAME, "once")
def test_a_worker_is_set_up_once(lean: TaskRunner[Any]) -> None:
    """All task runs of a flow run in one worker share a client and a result storage."""
    found = set(set_ups.with_options(task_runner=lean)(20))
    assert len(found) == len({process for process, *_ in found})


@flow
def map_over_what_submits() -> list[int]:
    """Map over a generator that submits another task for each item."""
    return add.map([each] for each in (add.submit([n]) for n in range(3))).result()


@flow
def enclose() -> list[int]:
    """Return what a task sees of a changing variable in its closure."""
    number = 0

    @task
    def read() -> int:
        return number

    seen = []
    for number in range(3):  # noqa: B007  # the task reads it
        seen.append(read.submit().result())
    return seen


@task
def worker_address() -> str:
    """Return the address of the Dask worker."""
    return str(get_worker().address)


@task(cache_policy=INPUTS, persist_result=True)
def stored(key: str) -> list[int]:
    """Return a list, which is stored under the key."""
    return [1]


@task
def spoil(numbers: list[int]) -> None:
    """Modify the list in place."""
    numbers.append(99)


@flow
def see_all(key: str) -> list[Any]:
    """Return the protocol of a task's worker, and a stored result that another task modified."""
    future: Any = stored.submit(key)
    spoil.submit(future).wait()
    return [worker_address.submit().result().partition(":")[0], stored.submit(key).result()]


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.parametrize(
    ("run", "ends"),
    [(map_over_what_submits, [2, 3, 4]), (enclose, [0, 1, 2]), (see_all, ["tcp", [1]])],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_tasks_see_is_as_on_the_stock_runner(
    stock: TaskRunner[Any], lean: TaskRunner[Any], run: Any, ends: list[Any]
) -> None:
    """What tasks see is the same as on the stock runner.

    They are mapped over submits, read a changing closure variable, their worker or stored results.
    """
    arguments = [str(uuid.uuid4())] if run is see_all else []
    for runner in (stock, lean):
        assert run.with_options(task_runner=runner)(*arguments) == ends


@task
def hold(folder: str, name: str) -> bool:
    """Occupy a worker until the file `go` exists; return whether it did in time."""
    (Path(folder) / name).touch()
    with contextlib.suppress(TimeoutError):
        wait_until((Path(folder) / "go").exists)
    return (Path(folder) / "go").exists()


@flow
def submit_while_held(folder: str, number: int) -> list[Any]:
    """Submit a task that is new to the workers while all of them are busy."""
    held = [hold.submit(folder, f"held-{each}") for each in range(number)]
    wait_until(lambda: len(list(Path(folder).glob("held-*"))) == number)
    late = add.submit([1])
    (Path(folder) / "go").touch()
    return [*(future.result() for future in held), late.result()]


@pytest.mark.guarantee(NAME, "waits")
def test_a_submit_does_not_wait_for_a_worker(
    lean: TaskRunner[Any], started_runners: StartedRunners, tmp_path: Path
) -> None:
    """While tasks occupy all workers, a flow can submit another task and go on."""
    workers = started_runners.workers
    run = submit_while_held.with_options(task_runner=lean)
    assert run(str(tmp_path), workers) == [*[True] * workers, 2]


def restricted(dask_scheduler: Any) -> list[str]:
    """Return the keys of shared data that the scheduler restricts to certain workers."""
    return [
        key
        for key, each in dask_scheduler.tasks.items()
        if str(key).startswith(("SharedContext-", "Carried-")) and each.worker_restrictions
    ]


@flow
def annotated(addresses: list[str]) -> tuple[list[str], list[str]]:
    """Submit to each worker by address; return where tasks ran, and the `restricted` keys."""
    found = []
    for address in addresses * 2:
        with dask.annotate(workers=[address]):  # type: ignore[attr-defined]
            found.append(worker_address.submit().result())
    run = FlowRunContext.get()
    assert run is not None
    client = run.task_runner.client  # type: ignore[attr-defined]
    return found, client.run_on_scheduler(restricted)


@pytest.mark.guarantee(NAME, "same")
def test_annotations_apply_to_the_task_only(
    stock: TaskRunner[Any], lean: TaskRunner[Any], scheduler: str
) -> None:
    """`dask.annotate` chooses workers for tasks as on the stock runner, not for what they share."""
    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
    for runner in (stock, lean):
        found = annotated.with_options(task_runner=runner)(addresses)
        assert found == (addresses * 2, [])


def carried_tasks() -> int:
    """Return how many tasks are kept in this process."""
    gc.collect()
    return sum(type(thing).__name__ == "Carried" for thing in gc.get_objects())


@flow
def rotate(number: int, kept: int) -> list[list[int]]:
    """Run the tasks in turn, twice; wait until no worker keeps more than `kept` of them."""

    def adding(more: int) -> Any:
        @task
        def plus(given: int) -> int:
            return given + more

        return plus

    tasks = [adding(more) for more in range(number)]
    found = [[each.submit(10).result() for each in tasks] for _ in "12"]
    run = FlowRunContext.get()
    assert run is not None
    client = run.task_runner.client  # type: ignore[attr-defined]
    wait_until(lambda: max(client.run(carried_tasks).values()) <= kept)
    return found


@pytest.mark.guarantee(NAME, "same")
def test_tasks_that_are_not_kept_run_again(
    lean: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers drop tasks beyond the number to keep, and run them again when they are submitted."""
    monkeypatch.setattr(lean_dask, "TASKS_KEPT", 2)
    assert rotate.with_options(task_runner=lean)(5, 2) == [[10, 11, 12, 13, 14]] * 2


def shared_contexts() -> int:
    """Return how many shared contexts this process has."""
    gc.collect()
    return sum(type(thing).__name__ == "SharedContext" for thing in gc.get_objects())


def open_clients() -> int:
    """Return how many clients of Prefect's API are open in this process."""
    import httpx

    gc.collect()
    clients = [thing for thing in gc.get_objects() if httpx.Client in type(thing).__mro__]
    return sum(not client.is_closed for client in clients)


@pytest.mark.guarantee(NAME, "closed")
def test_nothing_of_a_flow_run_stays_in_the_workers(lean: TaskRunner[Any], scheduler: str) -> None:
    """After flow runs the workers have no shared context, and no more open clients than before."""
    run = set_ups.with_options(task_runner=lean)
    run(2)
    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        wait_until(lambda: not any(client.run(shared_contexts).values()))
        before = client.run(open_clients)
        for _ in range(3):
            run(4)
        wait_until(lambda: not any(client.run(shared_contexts).values()))
        after = client.run(open_clients)
        assert all(after[worker] <= before[worker] for worker in before)


@task
def touch(folder: str, number: int) -> None:
    """Create a file, and wait for the flow to fail."""
    (Path(folder) / str(number)).touch()
    wait_until((Path(folder) / "failed").exists)


@flow
def give_up(folder: str, number: int) -> None:
    """Submit tasks, and fail when the first ones run."""
    futures = touch.map([folder] * number, range(number))
    wait_until(lambda: any(Path(folder).iterdir()))
    # If they were waited for, all of them would run.
    futures.clear()
    (Path(folder) / "failed").touch()
    raise RuntimeError("given up")


@pytest.mark.guarantee(NAME, "closed")
def test_tasks_of_a_failed_flow_run_are_abandoned(
    lean: TaskRunner[Any], scheduler: str, tmp_path: Path
) -> None:
    """If a flow fails, most of its waiting tasks never start, and its shared context is removed."""
    state = give_up.with_options(task_runner=lean)(str(tmp_path), 400, return_state=True)
    assert state.is_failed()
    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        wait_until(lambda: not any(client.run(shared_contexts).values()))
    assert len(list(tmp_path.iterdir())) < 200


@task
def submits() -> int:
    """Submit a task from a task."""
    return add.submit([1]).result()


@flow
def nest() -> tuple[str, int]:
    """Return the id of a task run that submits another, and its result."""
    future = submits.submit()
    return str(future.task_run_id), future.result()


@pytest.mark.guarantee(NAME, "nested")
def test_a_task_is_the_parent_of_those_it_submits(lean: TaskRunner[Any]) -> None:
    """A task can return the result of a task run that it submits, and is the parent of that run."""
    state = nest.with_options(task_runner=lean)(return_state=True)
    parent, value = state.result()
    assert value == 2
    from prefect import get_client

    with get_client(sync_client=True) as client:

        def children() -> list[Any]:
            filters = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
            found = client.request("POST", "/task_runs/filter", json=filters).json()
            return [run for run in found if run["name"].startswith("add")]

        wait_until(lambda: len(children()) == 1)
        (child,) = children()
    assert [each["id"] for each in child["task_inputs"]["__parents__"]] == [parent]


@contextlib.contextmanager
def new_cluster(folder: Path, threads: int = 1) -> Iterator[LocalCluster]:
    """Run a cluster with one worker; a test may kill it, and may add others.

    Each test has its own: a worker that a test removes leaves a timer behind in its cluster.
    """
    with (
        # With `local_directory`, nannies would still write elsewhere.
        dask.config.set(temporary_directory=str(folder)),
        # A worker that does not return in time is closed for good, as is a new one with its name.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1,
            threads_per_worker=threads,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def own_cluster(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """Yield a separate cluster for a test."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@task
def wait_for(folder: str, number: int) -> int:
    """Record which process waits, wait for the file `go`, and return the process."""
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    wait_until((Path(folder) / "go").exists)
    return os.getpid()


@flow
def wait_in_all(folder: str, number: int) -> list[int]:
    """Wait in several task runs, and return their processes."""
    return [future.result() for future in [wait_for.submit(folder, each) for each in range(number)]]


def waiting(folder: Path) -> set[int]:
    """Return the processes in which a task has waited."""
    return {int(path.name.partition("-")[2]) for path in folder.iterdir() if "-" in path.name}


@task
def surroundings(folder: str, name: str) -> tuple[str, str, float, list[str], int]:
    """Wait until the other flow run's task runs too, and return what this one sees."""
    (Path(folder) / name).touch()
    wait_until(lambda: len(list(Path(folder).iterdir())) == 2)
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    here = sorted(prefect.runtime.task_run.tags)
    poll = PREFECT_RUNNER_POLL_FREQUENCY.value()
    return name, run.flow_run.name, poll, here, len(list(Path(folder).iterdir()))


@flow
def see(folder: str, name: str) -> Any:
    """Return what a task run sees, and the name of this flow run."""
    with tags(name):
        return surroundings.submit(folder, name).result(), flow_run.name


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "apart")
def test_flow_runs_in_one_worker_see_their_own(prefect_server: str, tmp_path: Path) -> None:
    """In threads of one worker, two concurrent flow runs see their own run, settings and tags."""

    def seen(number: int) -> Any:
        with temporary_settings({PREFECT_RUNNER_POLL_FREQUENCY: 100 + number}):
            runner: TaskRunner[Any] = LeanDaskTaskRunner(address=cluster.scheduler_address)
            return see.with_options(task_runner=runner)(str(folder), f"flow {number}")

    folder = tmp_path / "waits"
    folder.mkdir()
    with (
        new_cluster(tmp_path / "scratch", threads=2) as cluster,
        ThreadPoolExecutor(2) as pool,
    ):
        for number, (found, name) in enumerate(pool.map(seen, range(2))):
            assert found == (f"flow {number}", name, 100 + number, [f"flow {number}"], 2)


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "died")
def test_a_flow_run_continues_when_a_cluster_shrinks(
    own_cluster: LocalCluster, tmp_path: Path
) -> None:
    """If one of two workers is retired during a flow run, the other one runs what is left."""
    own_cluster.scale(2)  # type: ignore[no-untyped-call]
    runner: TaskRunner[Any] = LeanDaskTaskRunner(address=own_cluster.scheduler_address)
    run = wait_in_all.with_options(task_runner=runner)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run, str(tmp_path), 6)
        try:
            wait_until(lambda: len(waiting(tmp_path)) == 2)
            own_cluster.scale(1)  # type: ignore[no-untyped-call]
            wait_until(lambda: len(own_cluster.scheduler.workers) == 1)  # type: ignore[union-attr]
        finally:
            (tmp_path / "go").touch()
        processes = found.result()
    assert len(processes) == 6
    assert len(set(processes[2:])) == 1


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "joined")
def test_a_worker_that_joins_takes_part(own_cluster: LocalCluster, tmp_path: Path) -> None:
    """A worker that joins takes some of the tasks that wait for the only other worker."""
    runner: TaskRunner[Any] = LeanDaskTaskRunner(address=own_cluster.scheduler_address)
    run = wait_in_all.with_options(task_runner=runner)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run, str(tmp_path), 6)
        wait_until(lambda: len(waiting(tmp_path)) == 1)
        own_cluster.scale(2)  # type: ignore[no-untyped-call]
        try:
            wait_until(lambda: len(waiting(tmp_path)) == 2)
        finally:
            (tmp_path / "go").touch()
        assert len(found.result()) == 6


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "died")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_flow_run_continues_when_a_worker_dies(
    own_cluster: LocalCluster, tmp_path: Path, workers: int
) -> None:
    """If a worker is killed, remaining or newly started ones run all tasks of the flow run."""
    own_cluster.scale(workers)  # type: ignore[no-untyped-call]
    runner: TaskRunner[Any] = LeanDaskTaskRunner(address=own_cluster.scheduler_address)
    run = wait_in_all.with_options(task_runner=runner)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run, str(tmp_path), 4)
        try:
            wait_until(lambda: len(waiting(tmp_path)) == workers)
            killed = waiting(tmp_path).pop()
            os.kill(killed, signal.SIGKILL)
        finally:
            (tmp_path / "go").touch()
        processes = found.result()
    assert len(processes) == 4
    assert killed not in processes


@pytest.fixture(scope="module")
def cuts(hosts: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    """Cut off the host of a worker in the middle of a task, on the stock and the lean runner."""
    stock: TaskRunner[Any] = DaskTaskRunner(address=hosts.scheduler)
    lean: TaskRunner[Any] = LeanDaskTaskRunner(address=hosts.scheduler)
    return [
        cut_off_worker(hosts, runner, tmp_path_factory.mktemp("cut")) for runner in (stock, lean)
    ]


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "died")
def test_a_worker_that_is_cut_off_is_lost_as_on_the_stock_runner(cuts: list[Cut]) -> None:
    """A task whose worker's host is cut off runs again; states and results are the stock ones."""
    on_stock, on_lean = (
        (cut.flow_run, cut.before, cut.after, cut.run_count, cut.workers == (cut.second,))
        for cut in cuts
    )
    assert on_lean == on_stock
    assert [cut.result for cut in cuts] == [cut.second for cut in cuts]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "closed")
def test_no_context_stays_after_a_failed_first_task(own_cluster: LocalCluster) -> None:
    """A worker whose first task failed keeps no shared context after the flow run.

    This holds although Prefect keeps the context variables of that task.
    """
    runner: TaskRunner[Any] = LeanDaskTaskRunner(address=own_cluster.scheduler_address)
    with Client(own_cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        weigh = weigh_parcels.with_options(task_runner=runner)
        assert weigh([""], return_state=True).is_failed()
        wait_until(lambda: not any(client.run(shared_contexts).values()))


def receive_late(folder: str) -> None:
    """Delay every shared context but the first one made on any worker, until a file exists."""
    make = lean_dask.SharedContext.__init__

    def wait(self: lean_dask.SharedContext, pickled: bytes) -> None:
        try:
            (Path(folder) / "made").touch(exist_ok=False)
        except FileExistsError:
            (Path(folder) / "comes").touch()
            wait_until((Path(folder) / "go").exists)
        make(self, pickled)

    lean_dask.SharedContext.__init__ = wait  # type: ignore[assignment,method-assign]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "closed")
def test_no_context_stays_that_arrives_after_the_flow_run(
    own_cluster: LocalCluster, tmp_path: Path
) -> None:
    """A shared context that arrives at a worker after its sender has closed does not stay there."""
    own_cluster.scale(2)  # type: ignore[no-untyped-call]
    wait_until(lambda: len(own_cluster.scheduler.workers) == 2)  # type: ignore[union-attr]
    with Client(own_cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.run(receive_late, str(tmp_path))
        with Client(own_cluster, set_as_default=False) as ends:  # type: ignore[no-untyped-call]
            lean_dask.Sent(ends).send(add)
            wait_until((tmp_path / "comes").exists)
        scheduler: Any = own_cluster.scheduler
        wait_until(lambda: not scheduler.tasks)
        (tmp_path / "go").touch()
        wait_until(lambda: not any(client.run(shared_contexts).values()))


@flow
def restart_between() -> list[int]:
    """Submit a task before and after all workers are restarted."""
    first = add.submit([1]).result()
    run = FlowRunContext.get()
    assert run is not None
    run.task_runner.client.restart()  # type: ignore[attr-defined]
    return [first, add.submit([2]).result()]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "died")
def test_a_flow_run_continues_after_a_restart(own_cluster: LocalCluster) -> None:
    """After a restart of all workers, a task that was sent before can be submitted again."""
    runner: TaskRunner[Any] = LeanDaskTaskRunner(address=own_cluster.scheduler_address)
    assert restart_between.with_options(task_runner=runner)() == [2, 3]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "joined")
def test_an_adaptive_cluster_grows_with_a_flow_run(prefect_server: str, tmp_path: Path) -> None:
    """A cluster with one worker starts another when tasks wait, and both take part."""
    runner: TaskRunner[Any] = LeanDaskTaskRunner(
        cluster_kwargs={
            "n_workers": 1,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "worker_dashboard_address": "127.0.0.1:0",
        },
        adapt_kwargs={"minimum": 1, "maximum": 2, "interval": "100 ms", "target_duration": "1 s"},
    )
    run = wait_in_all.with_options(task_runner=runner)
    # With `local_directory`, nannies would still write elsewhere.
    scratch = dask.config.set(temporary_directory=str(tmp_path / "scratch"))
    folder = tmp_path / "waits"
    folder.mkdir()
    with scratch, ThreadPoolExecutor(1) as pool:
        found = pool.submit(run, str(folder), 8)
        try:
            wait_until(lambda: len(waiting(folder)) == 2)
        finally:
            (folder / "go").touch()
        assert len(set(found.result())) == 2


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("version", ["3.99.0", "3.10.0rc1", "3.7.5"])
def test_an_untried_prefect_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """With an untried Prefect version, importing fails with one line, even if it lacks a module."""
    monkeypatch.setattr(prefect, "__version__", version)
    monkeypatch.setitem(sys.modules, "prefect._flow_run_suspension", None)
    with pytest.raises(ImportError, match=f"{re.escape(version)}; use prefect_dask") as caught:
        runpy.run_path(str(lean_dask.__file__))
    assert "\n" not in str(caught.value)
