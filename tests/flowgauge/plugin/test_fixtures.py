# SPDX-License-Identifier: Apache-2.0
"""How the fixtures of a pytest run start what tests share."""

from __future__ import annotations

import pytest

CONFTEST = """
from flowgauge.plugin.fixtures import _as_shipped

def pytest_collection_finish(session):
    print("as shipped:", _as_shipped(session))
"""
TESTS = """
def test_flow(prefect_server):
    pass
"""
BENCHMARKS = """
def test_cost(prefect_server, benchmark):
    benchmark(int)
"""


@pytest.mark.parametrize(
    ("tests", "option", "expected"),
    [
        (TESTS, "--benchmark-enable", False),
        (BENCHMARKS, "--benchmark-enable", True),
        (BENCHMARKS, "--benchmark-disable", False),
        (TESTS, "--flow-stock-harness", True),
    ],
    ids=["no benchmarks", "benchmarks", "benchmarks that are not timed", "stock"],
)
def test_only_measured_runs_use_prefect_as_shipped(
    pytester: pytest.Pytester, tests: str, option: str, expected: bool
) -> None:
    """Only runs that time benchmarks, or ask for the stock harness, use Prefect as shipped."""
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(tests)
    result = pytester.runpytest_subprocess("--collect-only", option)
    result.stdout.fnmatch_lines([f"*as shipped: {expected}"])
