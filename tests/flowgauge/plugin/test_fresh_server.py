# SPDX-License-Identifier: Apache-2.0
"""A test with the mark `fresh_server` has a server to itself, and the others keep theirs."""

from __future__ import annotations

import pytest

from flowgauge.server.template import cache_folder

CACHE = cache_folder()
TESTS = """
import os
import subprocess
import sys
import threading

import pytest
from prefect import flow, get_client, get_run_logger, task
from prefect.blocks.core import Block
from prefect.runtime import task_run
from prefect.settings import PREFECT_API_URL
from prefect.variables import Variable

SEEN = {}

class Desk(Block):
    number: int

@task
def say(word):
    get_run_logger().info("said %s", word)
    return PREFECT_API_URL.value(), Variable.get("word"), task_run.id

@flow
def talk(word):
    get_run_logger().info("talk of %s", word)
    return say.submit(word).result()

@pytest.fixture(scope="module", autouse=True)
def of_module(prefect_server):
    Variable.set("word", "of the module")
    talk("before")
    return prefect_server

@pytest.fixture
def url(prefect_server):
    return prefect_server

def flow_runs():
    with get_client(sync_client=True) as client:
        return client.read_flow_runs()

def run(task_runner, word):
    return talk.with_options(task_runner=task_runner)(word, return_state=True)

def check(state, run_logs, run_history, word, url, variable):
    *seen, task_run_id = state.result()
    assert seen == [url, variable]
    # States of task runs are sent as events.
    assert run_history(task_run_id).matches("Pending Running Completed")
    assert run_logs(state).contains(f"said {word}", task="say")
    assert run_history(state).matches("Pending Running Completed")

@pytest.mark.fresh_server
def test_alone(task_runner, prefect_server, url, of_module, run_logs, run_history,
               virtual_clock, faults):
    assert url == prefect_server != of_module
    assert flow_runs() == [] and Variable.get("word") is None
    SEEN.setdefault("urls", set()).add(url)
    Variable.set("word", "of the test")
    faults.on("say").slow(0)
    check(run(task_runner, "alone"), run_logs, run_history, "alone", url, "of the test")
    assert len(flow_runs()) == 1
    Desk(number=5).save("desk")
    assert Desk.load("desk").number == 5

def test_on_the_usual_server(task_runner, prefect_server, url, of_module, run_logs, run_history):
    assert url == prefect_server == of_module and url not in SEEN["urls"]
    before = {run.id for run in flow_runs()}
    state = run(task_runner, "usual")
    check(state, run_logs, run_history, "usual", url, "of the module")
    assert {run.id for run in flow_runs()} - before == {state.state_details.flow_run_id}
    Desk(number=7).save("desk", overwrite=True)
    assert Desk.load("desk").number == 7

@pytest.mark.fresh_server
def test_threads_and_processes(prefect_server):
    talk_in_thread = threading.Thread(target=talk, args=["of a thread"])
    talk_in_thread.start()
    talk_in_thread.join()
    assert len(flow_runs()) == 1
    code = "from prefect import flow; flow(lambda: None, name='other')()"
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert len(flow_runs()) == 2

def test_at_the_end(prefect_server):
    assert PREFECT_API_URL.value() == prefect_server
    assert len(SEEN["urls"]) > 1
    assert not any(name.startswith("fresh-") for name in os.listdir(os.environ["PREFECT_HOME"]))
"""


@pytest.mark.e2e
def test_a_fresh_server_is_used_by_its_test_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows, tasks, workers, logs and fixtures use the fresh server, and then the usual one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=12)


@pytest.mark.parametrize(
    ("mark", "arguments", "says"),
    [
        ("fresh_server('now')", "prefect_server", "mark fresh_server takes no arguments"),
        ("fresh_server", "tmp_path", "mark fresh_server needs the fixture prefect_server"),
    ],
)
def test_a_wrong_mark_is_told(
    pytester: pytest.Pytester, mark: str, arguments: str, says: str
) -> None:
    """A mark that can't do what it says ends the run in one line, before any test."""
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.{mark}\ndef test_it({arguments}):\n    pass\n"
    )
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    result.assert_outcomes()
    result.stderr.fnmatch_lines([f"ERROR: test_*.py::test_it: {says}*"])
