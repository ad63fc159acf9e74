# SPDX-License-Identifier: Apache-2.0
"""Whole pytest runs and their servers: what is shared, what is fresh, what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowgauge.server.kept import find_kept, stop_kept
from flowgauge.server.lease import ZYGOTE
from flowgauge.server.template import cache_folder
from flowgauge.waiting import wait_until
from tests.processes import is_running

CACHE = cache_folder()
KILLS = int(os.environ.get("FLOWGAUGE_KILLS", "1"))
"""How many runs are killed at a random moment; a higher number finds more."""

# While this run's server is up, its zygote starts the servers of other runs immediately.
pytestmark = pytest.mark.usefixtures("prefect_server")

PROJECT = """
import json, os, signal, sys, time, urllib.request
import psutil, pytest
from prefect import flow

pytestmark = pytest.mark.leaves("files", reason="the tests note what they see")

@flow
def nothing():
    return 1

def server(url):
    port = int(url.split(":")[2].split("/")[0])
    return next(
        p for p in psutil.process_iter()
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port
               for c in connections(p))
    )

def connections(process):
    try:
        return process.net_connections("tcp")
    except psutil.Error:
        return []

def ask(url, path, **body):
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request))

def say(**what):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(what) + "\\n")
"""


@pytest.fixture
def said(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the file in which the tests of an inner pytest run record what they see."""
    pytester.makeini("[pytest]\nflowgauge = true\naddopts = -p no:cacheprovider")
    path = tmp_path_factory.mktemp("said") / "lines"
    monkeypatch.setenv("SAID", str(path))
    return path


def lines(said: Path) -> list[dict[str, Any]]:
    """Return what the inner tests recorded."""
    return [json.loads(line) for line in said.read_text().splitlines()]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inner runs start their own zygotes, as a run does that is not inside another one."""
    monkeypatch.delenv(ZYGOTE, raising=False)
    # pytester gives a run an empty home folder.
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))


@pytest.mark.e2e
def test_a_kept_zygote_gives_each_run_a_fresh_server(
    pytester: pytest.Pytester, said: Path, alone: None
) -> None:
    """With --flow-keep-server the next run finds the zygote, but no flow runs of the last one."""
    pytester.makepyfile(
        PROJECT
        + """
def test_flow(prefect_server):
    before = ask(prefect_server, "/flow_runs/count")
    nothing()
    say(server=server(prefect_server).pid, before=before)
"""
    )
    try:
        for _ in range(2):
            pytester.runpytest_subprocess("--flow-keep-server").assert_outcomes(passed=1)
            assert len(find_kept(pytester.path)) == 1
        first, second = lines(said)
    finally:
        (stopped,) = stop_kept(pytester.path)
    assert (first["before"], second["before"]) == (0, 0)
    assert first["server"] != second["server"]
    wait_until_gone([second["server"], stopped.pid])


@pytest.mark.e2e
def test_xdist_workers_have_a_server_each_and_share_a_zygote(
    pytester: pytest.Pytester, said: Path
) -> None:
    """Under pytest-xdist each worker has its own server; one zygote forks them all."""
    pytester.makepyfile(
        PROJECT
        + """
@pytest.mark.parametrize("number", range(2))
def test_flow(prefect_server, number):
    assert nothing() == 1
    process = server(prefect_server)
    say(server=process.pid, zygote=process.parent().ppid())
"""
    )
    pytester.runpytest_subprocess("-n", "2", "--dist", "each").assert_outcomes(passed=4)
    seen = lines(said)
    assert len({line["server"] for line in seen}) == 2
    assert len({line["zygote"] for line in seen}) == 1


def test_a_run_without_flows_ends_the_zygote_before_its_first_test(
    pytester: pytest.Pytester, said: Path, alone: None
) -> None:
    """A run in which no test requests a server has no child process while its tests run."""
    pytester.makepyfile("import psutil\ndef test_alone(): assert not psutil.Process().children()")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.e2e
def test_a_server_that_is_requested_late_is_started(
    pytester: pytest.Pytester, said: Path, alone: None
) -> None:
    """A test that requests the server only while it is running gets one."""
    pytester.makepyfile(
        PROJECT
        + """
def test_flow(request):
    request.getfixturevalue("prefect_server")
    assert nothing() == 1
"""
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--markers", "--help"])
def test_a_run_that_runs_no_tests_starts_nothing(
    pytester: pytest.Pytester, said: Path, alone: None, option: str
) -> None:
    """If pytest only prints information, no process is started."""
    pytester.makeconftest(
        """
import psutil
def pytest_configure():
    assert not psutil.Process().children()
