# SPDX-License-Identifier: Apache-2.0
"""Collects the rows of a benchmark run, prints them as they come, and writes the report."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.measure.budget import Budget, TimeLeft
from flowgauge.measure.load import Load, load_now, peak_memory_mib
from flowgauge.measure.pairs import Rounds, row
from flowgauge.plugin.elsewhere import elsewhere
from flowgauge.plugin.progress import RunProgress
from flowgauge.results.durations import known_durations
from flowgauge.results.fingerprint import versions
from flowgauge.results.joined import BENCHMARKS
from flowgauge.results.resume import (
    UNFINISHED,
    forget_unfinished,
    keep_unfinished,
    load_unfinished,
)
from flowgauge.results.rows import Group, Results, ResultsError, Row
from flowgauge.results.sources import reference_file
from flowgauge.results.timelines import Timeline

if TYPE_CHECKING:
    from flowgauge.report import Report

_SHARES_OF_NOISE = 3
"""With one share, the noise of runners with processes hid a quarter of slowdowns by a tenth
(`benchmarks/noise_experiments.py`)."""


@dataclass(frozen=True)
class Start:
    """The time to start something that the whole run shares.

    It becomes a row only if a report is written, because making a row imports what computes its
    interval, which takes a second.

    Attributes:
        id: What was started.
        runner: The task runner it belongs to, None for all.
        seconds: How long the start took.
    """

    id: str
    runner: str | None
    seconds: float

    def row(self) -> Row:
        """Return the start as a row of the results."""
        return row(
            Rounds((self.seconds,), ()),
            per=1,
            id=self.id,
            group=Group.STARTUP,
            figure="time to start, once per run",
            runner=self.runner,
            reference=None,
            params={},
        )


def _shares(group: str) -> int:
    """Return how many shares of a full run's time a benchmark has."""
    return _SHARES_OF_NOISE if group == Group.NOISE else 1


