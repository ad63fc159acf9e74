# SPDX-License-Identifier: Apache-2.0
"""A server that exists is used as it is: what can't work there is told and skipped."""

from __future__ import annotations

from typing import Any

import pytest

TESTS = """
import pytest
from prefect import flow, get_client, task
from prefect.variables import Variable

@task(retries=1, retry_delay_seconds=3600)
def double(number):
    return 2 * number

@flow
def doubles(numbers):
    return double.map(numbers).result()

def test_flow(task_runner, faults, effect_ledger):
    assert doubles.with_options(task_runner=task_runner, name="NAME")([1]) == [2]
    Variable.set("NAME", "kept")

def test_virtual(virtual_clock):
    raise AssertionError

def test_serve(serve):
    raise AssertionError

def test_worker(request):
    request.getfixturevalue("worker")
    raise AssertionError

@pytest.mark.fresh_server
def test_fresh(prefect_server):
    raise AssertionError
"""


def test_flows_use_the_server_and_what_it_cannot_do_is_skipped(
    pytester: pytest.Pytester, prefect_server: str, tmp_path: Any
) -> None:
    """Flows run on the server, nothing is removed there, and other tests are skipped with reasons.

    The start of the run tells in one line each what is skipped and why.
    """
    from prefect.client.orchestration import get_client
    from prefect.variables import Variable

    name = f"elsewhere_{tmp_path.parent.name}".replace("-", "_")
    pytester.makepyfile(TESTS.replace("NAME", name))
    result = pytester.runpytest_subprocess(
        "-rs", "--flow-prefect-api", f"{prefect_server}/", "--flow-runners", "threads"
    )
    result.assert_outcomes(passed=1, skipped=4)
    header = [line for line in result.outlines if line.startswith("flowgauge: ")]
    assert f"server at {prefect_server}; what they make there stays" in header[0]
    for what in ("virtual_clock", "serve", "worker", "the mark fresh_server"):
        assert sum(f"skipped: tests with {what}; " in line for line in header) == 1
    skipped = [line for line in result.outlines if line.startswith("SKIPPED")]
    assert sum("time is real on a server that pytest did not start" in line for line in skipped)
    assert all("--flow-prefect-api" in line for line in skipped)
    with get_client(sync_client=True) as client:
        assert client.read_flow_by_name(name).name == name
    assert Variable.get(name) == "kept"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "--flow-prefect-api http://127.0.0.1:1/api: no Prefect server answers"),
        (["--flow-stock-harness"], "--flow-prefect-api and --flow-stock-harness can't be combined"),
        (["--flow-keep-server"], "--flow-prefect-api and --flow-keep-server can't be combined"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    pytester: pytest.Pytester, more: list[str], says: str
) -> None:
    """A server that does not answer, or options for one that pytest starts, end the run at once."""
    result = pytester.runpytest_subprocess("--flow-prefect-api", "http://127.0.0.1:1/api", *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.outlines + result.errlines if line]
    assert says in line