"""
    )
    pytester.makepyfile("def test_flow(prefect_server): pass")
    assert pytester.runpytest_subprocess(option).ret == pytest.ExitCode.OK


@pytest.mark.e2e
@pytest.mark.parametrize("where", ["conftest.py", "prefect.toml"])
def test_a_server_gets_all_settings(pytester: pytest.Pytester, said: Path, where: str) -> None:
    """Settings in a conftest or project file apply, even if the server started before."""
    if where == "conftest.py":
        pytester.makeconftest("import os; os.environ['PREFECT_SERVER_API_DEFAULT_LIMIT'] = '17'")
    else:
        (pytester.path / where).write_text("[server.api]\ndefault_limit = 17\n")
    pytester.makepyfile(
        PROJECT
        + """
def test_settings(prefect_server):
    with urllib.request.urlopen(prefect_server + "/admin/settings") as answer:
        assert json.load(answer)["server"]["api"]["default_limit"] == 17
"""
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.e2e
def test_the_server_stays_out_of_the_clients_process(pytester: pytest.Pytester, said: Path) -> None:
    """The pytest process never imports the server, which takes seconds, nor a stand-in for it."""
    pytester.makepyfile(
        PROJECT
        + """
def test_flow(prefect_server):
    assert nothing() == 1
    assert not [name for name in sys.modules if name.startswith("prefect.server")]
"""
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.e2e
def test_a_wedged_server_ends_the_run_with_one_line(pytester: pytest.Pytester, said: Path) -> None:
    """A run whose server hangs stops early and says why; the test that needs the server fails."""
    pytester.makeconftest(
        "import flowgauge.server.watch as w; w.PROBE_SECONDS, w.SILENT_PROBES = 0.5, 3"
    )
    pytester.makepyfile(
        PROJECT
        + """
def test_hangs(prefect_server):
    server(prefect_server).suspend()
    nothing()

def test_after_it(prefect_server):
    raise AssertionError
"""
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*the Prefect server of this run has not answered in*"])


@pytest.mark.nightly
def test_the_stock_harness_has_the_same_blocks_and_ends_with_a_killed_run(
    pytester: pytest.Pytester, said: Path, prefect_server: str
) -> None:
    """With --flow-stock-harness the server has the same blocks, and writes task runs one by one.

    The server is imported in pytest's process. It ends even if pytest is killed.
    """
    look = """
def look(url):
    types = ask(url, "/block_types/filter")
    with urllib.request.urlopen(url + "/admin/settings") as answer:
        flushed = json.load(answer)["server"]["services"]["task_run_recorder"]
    return {"blocks": sorted(t["slug"] for t in types), "batch": flushed["batch_size"]}
"""
    pytester.makepyfile(
        PROJECT
        + look
        + """
def test_flow(prefect_server):
    nothing()
    assert "prefect.server" in sys.modules
    say(server=server(prefect_server).pid, **look(prefect_server))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    pytester.runpytest_subprocess("--flow-stock-harness")
    (stock,) = lines(said)
    names: dict[str, Any] = {}
    exec(PROJECT + look, names)
    assert stock["blocks"] == names["look"](prefect_server)["blocks"]
    assert stock["batch"] == 1
    wait_until_gone([stock["server"]])


def test_keeping_a_stock_server_is_refused(pytester: pytest.Pytester, said: Path) -> None:
    """--flow-keep-server together with --flow-stock-harness is refused in one line."""
    result = pytester.runpytest_subprocess("--flow-keep-server", "--flow-stock-harness")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().strip() == (
        "ERROR: --flow-keep-server and --flow-stock-harness can't be combined; use one of them"
    )


@pytest.fixture
def killable(
    pytester: pytest.Pytester, said: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Yield the temporary folder of a project whose tests start all kinds of processes."""
    pytester.makepyfile(
        """
from prefect import flow, task

@task
def double(number):
    return 2 * number

@flow
def doubles(numbers):
    return double.map(numbers).result()

def test_many(task_runner):
    assert doubles.with_options(task_runner=task_runner)([1, 2]) == [2, 4]
"""
    )
    with tempfile.TemporaryDirectory(prefix="fg", dir="/tmp") as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        yield Path(temporary)


@pytest.mark.e2e
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_leaves_nothing(
    pytester: pytest.Pytester, killable: Path, number: int
) -> None:
    """Whenever pytest is killed, its processes end, its files go, and the next run passes."""
    command = [sys.executable, "-m", "pytest", "-q"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        killed.wait(random.Random(number).uniform(0.1, 12))
    killed.kill()
    killed.wait()
    wait_until_gone(p.pid for p in psutil.process_iter() if belongs(p, killable))
    assert list(killable.rglob("*")) == []
    assert subprocess.run([*command, "--flow-runners", "threads"], check=False).returncode == 0


def belongs(process: psutil.Process, temporary: Path) -> bool:
    """Return whether a process was started for a run with that temporary folder."""
    try:
        return bool(process.environ().get("TMPDIR") == str(temporary))
    except psutil.Error:
        return False


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until processes have ended; a zombie counts as ended."""
    watched = set(pids)
    wait_until(lambda: not any(map(is_running, watched)), f"the end of {watched}")
