# SPDX-License-Identifier: Apache-2.0
"""The plugin's fixtures for the server, task runners and benchmarks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.plugin.preflight import warn_of_untested_prefect
from flowgauge.plugin.session import (
    RUN_OPTIONS,
    SERVER_LOST,
    existing_api,
    is_stock,
    leased_server,
    measures,
    run_home,
)
from flowgauge.plugin.timing import times
from flowgauge.runners.existing_cluster import ClusterError
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.starts import RunnerError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner
    from pytest_benchmark.fixture import BenchmarkFixture

    from flowgauge.measure.baselines import Baseline
    from flowgauge.plugin.metg_benchmark import MetgBenchmark
    from flowgauge.plugin.paired import Paired
    from flowgauge.workflows.kernels import Speeds


@pytest.fixture(scope="session")
def prefect_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start one isolated Prefect server for the whole run, and return the URL of its API.

    With `--flow-prefect-api` nothing is started, and the URL is that of the option.
    """
    from flowgauge.plugin.recorder import note_start
    from flowgauge.runners.reached_workers import reached_workers
    from flowgauge.server.kept import KeptError
    from flowgauge.server.watch import ServerError

    warn_of_untested_prefect()
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(_harness(request.session))
        except (ServerError, KeptError) as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)
        if not is_stock(request.config):
            home, as_shipped = run_home(request.config), _as_shipped(request.session)
            stack.enter_context(reached_workers(home, as_shipped=as_shipped))
        seconds = time.perf_counter() - start
        times(request.config).server = seconds
        if not existing_api(request.config):
            note_start(request.config, "server", None, seconds)
        yield url


def ends_session(session: pytest.Session) -> Callable[[str], None]:
    """Return what ends a session when a server is lost, given the reason in a few lines."""

    def stop_session(reason: str) -> None:
        session.config.stash[SERVER_LOST] = reason
        session.shouldstop = reason.partition("\n")[0]

    return stop_session


def _harness(session: pytest.Session) -> contextlib.AbstractContextManager[str]:
    home, url = run_home(session.config), existing_api(session.config)
    if url:
        from flowgauge.server.existing import existing_server

        return existing_server(home, url, as_shipped=_as_shipped(session))
    from flowgauge.server.harness import leased_harness, stock_harness

    if is_stock(session.config):
        return stock_harness(home)
    server, report = leased_server(session.config), ends_session(session)
    return leased_harness(home, server, report, as_shipped=_as_shipped(session))


def _as_shipped(session: pytest.Session) -> bool:
    # Measure an unpatched Prefect, but only if this run has benchmarks and times them.
    benchmarks = any("benchmark" in getattr(item, "fixturenames", ()) for item in session.items)
    return is_stock(session.config) or (benchmarks and measures(session.config))


@pytest.fixture(scope="session")
def started_runners(
    prefect_server: str, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> Iterator[StartedRunners]:
    """Hold what task runners share (a Dask cluster, a fork server) for the whole run."""
    from flowgauge.plugin.recorder import note_start

    run = pytestconfig.stash[RUN_OPTIONS]
    home, as_shipped = run_home(pytestconfig), _as_shipped(request.session)
    started = StartedRunners(run.workers, home, as_shipped, run.dask_address, run.prefect_api)
    try:
        yield started
    finally:
        started.close()
        for name, seconds in started.seconds_to_start.items():
            note_start(pytestconfig, "cluster", name, seconds)


@pytest.fixture(scope="module")
def task_runner(started_runners: StartedRunners, runner_name: str) -> TaskRunner[Any]:
    """Return a task runner for `flow.with_options(task_runner=...)`; one test per runner."""
    try:
        return started_runners.task_runner(runner_name)
    except ClusterError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    except RunnerError as error:
        pytest.skip(str(error))


@pytest.fixture
def paired(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Paired:
    """Measure a candidate against its reference in alternating rounds; see `Paired`."""
    from flowgauge.plugin.paired import Paired
    from flowgauge.plugin.recorder import BenchmarkRecorder

    recorder = request.config.pluginmanager.get_plugin("flowgauge-benchmarks")
    if not isinstance(recorder, BenchmarkRecorder):
        pytest.fail("the paired fixture needs `flowgauge = true` in pytest's ini file", False)
    return Paired(benchmark, request.node, recorder)


@pytest.fixture(scope="module")
def baseline(started_runners: StartedRunners, runner_name: str) -> Iterator[Baseline]:
    """Return the runner's baseline: the plainest equivalent, with its workers already started."""
    from flowgauge.measure.baselines import baseline

    with baseline(runner_name, started_runners) as started:
        yield started


@pytest.fixture(scope="session")
def speeds() -> Speeds:
    """Return how much work this machine does per second, the same in every run."""
    from flowgauge.server.template import cache_folder
    from flowgauge.workflows.kernels import machine_speeds

    return machine_speeds(cache_folder())


@pytest.fixture(scope="session")
def bare_pool(started_runners: StartedRunners) -> Iterator[Executor]:
    """Return a process pool without Prefect, relative to which efficiency is measured."""
    from flowgauge.measure.baselines import pool
    from flowgauge.runners.table import BaselineKind

    with pool(BaselineKind.PROCESSES, started_runners.workers) as executor:
        yield executor


@pytest.fixture
def metg(
    paired: Paired, bare_pool: Executor, speeds: Speeds, started_runners: StartedRunners
) -> MetgBenchmark:
    """Measure the minimum effective task granularity of a case; see `MetgBenchmark`."""
    from flowgauge.plugin.metg_benchmark import MetgBenchmark

    return MetgBenchmark(paired, bare_pool, speeds, started_runners.workers)
