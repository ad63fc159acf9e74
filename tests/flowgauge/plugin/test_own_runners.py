# SPDX-License-Identifier: Apache-2.0
"""Task runners that a project adds to the table."""

from __future__ import annotations

import json

import pytest

CONFTEST = """
from concurrent.futures import ProcessPoolExecutor

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flowgauge import BaselineKind, ExecutionModel, Runner


class OurThreads(ThreadPoolTaskRunner):
    pass


def pytest_flowgauge_runners(config):
    yield Runner(
        "our-threads",
        start=lambda runner, started: OurThreads(max_workers=started.workers),
        execution=ExecutionModel(one_interpreter=True, waits_at="worker"),
        baseline=BaselineKind.THREADS,
    )
    yield Runner(
        "our-processes",
        start=lambda runner, started: ProcessPoolTaskRunner(
            max_workers=started.workers, initializer=started.prepare_worker
        ),
        execution=ExecutionModel(waits_at="queue"),
        baseline=BaselineKind.PROCESSES,
    )
"""
TESTS = """
import os

import pytest
from prefect import flow, task


@task(retries=1, retry_delay_seconds=3600)
def work(ledger):
    ledger.record("attempt", key=str(os.getpid()))
    return os.getpid()


@pytest.mark.runners("our-threads", "our-processes")
def test_time_and_faults_reach_it(runner_name, task_runner, virtual_clock, faults, effect_ledger):
    faults.on("work", at="after the effect").fail_times(1)

    @flow(task_runner=task_runner)
    def pipeline():
        return work.submit(effect_ledger).result()

    assert (pipeline() == os.getpid()) == (runner_name == "our-threads")
    assert effect_ledger.count("attempt") == 2
    assert virtual_clock.skipped > 3000


def test_it_is_among_all(task_runner, runner_name):
    assert runner_name == "sequential" or task_runner is not None


def test_measured(paired, baseline, task_runner, runner_name):
    paired(
        lambda: 1,
        lambda: 1,
        check=lambda value: value == 1,
        id="one",
        group="features",
        figure="time",
        runner=runner_name,
        against=baseline.name,
    )
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a project that adds two task runners."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nflowgauge = true\n")
    return pytester


def test_tests_run_on_a_runner_of_the_project(project: pytest.Pytester) -> None:
    """Marks and `--flow-runners` accept such a runner; the clock and faults reach its workers."""
    chosen = "--flow-runners=threads,our-threads,our-processes"
    result = project.runpytest_subprocess("-v", "-k", "reach or among", chosen)
    ran = result.stdout.str()
    for name in ("threads", "our-threads", "our-processes"):
        assert f"among_all[{name}] PASSED" in ran
    result.assert_outcomes(passed=5)


def test_the_default_runners_include_those_of_the_project(project: pytest.Pytester) -> None:
    """If no task runners are named, tests run on the project's as well as on the others."""
    result = project.runpytest_subprocess("--collect-only", "-q", "-k", "among")
    collected = result.stdout.str()
    for name in ("sequential", "threads", "our-threads", "our-processes"):
        assert f"among_all[{name}]" in collected


@pytest.mark.nightly
def test_a_runner_of_the_project_is_measured_and_reported(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project's runner has rows in the report, relative to the baseline of its record."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    result = project.runpytest_subprocess(
        "--benchmark-only",
        *("-k", "measured", "--benchmark-min-rounds=2", "--benchmark-max-time=0.01"),
        *("--flow-runners=our-threads,our-processes", "--flow-report-dir=out"),
    )
    result.assert_outcomes(passed=2, skipped=4)
    (page,) = project.path.glob("out/index.html")
    assert "our-threads" in page.read_text()
    rows = json.loads((project.path / "out" / "results.json").read_text())["rows"]
    references = {row["runner"]: row["reference"] for row in rows if row["id"] == "one"}
    assert references == {
        "our-threads": "ThreadPoolExecutor",
        "our-processes": "ProcessPoolExecutor",
    }


RECORD = (
    "Runner({name!r}, start=print, execution=ExecutionModel(), baseline=BaselineKind.DASK{more})"
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("7", "7 is not a Runner"),
        (RECORD.format(name="threads", more=""), "'threads' is already in the table"),
        (RECORD.format(name="a,b", more=""), "'a,b' needs a name of lowercase letters"),
        (RECORD.format(name="", more=""), "'' needs a name of lowercase letters"),
        (RECORD.format(name="x", more=", stock='y'"), "'x' names 'y', which is not a task runner"),
    ],
)
def test_an_invalid_runner_is_reported_in_one_line(
    pytester: pytest.Pytester, given: str, says: str
) -> None:
    """Anything but a Runner with usable names ends the pytest run with one line."""
    pytester.makeconftest(
        "from flowgauge import BaselineKind, ExecutionModel, Runner\n"
        f"def pytest_flowgauge_runners():\n    return [{given}]\n"
    )
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: pytest_flowgauge_runners: *{says}*"])
    assert "Traceback" not in result.stderr.str()
