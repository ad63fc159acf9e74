# SPDX-License-Identifier: Apache-2.0
"""Where lean task runners could differ from stock ones: nesting, retried flows, cache keys."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect import flow, get_client, tags, task
from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import LEAN, RUNNERS
from flowgauge.waiting import patience, wait_until
from tests.conftest import environment
from tests.patterns.task_runners import ended_flow
from tests.patterns.task_runners.drawn_flows import (
    NESTED,
    Plan,
    Step,
    assert_same_on_both,
    follow_again,
    surroundings,
)
from tests.signals import main_thread_waits

ROOT = Path(__file__).parents[1]
SAME = {
    "lean-dask": pytest.mark.guarantee("task_runners/lean_dask", "same"),
    "lean-processes": pytest.mark.guarantee("task_runners/lean_process_pool", "same"),
}
Pair = tuple[TaskRunner[Any], TaskRunner[Any]]


@pytest.fixture(params=[pytest.param(name, marks=SAME[name]) for name in LEAN])
def pair_names(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the names of a stock task runner and of the lean one that replaces it."""
    return RUNNERS[request.param].stock, request.param


@pytest.fixture
def pair(pair_names: tuple[str, str], started_runners: StartedRunners) -> Pair:
    """Return the two task runners."""
    stock, lean = map(started_runners.task_runner, pair_names)
    return stock, lean


@pytest.mark.nightly
def test_tasks_that_run_other_tasks(pair: Pair) -> None:
    """Tasks that submit, map or define tasks, or run a flow, have the same outcome on both."""
    steps: list[Step] = []
    for number, kind in enumerate(NESTED):
        before = (number - 1,) if number else ()
        steps.append(Step(kind, needs=before, waits_for=before, tagged=number % 2 == 1))
    assert_same_on_both(*pair, tuple(steps))


PLAN: Plan = (
    Step("add", tagged=True),
    Step("flaky", needs=(0,)),
    Step("fail", needs=(1,)),
    Step("add", needs=(0, 2), allows_failure=True),
)


@pytest.mark.nightly
def test_async_flows_that_are_retried(pair: Pair) -> None:
    """An async flow that fails and is retried has the same outcome on both."""
    assert_same_on_both(*pair, PLAN, run=follow_again)


@task(cache_policy=TASK_SOURCE + INPUTS, refresh_cache=True, persist_result=True)
def keyed(numbers: list[int]) -> int:
    """Return a result that is stored by source and inputs."""
    return len(numbers)


@flow
def keys() -> list[str]:
    """Return the keys under which results of task runs were stored."""
    stored: list[Any] = [state.data for state in keyed.map([[0], [1]], return_state=True)]
    return [each.metadata.storage_key for each in stored]


def test_cache_keys(pair: Pair) -> None:
    """The keys under which results are stored are those of the stock runner."""
    theirs, ours = (keys.with_options(task_runner=runner)() for runner in pair)
    assert ours == theirs
    assert len(set(ours)) == 2


def make_assets(runner: TaskRunner[Any]) -> str:
    """Make an asset from another, and return the prefix of their names."""
    prefix = f"drawn://{uuid.uuid4()}/"

    @materialize(prefix + "raw")
    def load() -> int:
        add_asset_metadata(prefix + "raw", {"rows": 3})
        return 3

    @materialize(prefix + "clean")
    def clean(rows: int) -> int:
        return rows

    @flow
    def make() -> int:
        rows: Any = load.submit()
        return clean.submit(rows).result()

    assert make.with_options(task_runner=runner)() == 3
    return prefix


def told_of_assets(prefix: str) -> list[Any]:
    """Return the events about these assets that the server has received."""
    chosen = {"resource": {"id": [prefix + "raw", prefix + "clean"]}}
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json={"filter": chosen}).json()
    return sorted(
        (
            event["event"],
            event["resource"]["prefect.resource.id"].removeprefix(prefix),
            sorted(
                related["prefect.resource.id"].removeprefix(prefix)
                for related in event["related"]
                if related["prefect.resource.role"] == "asset"
            ),
            event["payload"],
        )
        for event in answer["events"]
    )


