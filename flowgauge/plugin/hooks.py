# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: options, marks, and what a run reports at its end.

pytest loads it in every run where Flowgauge is installed, even if no test needs it. Therefore
modules that only some runs need are imported inside functions.
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
from flowgauge.plugin.elsewhere import check_elsewhere
from flowgauge.plugin.options import add_options
from flowgauge.plugin.proofs import GuaranteeRecorder, bind_proof
from flowgauge.plugin.session import (
    RUN_OPTIONS,
    SERVER_LOST,
    RunOptions,
    existing_api,
    measures,
    release_server,
    run_home,
    start_early,
)
from flowgauge.runners.chosen import begin_run, chosen_runners, default_workers, of_this_run
from flowgauge.runners.starts import RunnerError
from flowgauge.runners.table import add

if TYPE_CHECKING:
    from flowgauge.plugin.facts import Facts

_MODULES = (
    "flowgauge.plugin.preflight",
    "flowgauge.plugin.elsewhere",
    "flowgauge.plugin.timing",
    "flowgauge.plugin.features_off",
    "flowgauge.plugin.fixtures",
    "flowgauge.plugin.own_results",
    "flowgauge.plugin.fresh_server",
    "flowgauge.plugin.made_by_tests",
    "flowgauge.plugin.slots_left",
    "flowgauge.plugin.file_state",
    "flowgauge.plugin.hung_test",
    "flowgauge.plugin.deadlock_watch",
    "flowgauge.plugin.clock_fixture",
    "flowgauge.plugin.services_fixtures",
    "flowgauge.plugin.faults_fixture",
    "flowgauge.plugin.observe_fixtures",
    "flowgauge.plugin.examples",
    "flowgauge.plugin.leftovers_fixture",
)
"""The other modules with hooks and fixtures. They are not listed in `pytest_plugins`, since pytest
would read the metadata of every installed package again for each of them."""

TEST_WORKERS = 2
"""How many tasks run concurrently in tests; fixed, so that outcomes are the same on any machine."""
_MEASURING = ("only", "enable", "json", "save", "autosave", "compare", "histogram", "cprofile")
"""The options of pytest-benchmark, without `benchmark_`, that ask for measurements."""
FULL_ROUNDS, FULL_SECONDS = 10, 5.0
"""The minimum number of rounds of each benchmark with `--flow-full`, and its share of the time for
more."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks that projects and other plugins may implement."""
    from flowgauge.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the plugin's options, and register its other modules, which add theirs."""
    group = parser.getgroup("flowgauge", "task runners and reports (flowgauge)")
    for name in _MODULES:
        # `-p` may have registered a module already, or blocked it.
        if not (pluginmanager.has_plugin(name) or pluginmanager.is_blocked(name)):
            pluginmanager.register(importlib.import_module(name), name)
    parser.addini("flowgauge", "report guarantees and benchmarks of this project", type="bool")
    add_options(group)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Isolate a project that enables the plugin, before its conftest can import Prefect."""
    if early_config.getini("flowgauge"):
        # Runs last, when the user's own settings have been restored.
        early_config.add_cleanup(lambda: publish_report(early_config))
        run_home(early_config)
        # Too early to report a mistake to the user; pytest_configure tries again.
        with contextlib.suppress(Mistake):
            start_early(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a mistake in them ends the pytest run with a one-line error."""
    config.addinivalue_line("markers", "runners(*names): run the test only on these task runners")
    config.addinivalue_line(
        "markers",
        "guarantee(pattern, id, *, runners=None, reason=None, issue=None, run=True): the test"
        " proves this guarantee; with runners=, it must fail on all others, for the given reason",
    )
    config.addinivalue_line(
        "markers",
        "fact(pattern, id, *, ...): the test proves this fact about Prefect from a pattern's header"
        " for the versions it names; on any other tested version it must fail",
    )
    if config.getini("flowgauge"):
        _measure_only_when_asked(config)
    try:
        for runners in config.hook.pytest_flowgauge_runners(config=config):
            for runner in runners:
                add(runner)
        places = check_elsewhere(config)
        config.stash[RUN_OPTIONS] = RunOptions(
            runners=chosen_runners(
                config.getoption("flow_runners"), lean=_is_asked_to_measure(config)
            ),
            workers=_workers(config, places),
            dask_address=config.getoption("flow_dask_address"),
            prefect_api=existing_api(config),
            report_dir=(
                config.getoption("flow_report_dir") or config.rootpath / "reports" / "latest"
            ).absolute(),
        )
        asked = bool(config.getoption("flow_runners"))
        config.add_cleanup(begin_run(config.stash[RUN_OPTIONS].runners, asked=asked))
        if config.getini("flowgauge"):
            start_early(config)
        _check_numbers(config)
    except Mistake as error:
        raise pytest.UsageError(str(error)) from None
    if config.getoption("flow_keep_server") and config.getoption("flow_stock_harness"):
        raise pytest.UsageError(
            "--flow-keep-server and --flow-stock-harness can't be combined; use one of them"
        )
    if config.getini("flowgauge"):
        run = config.stash[RUN_OPTIONS]
        recorder = GuaranteeRecorder(config, run.runners, run.report_dir)
        config.pluginmanager.register(recorder, "flowgauge-guarantees")
        if config.pluginmanager.has_plugin("benchmark"):
            from flowgauge.plugin.recorder import BenchmarkRecorder

            benchmarks = BenchmarkRecorder(config, run.workers, run.report_dir)
            config.pluginmanager.register(benchmarks, "flowgauge-benchmarks")


