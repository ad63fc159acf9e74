# SPDX-License-Identifier: Apache-2.0
"""Benchmark runs of small projects, from the command line to the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowgauge.measure.budget import LEAST_TO_JUDGE, MAX_ROUNDS, Budget
from flowgauge.plugin.recorder import BenchmarkRecorder
from flowgauge.results.rows import Group, Results

BENCHMARK = """
def test_sum(paired):
    paired(
        lambda: sum(range(1000)),
        lambda: sum(list(range(1000))),
        check=lambda total: total == 499500,
        per=10,
        id="sum",
        group="features",
        figure="time per number",
        against="sum of a list",
    )

def test_not_a_benchmark():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return a project with one benchmark."""
    # Otherwise pytest-benchmark takes this for a run whose rounds disturb each other.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(BENCHMARK)
    return pytester


def test_a_benchmark_run_leaves_a_report(project: pytest.Pytester) -> None:
    """`--benchmark-only` prints each row once measured, a table, and the path of the report.

    A benchmark whose answer is wrong fails, and has no row. Rows of a group unknown to the report
    are listed under its name, and can be loaded again. Each has the memory of both functions.
    """
    own = BENCHMARK.replace('"features"', '"sums"').replace('id="sum"', 'id="own"')
    own = own.replace("sum(range(1000))", "sum(range(1000)) + len(bytearray(2**26)) * 0")
    project.makepyfile(test_wrong=BENCHMARK.replace("499500", "1"), test_x_own=own)
    result = project.runpytest_subprocess("--benchmark-only")
    result.assert_outcomes(passed=2, failed=1, skipped=3)
    assert "the reference answered 499500, which is wrong" in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*[[]1/3[]] sum*relative to sum of a list",
            "*[[]3/3[]] own*relative to sum of a list*",
            "*What each feature costs*",
            "report: *index.html",
        ]
    )
    assert "Min" not in result.stdout.str()
    folder = project.path / "reports" / "latest"
    results = Results.load(folder / "results.json")
    assert len(results.durations) == 3
    assert min(results.durations.values()) > 0
    known, own_row = results.rows
    assert (known.id, known.reference) == ("sum", "sum of a list")
    assert 5 <= known.rounds <= MAX_ROUNDS
    assert known.ratio is not None
    assert (own_row.id, own_row.group) == ("own", "sums")
    if sys.platform == "linux":
        assert known.memory is not None
        assert own_row.memory is not None
        assert known.memory.candidate == pytest.approx(0, abs=4)
        assert own_row.memory.candidate == pytest.approx(64, abs=4)
        assert own_row.memory.reference == pytest.approx(0, abs=4)
    page = (folder / "index.html").read_text()
    assert ">sum<" in page
    assert ">sums<" in page


@pytest.mark.nightly
@pytest.mark.parametrize("options", [(), ("--flow-full",)], ids=" ".join)
def test_noise_is_measured_against_itself(
    project: pytest.Pytester, options: tuple[str, ...]
) -> None:
    """Timing the same code twice a round gives a noise row, which names the group it applies to.

    With a number of rounds of its own, its memory is measured in a full run only.
    """
    project.makepyfile(
        """
        def test_noise(paired):
            paired.against_itself(
                lambda: sum(range(1000)),
                of="patterns",
                check=lambda total: total == 499500,
                id="sum",
                figure="time per sum",
                runner="threads",
                rounds=7,
            )
        """
    )
    project.runpytest_subprocess("--benchmark-only", *options).assert_outcomes(passed=1)
    (row,) = Results.load(project.path / "reports" / "latest" / "results.json").rows
    assert (row.group, row.params, row.runner) == ("noise", {"of": "patterns"}, "threads")
    assert (row.rounds, row.reference) == (7, "itself")
    assert row.ratio is not None
    assert (row.memory is not None) == (bool(options) and sys.platform == "linux")


@pytest.mark.parametrize(("percent", "is_early"), [("1000", True), ("0", False)])
def test_a_benchmark_ends_when_it_is_precise(
    project: pytest.Pytester, percent: str, is_early: bool
) -> None:
    """`--flow-precision` says how precise a figure must be to end before its time is used."""
    project.runpytest_subprocess("--benchmark-only", f"--flow-precision={percent}")
    (row,) = Results.load(project.path / "reports" / "latest" / "results.json").rows
    assert row.rounds == (LEAST_TO_JUDGE if is_early else MAX_ROUNDS)


def recorder_of(is_full: bool, folder: Path) -> BenchmarkRecorder:
    """Return the recorder of a run in which each benchmark may take two seconds."""
    options = {
        "benchmark_min_rounds": 5,
        "benchmark_max_time": 2.0,
        "flow_precision": "5",
        "flow_full": is_full,
    }
    config: Any = SimpleNamespace(getoption=options.get)
    return BenchmarkRecorder(config, 2, folder)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_full_run_shares_its_time(is_full: bool, tmp_path: Path) -> None:
    """In a full run, and only there, a benchmark may use the time that others left."""
    recorder = recorder_of(is_full, tmp_path)
    assert recorder.shared_budget(Group.PATTERNS) == recorder.budget == Budget(5, 2.0, 0.05)
    recorder.use_time(Group.PATTERNS, 0.5)
    assert recorder.shared_budget(Group.PATTERNS).max_time == (3.5 if is_full else 2.0)


@pytest.mark.parametrize(("is_full", "shares"), [(False, 1), (True, 3)])
def test_noise_has_three_shares_of_a_full_run(is_full: bool, shares: int, tmp_path: Path) -> None:
    """An A/A row, by which others are judged, gets three shares of a full run's time."""
    recorder = recorder_of(is_full, tmp_path)
    assert recorder.shared_budget(Group.NOISE).max_time == shares * 2.0
    recorder.use_time(Group.NOISE, shares * 2.0)
    assert recorder.shared_budget(Group.PATTERNS).max_time == 2.0