@pytest.mark.e2e
def test_assets(pair: Pair) -> None:
    """Both runners report the same events and metadata of assets that tasks make and read."""
    # A stock process pool does not tell its workers which assets a task reads.
    most = 2 if isinstance(pair[0], ProcessPoolTaskRunner) else 3
    theirs, ours = map(make_assets, pair)
    wait_until(lambda: min(len(told_of_assets(each)) for each in (theirs, ours)) >= most)
    assert told_of_assets(ours) == told_of_assets(theirs)


@flow
def see(parcel: str) -> Any:
    """Return what task runs see, and the name of this flow run."""
    with tags(parcel):
        futures = [surroundings.submit(parcel) for _ in range(4)]
        return [future.result() for future in futures], flow_run.name


@pytest.mark.guarantee("task_runners/lean_dask", "apart")
@pytest.mark.guarantee("task_runners/lean_process_pool", "apart")
def test_concurrent_flow_runs(pair: Pair) -> None:
    """Tasks of concurrent flow runs on a task runner see their own run, settings and tags."""

    def seen(number: int) -> Any:
        with temporary_settings({PREFECT_RUNNER_POLL_FREQUENCY: 100 + number}):
            return see.with_options(task_runner=pair[1])(f"parcel {number}")

    with ThreadPoolExecutor(2) as pool:
        for number, (found, name) in enumerate(pool.map(seen, range(2))):
            parcel = f"parcel {number}"
            assert found == [(parcel, name, {"parcel": parcel}, 100 + number, [parcel])] * 4


def end_from_outside(
    name: str, folder: Path, api: str, scheduler: str
) -> tuple[int, str, set[str], int]:
    """Run a flow in a separate process, and send it SIGTERM while two of its tasks run.

    Returns:
        The exit code, the flow run's state, those of its task runs, and how many tasks had begun
        when the process ended (on a pool, before it ended: it waits for tasks that run).
    """
    is_pool = "dask" not in name
    folder.mkdir()
    words = [sys.executable, "-m", ended_flow.__name__, name, str(folder), scheduler]
    process = subprocess.Popen(words, cwd=ROOT, env=environment(api, folder.parent / "home"))
    try:
        wait_until(lambda: len(list(folder.iterdir())) == 3 or process.poll(), "two tasks")
        assert process.poll() is None
        wait_until(lambda: main_thread_waits(process.pid), "the flow to wait")
        process.send_signal(signal.SIGTERM)
        if not is_pool:
            process.wait(patience())
        began = {path.name for path in folder.iterdir()} - {"waiting"}
    finally:
        (folder / "go").touch()
        code = process.wait(patience())
    with get_client(sync_client=True) as client:

        def ended_run() -> FlowRun | None:
            # By name: the server gives the first 200 runs, of other tests, too.
            named = FlowFilter.model_validate({"name": {"any_": [ended_flow.wait_in_all.name]}})
            found = client.read_flow_runs(flow_filter=named)
            ours = [run for run in found if run.parameters == {"folder": str(folder)}]
            return next((run for run in ours if run.state and run.state.is_final()), None)

        def ended_tasks() -> list[State] | None:
            own = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            states = [each.state for each in client.read_task_runs(flow_run_filter=own)]
            finals = [state for state in states if state and state.is_final()]
            return finals if len(finals) == len(states) >= 2 else None

        run = wait_until(ended_run, "the end of the flow run")
        ends = {str(state.name) for state in wait_until(ended_tasks, "the ends of task runs")}
    assert run.state is not None
    return code, str(run.state.name), ends, len(began)


def keys_at(dask_scheduler: Any) -> int:
    """Return how many tasks a Dask scheduler still holds."""
    return len(dask_scheduler.tasks)


@pytest.mark.nightly
def test_flow_runs_that_are_ended_from_outside(
    pair_names: tuple[str, str],
    started_runners: StartedRunners,
    prefect_server: str,
    tmp_path: Path,
) -> None:
    """On SIGTERM they end as on the stock runner; no waiting task starts; Dask keeps nothing."""
    scheduler = started_runners.dask_scheduler("dask-processes")
    theirs, ours = (
        end_from_outside(name, tmp_path / name, prefect_server, scheduler) for name in pair_names
    )
    assert ours == theirs == (-signal.SIGTERM, "Crashed", {"Completed"}, 2)
    with Client(scheduler, set_as_default=False) as dask:
        wait_until(lambda: dask.run_on_scheduler(keys_at) == 0, "nothing to be kept")
