# SPDX-License-Identifier: Apache-2.0
"""Test files share no results, no environment variables and no limits on threads."""

from __future__ import annotations

import pytest

FILES = {
    "test_1": """
import os
import numpy
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from threadpoolctl import threadpool_info, threadpool_limits

@task(cache_policy=INPUTS, persist_result=True)
def double(number):
    return 2 * number

@flow
def names(number):
    return [double(number, return_state=True).name for _ in range(2)]

@pytest.fixture(scope="session")
def address():
    os.environ["OF_THE_RUN"] = "yes"

def threads():
    return {library["filepath"]: library["num_threads"] for library in threadpool_info()}

BEFORE = {}

def test_what_is_left(prefect_server, address):
    assert names(3) == ["Completed", "Cached"]
    storage = os.environ["PREFECT_LOCAL_STORAGE_PATH"]
    assert os.listdir(storage)
    os.environ.update(OF_THE_FILE="yes", HOME="/elsewhere")
    del os.environ["TO_BE_KEPT"]
    BEFORE.update(threads())
    threadpool_limits(1)
    assert set(threads().values()) == {1}
""",
    "test_2": """
import os
from prefect import flow, task
from test_1 import BEFORE, names, threads

def test_nothing_of_it_is_here(prefect_server):
    assert names(3) == ["Completed", "Cached"]
    assert "OF_THE_FILE" not in os.environ
    assert os.environ["TO_BE_KEPT"] == "yes"
    assert os.environ["HOME"] != "/elsewhere"
    assert os.environ["OF_THE_RUN"] == "yes"
    assert BEFORE.items() <= threads().items()
""",
}


def test_files_share_no_state(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test file sees nothing that the previous one set, except by a session fixture."""
    monkeypatch.setenv("TO_BE_KEPT", "yes")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nflowgauge = true\npythonpath = '.'")
    pytester.makepyfile(**FILES)
    pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider").assert_outcomes(passed=2)
