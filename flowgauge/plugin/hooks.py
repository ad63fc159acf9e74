# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: options, marks, and what a run reports at its end.

It is loaded in every run of pytest where Flowgauge is installed, also where no test needs it: what
only some runs need is imported where they do.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowgauge.mistake import Mistake
from flowgauge.plugin.proofs import GuaranteeRecorder, bind_proof
from flowgauge.plugin.session import (
    RUN_OPTIONS,
    SERVER_LOST,
    RunOptions,
    measures,
    release_server,
    run_home,
    start_early,
)
from flowgauge.runners.chosen import chosen_runners, default_workers, narrowed
from flowgauge.runners.dask_cluster import check_dask_address
from flowgauge.runners.starts import RunnerError
from flowgauge.runners.table import RUNNERS, add, names_where

if TYPE_CHECKING:
    from flowgauge.plugin.facts import Facts

_PARTS = (
    "flowgauge.plugin.preflight",
    "flowgauge.plugin.timing",
    "flowgauge.plugin.features_off",
    "flowgauge.plugin.fixtures",
    "flowgauge.plugin.file_state",
    "flowgauge.plugin.hung_test",
    "flowgauge.plugin.clock_fixture",
    "flowgauge.plugin.faults_fixture",
    "flowgauge.plugin.observe_fixtures",
    "flowgauge.plugin.leftovers_fixture",
)
"""The other modules with hooks and fixtures. Not as `pytest_plugins`: pytest would read what every
installed package says of itself again for each of them."""

