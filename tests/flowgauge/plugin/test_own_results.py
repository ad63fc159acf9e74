# SPDX-License-Identifier: Apache-2.0
"""No test sees the results that another one has stored, unless a mark shares them."""

from __future__ import annotations

import pytest

from flowgauge.server.template import cache_folder

CACHE = cache_folder()
CACHED = """
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.transactions import transaction

@task(cache_policy=INPUTS, persist_result=True)
def double(number):
    return 2 * number

@flow
def submitted(number):
    return [double.submit(number, return_state=True).name for _ in range(2)]

def name_of(number):
    return flow(double.submit)(number, return_state=True)

def states(number, **options):
    return submitted.with_options(**options)(number)
"""
FILES = {
    "test_apart": CACHED
    + """
@pytest.mark.parametrize("turn", [1, 2])
def test_on_every_runner(task_runner, turn):
    assert states(1, task_runner=task_runner) == ["Completed", "Cached"]

@pytest.mark.parametrize("turn", [1, 2])
def test_transaction(prefect_server, turn):
    with transaction(key="a-key") as found:
        assert not found.is_committed()
        found.stage("a value")
    with transaction(key="a-key") as found:
        assert found.is_committed()

HELD = []

def test_state_1(prefect_server):
    HELD.append(flow(double)(7, return_state=True))
    HELD.append(flow(double.fn, name="of a flow", persist_result=True)(8, return_state=True))

def test_state_2(prefect_server):
    assert [state.result() for state in HELD] == [14, 16]
""",
    "test_scopes": CACHED
    + """
@pytest.fixture(scope="session")
def of_session(prefect_server):
    states(10)
    yield

@pytest.fixture(scope="module")
def of_module(prefect_server):
    state = flow(double)(20, return_state=True)
    yield state
    assert states(20) == ["Cached", "Cached"]
    assert states(21) == states(30) == ["Completed", "Cached"]

@pytest.fixture(scope="class")
def of_class(prefect_server):
    states(30)
    yield
    assert states(30) == states(20) == ["Cached", "Cached"]
    assert states(31) == ["Completed", "Cached"]

def test_late_fixture(prefect_server, request):
    # What it stores itself must not stand for what the fixture stores.
    request.getfixturevalue("of_module")
    assert states(20) == ["Cached", "Cached"]

class TestClass:
    @pytest.mark.parametrize("turn", [1, 2])
    def test_has_that_of_wider_scopes(self, of_class, of_module, turn):
        assert states(30) == states(20) == ["Cached", "Cached"]
        assert of_module.result() == 40
        assert states(31) == states(21) == ["Completed", "Cached"]

    def test_late_fixture_of_session(self, of_class, of_session):
        assert states(10) == ["Cached", "Cached"]

def test_without_a_class(of_class):
    assert states(30) == ["Cached", "Cached"]

def test_after_a_class(of_module):
    assert states(10) == states(20) == ["Cached", "Cached"]
    assert states(30) == ["Completed", "Cached"]
""",
    "test_shared": CACHED
    + """
pytestmark = pytest.mark.shared_results

@pytest.fixture(scope="module")
def of_module(prefect_server):
    states(40)

def test_that_stores(prefect_server):
    assert states(20) == states(41) == ["Completed", "Cached"]
    assert states(10) == ["Cached", "Cached"]

class TestInside:
    @pytest.mark.runners("threads", "processes")
    def test_that_reads(self, of_module, task_runner):
        assert states(40, task_runner=task_runner) == ["Cached", "Cached"]
        assert states(41, task_runner=task_runner) == ["Cached", "Cached"]
""",
    "test_shared_class": CACHED
    + """
@pytest.mark.shared_results
class TestShared:
    @pytest.mark.parametrize("expected", ["Completed", "Cached"])
    def test_of_the_class(self, prefect_server, expected):
        assert states(50)[0] == expected

def test_outside(prefect_server):
    assert states(50) == states(41) == ["Completed", "Cached"]
""",
}


def test_each_test_has_its_own_results(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every task runner, a test finds its own results and those of fixtures of wider scopes, and
    those of other tests if a mark shares them.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    pytester.makepyfile(**FILES)
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=26)


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("shared_results(scope='session')", "mark shared_results takes no arguments"),
        ("shared_results", "mark shared_results on one test shares with none; mark its class"),
    ],
)
def test_a_wrong_mark_is_told(pytester: pytest.Pytester, mark: str, says: str) -> None:
    """A mark that can't do what it says ends the run in one line, before any test."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    result.assert_outcomes()
    result.stderr.fnmatch_lines([f"ERROR: test_*.py::test_it: {says}*"])
