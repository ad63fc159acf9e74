# SPDX-License-Identifier: Apache-2.0
"""Benchmark runs of small projects, from the command line to the report."""

from __future__ import annotations

import json

import pytest

from flowgauge.measure.results import Results

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
    """Give a project with one benchmark."""
    # Or pytest-benchmark takes the run for one whose rounds disturb each other.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(BENCHMARK)
    return pytester


def test_a_benchmark_run_leaves_a_report(project: pytest.Pytester) -> None:
    """`--benchmark-only` shows each row as it comes, a table, and where the report is."""
    result = project.runpytest_subprocess("--benchmark-only")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["*[[]1/1[]] sum*beside sum of a list", "*What each feature costs*", "report: *index.html"]
    )
    assert "Min" not in result.stdout.str()
    folder = project.path / "reports" / "latest"
    (row,) = Results.load(folder / "results.json").rows
    assert (row.id, row.reference, row.rounds) == ("sum", "sum of a list", 30)
    assert row.ratio_low is not None
    assert "sum" in (folder / "index.html").read_text()


def test_the_options_of_pytest_benchmark_work(project: pytest.Pytester) -> None:
    """Rounds, raw times and pytest-benchmark's own table are had by its own options."""
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
    """In a plain run a benchmark is a test like any other, and writes nothing."""
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2)
    assert not (project.path / "reports").exists()


def test_a_wrong_answer_is_no_row(project: pytest.Pytester) -> None:
    """A benchmark whose answer is wrong fails, and the report is of the others."""
    project.makepyfile(test_wrong=BENCHMARK.replace("499500", "1"))
    result = project.runpytest_subprocess("--benchmark-only")
    result.assert_outcomes(passed=1, failed=1, skipped=2)
    assert "the reference answered 499500, which is wrong" in result.stdout.str()
    assert len(Results.load(project.path / "reports/latest/results.json").rows) == 1
