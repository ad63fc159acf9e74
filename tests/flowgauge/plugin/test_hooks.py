# SPDX-License-Identifier: Apache-2.0
"""The plugin as its users see it: small projects, each run by pytest in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from flowgauge.waiting import wait_until

FLOW = """
import pytest
from prefect import flow, task

@task
def double(number):
    return 2 * number

@flow
def doubles(numbers):
    return double.map(numbers).result()
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--flow-runners", "nonsense"],
            "--flow-runners: there is no task runner 'nonsense'; choose from",
        ),
        (["--flow-runners", ","], "--flow-runners: no task runner given; choose from"),
        (
            ["--flow-workers", "none"],
            "--flow-workers none: give a number of workers, 1 or more",
        ),
        (["--flow-workers", "0"], "--flow-workers 0: give a number of workers, 1 or more"),
        (
            ["--flow-dask-address", "tcp://127.0.0.1:1"],
            "no Dask scheduler answers (connection refused)",
        ),
        (
            ["--flow-dask-address", "over there"],
            "--flow-dask-address over there: not an address like tcp://",
        ),
    ],
)
def test_a_mistake_in_an_option_is_reported_in_one_line(
    pytester: pytest.Pytester, options: list[str], says: str
) -> None:
    """A wrong task runner, number of workers or Dask address is reported in one line."""
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    printed = [line for line in result.outlines + result.errlines if line]
    assert len(printed) == 1, printed
    assert says in printed[0]


def test_an_address_where_something_else_answers_is_reported(pytester: pytest.Pytester) -> None:
    """If something other than a Dask scheduler answers at the address, the error says so."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        pytester.makepyfile(
            conftest="""
            from flowgauge.runners import existing_cluster

            existing_cluster.CONNECT_TIMEOUT = 1
            """
        )
        result = pytester.runpytest_subprocess("--flow-dask-address", f"tcp://127.0.0.1:{port}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "what answers there is not a Dask scheduler" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_loading_the_plugin_does_not_import_prefect(pytester: pytest.Pytester) -> None:
    """Loading the plugin imports no slow packages, and no modules that only some runs need."""
    pytester.makepyfile(
        """
        import importlib.util
        import sys

        def test_nothing_slow_is_imported():
            slow = {"prefect", "dask", "distributed", "numpy", "pandas", "altair", "jinja2"}
            for_some = {"catalogue.catalogue", "observe.history", "plugin.recorder"}
            for_some |= {"server.kept", "workflows.wfformat", "faults.plan"}
            for_some |= {"compat.tested_prefect"}
            for_some = {f"flowgauge.{name}" for name in for_some}
            assert not (slow | for_some) & set(sys.modules)
            assert all(importlib.util.find_spec(name) for name in for_some)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)


def test_an_unknown_runner_in_a_mark_is_reported(pytester: pytest.Pytester) -> None:
    """A mark that names an unknown task runner is reported, with the names to choose from."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.runners("treads")
        def test_typo(runner_name):
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED or result.ret == pytest.ExitCode.USAGE_ERROR
    assert "there is no task runner 'treads'; choose from sequential" in result.stdout.str()


def test_lean_runners_are_only_used_if_named(pytester: pytest.Pytester) -> None:
    """A test that names no task runners runs on Prefect's, unless the command line names others.

    A guarantee for certain runners is also expected to hold on their lean variants.
    """
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(
        """
import pytest

def test_any(runner_name):
    pass

@pytest.mark.runners("lean-dask", "threads")
def test_two(runner_name):
    pass

@pytest.mark.guarantee("mine/pool", "forked", runners=("processes",), reason="others don't")
def test_of_pools(runner_name):
    assert runner_name in ("processes", "lean-processes")
"""
    )
    collected = pytester.runpytest_subprocess("--collect-only", "-q").stdout.str()
    assert "test_any[processes]" in collected
    assert "test_any[lean-" not in collected
    assert "test_two[lean-dask]" in collected
    named = pytester.runpytest_subprocess("--flow-runners", "lean-processes,threads")
    named.assert_outcomes(passed=4, xfailed=1)


def test_a_run_on_chosen_runners_records_what_was_proved(pytester: pytest.Pytester) -> None:
    """A test runs on each chosen runner, and the outcome of each guarantee is written.

    A guarantee is proved, failed, does not hold as expected, or was not run. If one is marked
    as not holding on a runner but does, its test fails: the reason is outdated.
    """
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(
        FLOW
        + """