TEST_WORKERS = 2
"""How many tasks run side by side in tests: what they show must not depend on the machine."""
_MEASURING = ("only", "enable", "json", "save", "autosave", "compare", "histogram", "cprofile")
"""The options of pytest-benchmark, after `benchmark_`, that ask for figures."""
FULL_ROUNDS = 10
"""How many rounds each benchmark has at least where everything is measured."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others may implement."""
    from flowgauge.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the options of the plugin, and the other modules with theirs."""
    group = parser.getgroup("flowgauge", "task runners and reports (flowgauge)")
    for name in _PARTS:
        # One may be there by `-p`, or refused by it.
        if not (pluginmanager.has_plugin(name) or pluginmanager.is_blocked(name)):
            pluginmanager.register(importlib.import_module(name), name)
    parser.addini("flowgauge", "report guarantees and benchmarks of this project", type="bool")
    group.addoption(
        "--flow-runners",
        metavar="NAMES",
        help=f"task runners to test on, with commas between: {', '.join(RUNNERS)} (default: all"
        " that are installed; the lean ones where benchmarks are measured, or a test names them)",
    )
    group.addoption(
        "--flow-dask-address",
        metavar="ADDRESS",
        help="an existing Dask scheduler for task runners on processes of Dask, for instance"
        " tcp://10.0.0.5:8786",
    )
    group.addoption(
        "--flow-workers",
        metavar="N",
        help="how many tasks may run side by side (default: 2, and the cores there are where"
        " benchmarks are measured)",
    )
    group.addoption(
        "--flow-report-dir",
        metavar="DIR",
        type=Path,
        help="where the guarantees and the report go (default: reports/latest)",
    )
    group.addoption(
        "--flow-full",
        action="store_true",
        help="measure everything, with more rounds: up to three quarters of an hour in place of"
        " three minutes",
    )
    group.addoption(
        "--flow-resume",
        action="store_true",
        help="go on with benchmarks that were broken off, from what is in the report's folder",
    )
    group.addoption(
        "--flow-file",
        metavar="FILE",
        action="append",
        default=[],
        help="a trace in WfFormat to measure in place of the built-in workflows; may be repeated",
    )
    group.addoption(
        "--flow-time-scale",
        metavar="X",
        help="what the runtimes of workflows are multiplied with (default: so that each takes a"
        " second at most where nothing but the work takes time)",
    )
    group.addoption(
        "--flow-bytes-scale",
        metavar="X",
        default="0.001",
        help="what the sizes of workflows' results are multiplied with (default: 0.001); a task's"
        " is cut at 1 MB, and those of all tasks together at 64 MB",
    )
    group.addoption(
        "--flow-publish-artifacts",
        action="store_true",
        help="show the benchmarks' report in Prefect's pages, too: on the server that Prefect's"
        " settings name outside of tests",
    )
    group.addoption(
        "--flow-keep-server",
        action="store_true",
        help="leave the process that starts servers running, for the next run of this project;"
        " `flowgauge server stop` ends it",
    )
    group.addoption(
        "--flow-stock-harness",
        action="store_true",
        help="use Prefect's own test harness as it is: slow, for comparison",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Isolate a project that has the plugin on before its conftest can import Prefect."""
    if early_config.getini("flowgauge"):
        # Last of all, when the user's own settings are back.
        early_config.add_cleanup(lambda: publish_report(early_config))
        run_home(early_config)
        # It is too early to tell a person of a mistake; pytest_configure tries again.
        with contextlib.suppress(Mistake):
            start_early(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a mistake in them ends the run with one line."""
    config.addinivalue_line("markers", "runners(*names): run the test on these task runners only")
    config.addinivalue_line(
        "markers",
        "guarantee(pattern, id, *, runners=None, reason=None, issue=None, run=True): the test"
        " proves a guarantee; on runners other than those named it must fail, for that reason",
    )
    config.addinivalue_line(
        "markers",
        "fact(pattern, id, *, ...): the test proves what a pattern's header says of Prefect, in the"
        " versions that it names; in a version that is tested and not named it must fail",
    )
    if config.getini("flowgauge"):
        _measure_only_when_asked(config)
    try:
        for runners in config.hook.pytest_flowgauge_runners(config=config):
            for runner in runners:
                add(runner)
        config.stash[RUN_OPTIONS] = RunOptions(
            runners=chosen_runners(
                config.getoption("flow_runners"), lean=_is_asked_to_measure(config)
            ),
            workers=_workers(config),
            dask_address=config.getoption("flow_dask_address"),
            report_dir=(
                config.getoption("flow_report_dir") or config.rootpath / "reports" / "latest"
            ).absolute(),
        )
        if config.stash[RUN_OPTIONS].dask_address and not hasattr(config, "workerinput"):
            check_dask_address(config.stash[RUN_OPTIONS].dask_address or "")
        if config.getini("flowgauge"):
            start_early(config)
        _check_workflows(config)
    except Mistake as error:
        raise pytest.UsageError(str(error)) from None
    if config.getoption("flow_keep_server") and config.getoption("flow_stock_harness"):
        raise pytest.UsageError(
            "--flow-keep-server: --flow-stock-harness keeps no server; use one of them"
        )
    if config.getini("flowgauge"):
        run = config.stash[RUN_OPTIONS]
        recorder = GuaranteeRecorder(config, run.runners, run.report_dir)
        config.pluginmanager.register(recorder, "flowgauge-guarantees")
        if config.pluginmanager.has_plugin("benchmark"):
            from flowgauge.plugin.recorder import BenchmarkRecorder

            benchmarks = BenchmarkRecorder(config, run.workers, run.report_dir)
            config.pluginmanager.register(benchmarks, "flowgauge-benchmarks")


def _workers(config: pytest.Config) -> int:
    text: str | None = config.getoption("flow_workers")
    if text is None:
        return default_workers() if _is_asked_to_measure(config) else TEST_WORKERS
    if not text.isdecimal() or int(text) < 1:
        raise RunnerError(f"--flow-workers {text}: not a number of workers; give 1 or more")
    return int(text)


def _check_workflows(config: pytest.Config) -> None:
    """Read what is asked to be measured, to tell of a mistake before anything is."""
    for file in config.getoption("flow_file"):
        from flowgauge.workflows.wfformat import load_workflow

        load_workflow(Path(file))
    for option in ("flow_time_scale", "flow_bytes_scale"):
        text = config.getoption(option)
        try:
            is_scale = text is None or 0 <= float(text) < float("inf")
        except ValueError:
            is_scale = False
        if not is_scale:
            raise Mistake(f"--{option.replace('_', '-')} {text}: not a number of zero or more")


def _is_asked_to_measure(config: pytest.Config) -> bool:
    return any(config.getoption(f"benchmark_{name}", None) for name in _MEASURING)


def _measure_only_when_asked(config: pytest.Config) -> None:
    """Let each benchmark run once in a plain run, and show pytest-benchmark's table on request."""
    if not config.pluginmanager.has_plugin("benchmark"):
        return
    if not _is_asked_to_measure(config):
        config.option.benchmark_disable = True
    if config.getoption("flow_full"):
        config.option.benchmark_min_rounds = max(config.option.benchmark_min_rounds, FULL_ROUNDS)
    table = ("columns", "sort", "group-by", "name", "compare", "histogram", "cprofile", "verbose")
    options = tuple(f"--benchmark-{name}" for name in table)
    if not any(str(given).startswith(options) for given in config.invocation_params.args):
        config.option.benchmark_quiet = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `task_runner` or `runner_name` on every runner it may use."""
    if "runner_name" not in metafunc.fixturenames:
        return
    names = metafunc.config.stash[RUN_OPTIONS].runners
    mark = metafunc.definition.get_closest_marker("runners")
    if mark is not None:
        try:
            # A mark may name the lean ones, which nothing else chooses by itself.
            asked = metafunc.config.getoption("flow_runners")
            there = names if asked else names_where(lambda runner: runner.installed)
            names = narrowed(there, mark.args)
        except RunnerError as error:
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from None
    if "paired" in metafunc.fixturenames and not measures(metafunc.config):
        # A check that the benchmark works; --benchmark-only runs it on every runner.
        names = names[:1]
    left_out = pytest.mark.skip(reason="--flow-runners leaves out all task runners of this test")
    # Not function scope: Hypothesis refuses fixtures that it can't set up per example.
    metafunc.parametrize(
        "runner_name", names or [pytest.param("none", marks=left_out)], scope="module"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tell each test what it proves, and where it must fail."""
    facts: Facts | None = None
    for item in items:
        for mark in item.iter_markers("guarantee"):
            bind_proof(item, mark)
        for mark in item.iter_markers("fact"):
            from flowgauge.plugin import facts as of_prefect

            bind_proof(item, mark)
            facts = facts or of_prefect.Facts(config.rootpath / "patterns")
            facts.bind(item, mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Where a fact does not hold any more, say so instead of how that was noticed."""
    try:
        yield
    except (AssertionError, pytest.fail.Exception) as error:
        if item.get_closest_marker("fact") is None:
            raise
        from flowgauge.plugin.facts import outdated_fact

        if (outdated := outdated_fact(item)) is None:
            raise
        raise outdated from error


def pytest_collection_finish(session: pytest.Session) -> None:
    """End a server that no test needs as soon as that is known."""
    if not any("prefect_server" in getattr(item, "fixturenames", ()) for item in session.items):
        release_server(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the server had to be ended, if it had."""
    if (why := terminalreporter.config.stash.get(SERVER_LOST, None)) is not None:
        terminalreporter.section("the test server")
        terminalreporter.line(why)


def publish_report(config: pytest.Config) -> None:
    """Publish the report that a run has written, if that was asked for."""
    from flowgauge.plugin.recorder import BenchmarkRecorder

    recorder = config.pluginmanager.get_plugin("flowgauge-benchmarks")
    if not isinstance(recorder, BenchmarkRecorder) or recorder.report is None:
        return
    if config.getoption("flow_publish_artifacts"):
        # Not in this process, whose Prefect has the settings of the tests.
        words = (sys.executable, "-m", "flowgauge", "publish", str(recorder.directory))
        subprocess.run(words, check=False)