def test_a_benchmark_measures_for_the_shared_time(project: pytest.Pytester) -> None:
    """A benchmark does the rounds of the budget that all share, and tells how long it took."""
    project.makeconftest(
        """
        from flowgauge.measure.budget import Budget
        from flowgauge.plugin.recorder import BenchmarkRecorder

        BenchmarkRecorder.shared_budget = lambda self, group: Budget(8, 0.0)
        BenchmarkRecorder.use_time = lambda self, group, seconds: print("took", seconds > 0)
        """
    )
    result = project.runpytest_subprocess("--benchmark-only", "-s")
    (row,) = Results.load(project.path / "reports" / "latest" / "results.json").rows
    assert row.rounds == 8
    result.stdout.fnmatch_lines(["*took True*"])


@pytest.mark.nightly
def test_the_options_of_pytest_benchmark_work(project: pytest.Pytester) -> None:
    """pytest-benchmark's options for rounds, raw times and its table have their effect."""
    result = project.runpytest_subprocess(
        "--benchmark-only",
        "--benchmark-min-rounds=7",
        "--benchmark-max-time=0",
        "--benchmark-json=raw.json",
        "--benchmark-columns=min,rounds",
    )
    result.assert_outcomes(passed=1, skipped=1)
    (raw,) = json.loads((project.path / "raw.json").read_text())["benchmarks"]
    assert len(raw["stats"]["data"]) == 7
    assert raw["extra_info"]["reference"] == "sum of a list"
    result.stdout.fnmatch_lines(["Name*Min*Rounds*"])


