# SPDX-License-Identifier: Apache-2.0
"""Where lean task runners could differ from stock ones: nesting, retried flows, cache keys."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow, get_client, tags, task
from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.runtime import flow_run
from prefect.settings import PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flowgauge.runners import StartedRunners
from flowgauge.waiting import wait_until
from tests.patterns.task_runners.drawn_flows import (
    NESTED,
    Plan,
    Step,
    assert_same_on_both,
    follow_again,
    surroundings,
)

LEAN = {"lean-dask": "dask-processes", "lean-processes": "processes"}
SAME = {
    "lean-dask": pytest.mark.guarantee("task_runners/lean_dask", "same"),
    "lean-processes": pytest.mark.guarantee("task_runners/lean_process_pool", "same"),
}
Pair = tuple[TaskRunner[Any], TaskRunner[Any]]


@pytest.fixture(params=[pytest.param(name, marks=SAME[name]) for name in LEAN])
def pair(request: pytest.FixtureRequest, started_runners: StartedRunners) -> Pair:
    """Give a stock task runner and the lean one in its place."""
    stock, lean = LEAN[request.param], request.param
    return started_runners.task_runner(stock), started_runners.task_runner(lean)


@pytest.mark.nightly
def test_tasks_that_run_others(pair: Pair) -> None:
    """Tasks that submit, map or define tasks, or run a flow, leave the same on the server."""
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


@pytest.mark.e2e
def test_async_flows_that_are_retried(pair: Pair) -> None:
    """So does an async flow that fails, and is tried again."""
    assert_same_on_both(*pair, PLAN, run=follow_again)


@task(cache_policy=TASK_SOURCE + INPUTS, refresh_cache=True, persist_result=True)
def keyed(numbers: list[int]) -> int:
    """Be stored by source and inputs."""
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
    """Make an asset from another, and return what their names begin with."""
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
    """Return what the server has been told of them."""
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
    """The server is told the same of assets that tasks make and read, with their metadata."""
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
def test_flow_runs_at_a_time(pair: Pair) -> None:
    """Flow runs on one task runner at a time have their own run, settings and tags in tasks."""

    def seen(number: int) -> Any:
        with temporary_settings({PREFECT_RUNNER_POLL_FREQUENCY: 100 + number}):
            return see.with_options(task_runner=pair[1])(f"parcel {number}")

    with ThreadPoolExecutor(2) as pool:
        for number, (found, name) in enumerate(pool.map(seen, range(2))):
            parcel = f"parcel {number}"
            assert found == [(parcel, name, {"parcel": parcel}, 100 + number, [parcel])] * 4