class BenchmarkRecorder:
    """A pytest plugin that turns the rows of a run into `results.json` and a report.

    Args:
        config: The configuration of the pytest run.
        workers: How many tasks run concurrently.
        directory: The folder for the report.
    """

    def __init__(self, config: pytest.Config, workers: int, directory: Path) -> None:
        self.config = config
        self.workers = workers
        self.directory = directory
        self.measured: dict[str, list[Row]] = {}
        self.timelines: dict[tuple[str, str], Timeline] = {}
        self.starts: list[Start] = []
        self.report: Report | None = None
        self.progress = RunProgress({})
        self._time_left = TimeLeft()
        self._passed: set[str] = set()
        self._load: Load | None = None

    @property
    def full(self) -> bool:
        """Whether `--flow-full` was given."""
        return bool(self.config.getoption("flow_full"))

    @property
    def budget(self) -> Budget:
        """How many rounds and how long to measure each benchmark."""
        return Budget(
            min_rounds=int(self.config.getoption("benchmark_min_rounds")),
            max_time=float(self.config.getoption("benchmark_max_time")),
            precision=float(self.config.getoption("flow_precision")) / 100,
        )

    def shared_budget(self, group: str) -> Budget:
        """Return the budget of the next benchmark.

        Args:
            group: The group of its row.

        Returns:
            The budget of all benchmarks; in a full run also the time that others left, and more
            for an A/A row, by whose interval all rows of a group are judged.
        """
        if not self.full:
            return self.budget
        share = self.budget.max_time
        return replace(self.budget, max_time=self._time_left.most(share, _shares(group)))

    def use_time(self, group: str, seconds: float) -> None:
        """Note how long a benchmark measured, so that others may use what it left."""
        self._time_left.use(_shares(group) * self.budget.max_time, seconds)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """When resuming, deselect what is already measured, and take over those rows."""
        if self.config.getoption("flow_resume"):
            try:
                self.measured, timelines = load_unfinished(self.directory, versions())
            except ResultsError as error:
                raise pytest.UsageError(f"--flow-resume: {error}") from None
            self.timelines = {(t.workflow, t.runner): t for t in timelines}
            self._passed = set(self.measured)
            earlier = [item for item in items if item.nodeid in self.measured]
            items[:] = [item for item in items if item.nodeid not in self.measured]
            self.config.hook.pytest_deselected(items=earlier)
            self.progress.earlier = len(earlier)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the benchmarks, for the progress display."""
        names = {
            item.nodeid: item.name
            for item in session.items
            if "paired" in getattr(item, "fixturenames", ())
        }
        self.progress.names = names
        if names and not self.config.getoption("benchmark_disable"):
            newest = self.directory / "results.json"
            files = [file for file in (reference_file(), newest) if file is not None]
            self.progress.expected = known_durations(files, full=self.full)
            self._load = load_now()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Draw a progress bar while a benchmark runs, if the output is a terminal."""
        if nodeid not in self.progress.names:
            return
        self.progress.begin(nodeid)
        terminal = self._terminal()
        if terminal and terminal._tw.hasmarkup and terminal.isatty:
            if terminal._tw.width_of_current_line:
                terminal._tw.line()
            self.progress.show(nodeid, terminal._tw._file)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that passed, and erase the progress bar before pytest prints the outcome."""
        if report.when == "call" or not report.passed:
            self.progress.hide()
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Save what was measured so far, so that the run can be resumed."""
        if nodeid not in self.progress.names:
            return
        self.progress.end(nodeid)
        if nodeid in self.measured:
            passed = {test: rows for test, rows in self.measured.items() if test in self._passed}
            keep_unfinished(self.directory, versions(), passed, self.timelines.values())

    def pytest_report_teststatus(
        self, report: pytest.TestReport | pytest.CollectReport
    ) -> tuple[str, str, str] | None:
        """Print a measured row instead of a dot."""
        if report.when != "call" or not report.passed or report.nodeid not in self.measured:
            return None
        from flowgauge.report.render.terminal import line

        number = f"[{self.progress.done + 1}/{self.progress.total}]"
        text = f"{number} {line(self.measured[report.nodeid][-1])}"
        terminal = self._terminal()
        lead = "\n" if terminal and terminal._tw.width_of_current_line else ""
        return "passed", f"{lead}  {text}\n", text

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the report of what was measured, even if the run was interrupted."""
        rows = [row for rows in self.measured.values() for row in rows]
        if not rows:
            return
        rows.extend(start.row() for start in self.starts)
        from flowgauge.report import report_on, write_report
        from flowgauge.report.model.commands import files_of_groups
        from flowgauge.results.fingerprint import command_line, fingerprint

        command = command_line(sys.argv[1:])
        since = load_now().since(self._load) if self._load else {}
        origin: dict[str, Any] = fingerprint(self.config.rootpath, self.workers, command) | since
        origin |= elsewhere(self.config).fingerprint | {
            "peak_memory_mib": peak_memory_mib(),
            BENCHMARKS: files_of_groups(self.measured),
        }
        if estimate := self.progress.after_a_quarter():
            origin["after_a_quarter"] = estimate
        timelines = tuple(self.timelines.values())
        results = Results(origin, tuple(rows), timelines, self.progress.durations)
        self.report = report_on(results)
        self.page = write_report(self.report, self.directory)
        if exitstatus == pytest.ExitCode.OK:
            forget_unfinished(self.directory)

    def _terminal(self) -> Any:
        return self.config.pluginmanager.get_plugin("terminalreporter")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary table and the path of the report."""
        if self.report is None:
            return
        from rich.console import Console

        from flowgauge.report.render.terminal import print_report

        terminalreporter.ensure_newline()
        print_report(self.report, Console(file=terminalreporter._tw._file), self.page)
        if (self.directory / UNFINISHED).exists():
            terminalreporter.line(
                "some benchmarks were not measured: --flow-resume continues from here"
            )


def note_start(config: pytest.Config, id: str, runner: str | None, seconds: float) -> None:
    """Record, for the report, how long the start of something shared by the whole run took.

    Args:
        config: The configuration of the pytest run.
        id: What was started.
        runner: The task runner it belongs to, None for all.
        seconds: How long the start took.
    """
    recorder = config.pluginmanager.get_plugin("flowgauge-benchmarks")
    if isinstance(recorder, BenchmarkRecorder):
        recorder.starts.append(Start(id, runner, seconds))
