# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: options, marks and fixtures, and what a run reports at its end."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.dask_cluster import ClusterError, check_dask_address
from flowgauge.isolation import isolated_environment
from flowgauge.measure.recorder import BenchmarkRecorder, Paired, note_start
from flowgauge.proofs import GuaranteeRecorder, bind_guarantee
from flowgauge.runners import (
    RunnerError,
    StartedRunners,
    chosen_runners,
    default_workers,
    narrowed,
)

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner
    from pytest_benchmark.fixture import BenchmarkFixture

    from flowgauge.measure.floors import Floor


@dataclass(frozen=True)
class Run:
    """What one pytest run was asked for."""

    runners: tuple[str, ...]
    workers: int
    dask_address: str | None
    report_dir: Path


RUN = pytest.StashKey[Run]()
HOME = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    parser.addini("flowgauge", "report guarantees and benchmarks of this project", type="bool")
    group = parser.getgroup("flowgauge", "task runners and reports (flowgauge)")
    group.addoption(
        "--runners",
        metavar="NAMES",
        help="task runners to test on, with commas between: sequential, threads, processes,"
        " dask-threads, dask-processes (default: all that are installed)",
    )
    group.addoption(
        "--dask-address",
        metavar="ADDRESS",
        help="an existing Dask scheduler for dask-processes, for instance tcp://10.0.0.5:8786",
    )
    group.addoption(
        "--workers",
        metavar="N",
        help="how many tasks may run side by side (default: the cores there are)",
    )
    group.addoption(
        "--report-dir",
        metavar="DIR",
        type=Path,
        help="where the guarantees and the report go (default: reports/latest)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Isolate a project that has the plugin on before its conftest can import Prefect."""
    if early_config.getini("flowgauge"):
        _isolated_home(early_config)


def _isolated_home(config: pytest.Config) -> Path:
    """Return the folder for what Prefect writes in this run; the run is isolated from here on."""
    if HOME not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        folder = tempfile.TemporaryDirectory(prefix="flowgauge-", ignore_cleanup_errors=True)
        config.stash[HOME] = Path(stack.enter_context(folder))
        stack.enter_context(isolated_environment(config.stash[HOME]))
    return config.stash[HOME]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a mistake in them ends the run with one line."""
    config.addinivalue_line("markers", "runners(*names): run the test on these task runners only")
    config.addinivalue_line(
        "markers",
        "guarantee(pattern, id, *, runners=None, reason=None, issue=None, run=True): the test"
        " proves a guarantee; on runners other than those named it must fail, for that reason",
    )
    try:
        config.stash[RUN] = Run(
            runners=chosen_runners(config.getoption("runners")),
            workers=_workers(config.getoption("workers")),
            dask_address=config.getoption("dask_address"),
            report_dir=config.getoption("report_dir") or config.rootpath / "reports" / "latest",
        )
        if config.stash[RUN].dask_address and not hasattr(config, "workerinput"):
            check_dask_address(config.stash[RUN].dask_address or "")
    except (RunnerError, ClusterError) as error:
        raise pytest.UsageError(str(error)) from None
    if config.getini("flowgauge"):
        _measure_only_when_asked(config)
        run = config.stash[RUN]
        recorder = GuaranteeRecorder(config, run.runners, run.report_dir)
        config.pluginmanager.register(recorder, "flowgauge-guarantees")
        if config.pluginmanager.has_plugin("benchmark"):
            benchmarks = BenchmarkRecorder(config, run.workers, run.report_dir)
            config.pluginmanager.register(benchmarks, "flowgauge-benchmarks")


def _workers(text: str | None) -> int:
    if text is None:
        return default_workers()
    if not text.isdecimal() or int(text) < 1:
        raise RunnerError(f"--workers {text}: not a number of workers; give 1 or more")
    return int(text)


def _measure_only_when_asked(config: pytest.Config) -> None:
    """Let each benchmark run once in a plain run, and show pytest-benchmark's table on request."""
    if not config.pluginmanager.has_plugin("benchmark"):
        return
    measuring = ("only", "enable", "json", "save", "autosave", "compare", "histogram", "cprofile")
    if not any(config.getoption(f"benchmark_{name}", None) for name in measuring):
        config.option.benchmark_disable = True
    table = ("columns", "sort", "group-by", "name", "compare", "histogram", "cprofile", "verbose")
    options = tuple(f"--benchmark-{name}" for name in table)
    if not any(str(given).startswith(options) for given in config.invocation_params.args):
        config.option.benchmark_quiet = True


def _measures(config: pytest.Config) -> bool:
    """Say whether benchmarks are timed in this run."""
    enabled: bool = config.getoption("benchmark_enable", False)
    return enabled or not config.getoption("benchmark_disable", False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `task_runner` or `runner_name` on every runner it may use."""
    if "runner_name" not in metafunc.fixturenames:
        return
    names = metafunc.config.stash[RUN].runners
    mark = metafunc.definition.get_closest_marker("runners")
    if mark is not None:
        try:
            names = narrowed(names, mark.args)
        except RunnerError as error:
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from None
    if "paired" in metafunc.fixturenames and not _measures(metafunc.config):
        # A check that the benchmark works; --benchmark-only runs it on every runner.
        names = names[:1]
    left_out = pytest.mark.skip(reason="--runners leaves out all task runners of this test")
    # Not function scope: Hypothesis refuses fixtures that it can't set up per example.
    metafunc.parametrize(
        "runner_name", names or [pytest.param("none", marks=left_out)], scope="module"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell each test that proves a guarantee which one, and on which runners it must fail."""
    for item in items:
        for mark in item.iter_markers("guarantee"):
            bind_guarantee(item, mark)


@pytest.fixture(scope="session")
def prefect_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """Start one isolated Prefect server for the whole run; gives the address of its API."""
    from flowgauge.server import prefect_server

    start = time.perf_counter()
    with prefect_server(_isolated_home(pytestconfig)) as url:
        note_start(pytestconfig, "server", None, time.perf_counter() - start)
        yield url


@pytest.fixture(scope="session")
def started_runners(prefect_server: str, pytestconfig: pytest.Config) -> Iterator[StartedRunners]:
    """Keep what task runners share (a Dask cluster, a fork server) for the whole run."""
    run = pytestconfig.stash[RUN]
    started = StartedRunners(run.workers, _isolated_home(pytestconfig) / "dask", run.dask_address)
    try:
        yield started
    finally:
        started.close()
        for name, seconds in started.seconds_to_start.items():
            note_start(pytestconfig, "cluster", name, seconds)


@pytest.fixture(scope="module")
def task_runner(started_runners: StartedRunners, runner_name: str) -> TaskRunner[Any]:
    """Give a task runner for `flow.with_options(task_runner=...)`, one test for each runner."""
    try:
        return started_runners.task_runner(runner_name)
    except ClusterError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture
def paired(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Paired:
    """Measure one thing beside its reference, round by round; see `Paired`."""
    recorder = request.config.pluginmanager.get_plugin("flowgauge-benchmarks")
    if not isinstance(recorder, BenchmarkRecorder):
        pytest.fail("the paired fixture needs `flowgauge = true` in pytest's ini file", False)
    return Paired(benchmark, request.node, recorder)


@pytest.fixture(scope="module")
def floor(started_runners: StartedRunners, runner_name: str) -> Iterator[Floor]:
    """Give the plainest code that does what the task runner does, its workers already up."""
    from flowgauge.measure.floors import floor

    with floor(runner_name, started_runners) as started:
        yield started