@pytest.mark.guarantee("mine/doubles", "values")
def test_values(task_runner):
    assert doubles.with_options(task_runner=task_runner)([3]) == [6]

@pytest.mark.guarantee(
    "mine/doubles", "inline", runners=("sequential",), reason="threads are others", issue=17060
)
def test_inline(task_runner):
    import threading

    @task
    def ident():
        return threading.get_ident()

    @flow(task_runner=task_runner)
    def idents():
        return ident.submit().result()

    assert idents() == threading.get_ident()

@pytest.mark.runners("threads", "dask-processes")
def test_narrowed(runner_name):
    assert runner_name == "threads"

@pytest.mark.runners("processes")
def test_left_out(task_runner):
    raise AssertionError

@pytest.mark.guarantee("mine/doubles", "broken")
def test_broken():
    assert doubles([1]) == [3]

@pytest.mark.guarantee("mine/doubles", "outdated", runners=("sequential",), reason="they can't")
def test_outdated(task_runner):
    assert doubles.with_options(task_runner=task_runner)([3]) == [6]

@pytest.mark.guarantee("mine/doubles", "later")
def test_later():
    pytest.skip("not today")
"""
    )
    result = pytester.runpytest_subprocess("--flow-runners", "sequential,threads", "-rs")
    result.assert_outcomes(passed=5, failed=2, xfailed=1, skipped=2)
    result.stdout.fnmatch_lines(["*--flow-runners excludes all task runners of this test*"])
    written = json.loads((pytester.path / "reports/latest/guarantees.json").read_text())
    cells = {
        (row["id"], cell["runner"]): cell["status"]
        for pattern in written["patterns"]
        for row in pattern["rows"]
        for cell in row["cells"]
    }
    assert cells["values", "sequential"] == cells["values", "threads"] == "proved"
    assert cells["inline", "sequential"] == "proved"
    assert cells["inline", "threads"] == "does not hold"
    assert "17060" in (pytester.path / "reports/latest/guarantees.md").read_text()
    assert cells["broken", None] == "failed"
    assert cells["later", None] == "not run"
    assert cells["outdated", "threads"] == "failed"
    result.stdout.fnmatch_lines(["guarantees: 2 failed, 1 does not hold, 4 proved, 1 not run (*"])


@pytest.mark.e2e
def test_a_run_leaves_nothing_behind(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A run leaves no process or file, and neither reads nor writes the user's Prefect settings."""
    home = pytester.mkdir("home")
    # The path must be short, because the folder of a run contains sockets.
    temporary = Path(tempfile.mkdtemp(prefix="fg", dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(temporary))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "true")
    (pytester.path / ".env").write_text("PREFECT_API_KEY=secret\nPREFECT_TASKS_DEFAULT_RETRIES=7\n")
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makeconftest("import prefect")
    pytester.makepyfile(
        FLOW
        + """
def test_settings_are_the_defaults(task_runner):
    @task
    def seen():
        from prefect.settings import get_current_settings
        settings = get_current_settings()
        return settings.api.key, settings.tasks.default_retries, settings.results.persist_by_default

    @flow(task_runner=task_runner)
    def settings_of_a_task():
        return seen.submit().result()

    assert settings_of_a_task() == (None, 0, False)

def test_failing(prefect_server):
    raise RuntimeError("a failing test ends the server too")
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=5, failed=1)
    # Only one thing is kept: a migrated database for servers to start from.
    caches = {home / ".cache" / "flowgauge", home / "Library" / "Caches" / "flowgauge"}
    assert [
        path for path in home.rglob("*") if path.is_file() and not caches & {*path.parents}
    ] == []
    assert list(temporary.rglob("flowgauge-*")) == []
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert left == []
    # A fork server ends by itself when it notices that its parent is gone.
    wait_until(lambda: not _processes_with(str(temporary)), "the end of all processes")


def _processes_with(text: str) -> list[str]:
    """Return the command lines of processes whose environment contains a text."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux shows the environment of processes")
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if int(pid) != os.getpid():
            try:
                with open(f"/proc/{pid}/environ") as environment:
                    if text in environment.read():
                        with open(f"/proc/{pid}/cmdline") as command:
                            found.append(command.read())
            except OSError:
                continue
    return found