def test_a_plain_run_only_checks_benchmarks(project: pytest.Pytester) -> None:
    """Without `--benchmark-only` a benchmark is an ordinary test, and no report is written."""
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2)
    assert not (project.path / "reports").exists()


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("{", (), "trace.json is not JSON"),
        (None, (), "trace.json cannot be read: no such file"),
        ("{}", (), 'trace.json: *"workflow"'),
        ("{", ("--flow-time-scale=-1",), "trace.json is not JSON"),
        (None, ("--flow-file",), "expected one argument"),
    ],
)
def test_a_trace_that_cannot_be_measured_is_reported(
    project: pytest.Pytester, text: str | None, options: tuple[str, ...], says: str
) -> None:
    """A broken or missing trace ends the run with a usage error, without a traceback."""
    if text is not None:
        (project.path / "trace.json").write_text(text)
    result = project.runpytest_subprocess("--flow-file", "trace.json", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{says}*"])
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize(
    ("option", "scale"),
    [
        ("--flow-time-scale", "-1"),
        ("--flow-bytes-scale", "nan"),
        ("--flow-time-scale", "inf"),
        ("--flow-precision", "five"),
    ],
)
def test_an_invalid_number_is_reported(project: pytest.Pytester, option: str, scale: str) -> None:
    """A scale or precision that is negative or not a finite number ends the run with one line."""
    result = project.runpytest_subprocess(f"{option}={scale}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {option} {scale}: give a number of zero or more"])


INTERRUPTED = """
import os
import signal

def test_that_takes_long(paired):
    if not os.environ.get("PATIENT"):
        # A run in the background of a shell ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)
    paired(lambda: 2, lambda: 2, check=lambda two: two == 2,
           id="two", group="features", figure="time", against="another two")
"""


@pytest.mark.nightly
def test_ctrl_c_keeps_what_was_measured(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run writes its report, and --flow-resume measures what is missing."""
    project.makepyfile(test_x_late=INTERRUPTED)
    stopped = project.runpytest_subprocess("--benchmark-only", "-rN")
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    stopped.stdout.fnmatch_lines(["report: *index.html", "*--flow-resume continues from here"])
    folder = project.path / "reports" / "latest"
    first = Results.load(folder / "results.json").rows
    assert [row.id for row in first] == ["sum"]

    monkeypatch.setenv("PATIENT", "1")
    resumed = project.runpytest_subprocess("--benchmark-only", "--flow-resume")
    resumed.assert_outcomes(passed=1, skipped=1, deselected=1)
    resumed.stdout.fnmatch_lines(["*[[]2/2[]] two*"])
    rows = Results.load(folder / "results.json").rows
    assert rows[:1] == first
    assert [row.id for row in rows] == ["sum", "two"]
    assert not (folder / "unfinished.json").exists()


@pytest.mark.nightly
def test_a_failed_benchmark_is_measured_again(project: pytest.Pytester) -> None:
    """--flow-resume runs a failed benchmark again, even if it failed after it was measured."""
    # It fails after it has measured.
    project.makepyfile(
        test_x_late=INTERRUPTED.replace("getpid(), signal.SIGINT)", "getpid(), 0)")
        + "    assert 0\n"
    )
    project.runpytest_subprocess("--benchmark-only").assert_outcomes(passed=1, failed=1, skipped=1)
    again = project.runpytest_subprocess("--benchmark-only", "--flow-resume")
    again.assert_outcomes(failed=1, skipped=1, deselected=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no unfinished run: measure without --flow-resume"),
        ("{}", "unfinished.json has no schema_version"),
        (
            '{"schema_version": 1, "fingerprint": {"tests": ["a"]}, "rows": []}',
            "is broken: measure without --flow-resume",
        ),
        (
            '{"schema_version": 1, "fingerprint": {"tests": [], "versions": {}}, "rows": []}',
            "was measured with other versions: measure without --flow-resume",
        ),
    ],
)
def test_a_run_that_cannot_be_resumed_is_reported(
    project: pytest.Pytester, text: str | None, says: str
) -> None:
    """An unfinished run that is missing, broken or of other versions is reported, and is kept."""
    folder = project.path / "reports" / "latest"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "unfinished.json").write_text(text)
    result = project.runpytest_subprocess("--benchmark-only", "--flow-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --flow-resume: *{says}*".replace("[", "[[]")])
    if text is not None:
        assert (folder / "unfinished.json").read_text() == text