def _workers(config: pytest.Config, places: int) -> int:
    text: str | None = config.getoption("flow_workers")
    if text is None:
        return (places or default_workers()) if _is_asked_to_measure(config) else TEST_WORKERS
    if not text.isdecimal() or int(text) < 1:
        raise RunnerError(f"--flow-workers {text}: give a number of workers, 1 or more")
    return int(text)


def _check_numbers(config: pytest.Config) -> None:
    """Read workflows and numbers, to report a mistake before anything is measured."""
    for file in config.getoption("flow_file"):
        from flowgauge.workflows.wfformat import load_workflow

        load_workflow(Path(file))
    for option in ("flow_time_scale", "flow_bytes_scale", "flow_precision"):
        text = config.getoption(option)
        try:
            is_valid = text is None or 0 <= float(text) < float("inf")
        except ValueError:
            is_valid = False
        if not is_valid:
            raise Mistake(f"--{option.replace('_', '-')} {text}: give a number of zero or more")


def _is_asked_to_measure(config: pytest.Config) -> bool:
    return any(config.getoption(f"benchmark_{name}", None) for name in _MEASURING)


def _measure_only_when_asked(config: pytest.Config) -> None:
    """Run each benchmark once in a plain run, and show pytest-benchmark's table on request."""
    if not config.pluginmanager.has_plugin("benchmark"):
        return
    if not _is_asked_to_measure(config):
        config.option.benchmark_disable = True
    if config.getoption("flow_full"):
        config.option.benchmark_min_rounds = max(config.option.benchmark_min_rounds, FULL_ROUNDS)
        config.option.benchmark_max_time = max(
            float(config.option.benchmark_max_time), FULL_SECONDS
        )
    table = ("columns", "sort", "group-by", "name", "compare", "histogram", "cprofile", "verbose")
    options = tuple(f"--benchmark-{name}" for name in table)
    if not any(str(word).startswith(options) for word in config.invocation_params.args):
        config.option.benchmark_quiet = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `task_runner` or `runner_name` on every runner it may use."""
    if "runner_name" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("runners")
    try:
        names = of_this_run(None if mark is None else mark.args)
    except RunnerError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from None
    if "paired" in metafunc.fixturenames and not measures(metafunc.config):
        # One runner is enough to check that the benchmark works; --benchmark-only uses all.
        names = names[:1]
    skip = pytest.mark.skip(reason="--flow-runners excludes all task runners of this test")
    # Not function scope, because Hypothesis refuses function-scoped fixtures.
    metafunc.parametrize("runner_name", names or [pytest.param("none", marks=skip)], scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Attach to each test what it proves, and where it must fail."""
    facts: Facts | None = None
    for item in items:
        for mark in item.iter_markers("guarantee"):
            bind_proof(item, mark)
        for mark in item.iter_markers("fact"):
            from flowgauge.plugin import facts as facts_module

            bind_proof(item, mark)
            facts = facts or facts_module.Facts(config.rootpath / "patterns")
            facts.bind(item, mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """If a fact no longer holds, report that instead of the failed assertion."""
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
    """Stop the early-started server as soon as it is known that no test needs it."""
    if not any("prefect_server" in getattr(item, "fixturenames", ()) for item in session.items):
        release_server(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report why the server had to be stopped, if it was."""
    if (reason := terminalreporter.config.stash.get(SERVER_LOST, None)) is not None:
        terminalreporter.section("the test server")
        terminalreporter.line(reason)


def publish_report(config: pytest.Config) -> None:
    """Publish the report of this run, if `--flow-publish-artifacts` was given."""
    from flowgauge.plugin.recorder import BenchmarkRecorder

    recorder = config.pluginmanager.get_plugin("flowgauge-benchmarks")
    if not isinstance(recorder, BenchmarkRecorder) or recorder.report is None:
        return
    if config.getoption("flow_publish_artifacts"):
        # In another process, because Prefect in this one has the settings of the tests.
        command = (sys.executable, "-m", "flowgauge", "publish", str(recorder.directory))
        subprocess.run(command, check=False)
