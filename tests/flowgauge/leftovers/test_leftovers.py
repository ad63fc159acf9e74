# SPDX-License-Identifier: Apache-2.0
"""What a test leaves behind is an error of that test, as small projects show."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowgauge.leftovers import watch as watch_module
from flowgauge.leftovers.audit import OpenedConnection
from flowgauge.leftovers.files import Folders
from flowgauge.leftovers.watch import LeftoverWatch
from flowgauge.leftovers.writes import reported
from flowgauge.server.lease import ZYGOTE
from flowgauge.server.template import cache_folder
from flowgauge.waiting import patience

CACHE = cache_folder()
"""The folder with a migrated database, so that it is not created again for each home."""
CONFTEST = """
import subprocess
import threading
import pytest
from flowgauge.leftovers import watch

# What is left in these tests stays.
watch.PATIENCE = 0.5
started = []
going_on = threading.Event()

@pytest.fixture
def start():
    def popen(*command):
        started.append(subprocess.Popen(command))
        return started[-1]
    return popen

def pytest_unconfigure():
    going_on.set()
    for process in started:
        process.kill()
        process.wait()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a temporary folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def project(
    pytester: pytest.Pytester, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """Return an empty project that has the check enabled, with its own home folder."""
    monkeypatch.setenv("HOME", str(pytester.mkdir("home")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makeconftest(CONFTEST)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest in a project."""
    return project.runpytest_subprocess("-p", "flowgauge.plugin.leftovers_fixture", "-q", *options)


def errors(result: pytest.RunResult) -> dict[str, list[str]]:
    """Return the reported leftovers of each test, by the name of the test."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in result.outlines:
        if "short test summary info" in line:
            break  # where CI is set, pytest repeats everything there
        if line.startswith("____") or line.startswith("===="):
            name = line.strip("_ ").removeprefix("ERROR at teardown of ")
        elif line.startswith("  ") and line.strip().split()[0] in {
            "process",
            "thread",
            "connection",
            "file",
        }:
            found.setdefault(name, []).append(line.strip())
    return found


def note(project: pytest.Pytester, file: str, test: str) -> str:
    """Return the note on a file of which only the test during which it appeared is known."""
    return f"note: {project.path}/{file} appeared during {test}; what created it is unknown"


@pytest.mark.e2e
def test_what_is_left_is_named(project: pytest.Pytester, temporary: Path) -> None:
    """A process, thread or file that a test leaves behind is reported as an error of that test.

    A file that a child process creates is only noted, because its origin is unknown.
    """
    (project.path / "old.log").write_text("1")
    project.makepyfile(
        """
        import os
        import pathlib
        import socket
        import sqlite3
        import subprocess
        import tempfile
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from conftest import going_on, started

        def test_process(start):
            start("sleep", "61")

        def test_grandchild(start):
            shell = subprocess.Popen(
                ["sh", "-c", "sleep 62 & echo; wait"], stdout=subprocess.PIPE
            )
            started.append(shell)
            shell.stdout.readline()

        def test_thread():
            threading.Thread(target=going_on.wait, name="waiter").start()

        def test_pool():
            pool = ThreadPoolExecutor(1, "pool")
            pool.submit(going_on.wait)

        def test_home():
            pathlib.Path.home().joinpath("notes").write_text("x")

        def test_temporary():
            os.close(tempfile.mkstemp(prefix="scratch-")[0])

        def test_folder():
            pathlib.Path(tempfile.mkdtemp(prefix="folder-"), "inside").touch()

        def test_changed():
            with open("old.log", "a") as file:
                file.write("2")

        def test_renamed(tmp_path):
            (tmp_path / "part").touch()
            (tmp_path / "part").rename("whole")

        def test_database():
            sqlite3.connect("runs.db").close()

        def test_socket():
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("listening.socket")

        def test_child():
            subprocess.run(["touch", "by_child"], check=True)

        def test_two():
            pathlib.Path("one").touch()
            pathlib.Path("two").touch()
        """
    )
    result = run(project)
    result.assert_outcomes(passed=13, errors=12)
    left, at = errors(result), f"{project.path}/test_what_is_left_is_named.py"
    [process] = left["test_process"]
    assert process.startswith("process ")
    assert process.endswith(": sleep 61")
    assert sorted(line.split(": ")[1] for line in left["test_grandchild"]) == [
        "sh -c sleep 62 & echo; wait",
        "sleep 62",
    ]
    [thread] = left["test_thread"]
    assert thread.startswith("thread 'waiter', ")
    assert ", now at " in thread
    assert thread.endswith("in wait")
    assert left["test_pool"][0].startswith("thread 'pool_0', ")
    if sys.version_info >= (3, 12):
        assert f", started at {at}:" in thread
        assert " in test_thread, now at " in thread
    assert left["test_home"][0].startswith(f"file {project.path}/home/notes, created at {at}:")
    assert left["test_temporary"][0].startswith(f"file {temporary}/scratch-")
    [folder] = left["test_folder"]
    assert folder.startswith(f"file {temporary}/folder-")
    assert "inside" not in folder
    assert left["test_changed"][0].startswith(f"file {project.path}/old.log, changed at {at}:")
    assert left["test_renamed"][0].startswith(f"file {project.path}/whole, created at {at}:")
    assert left["test_database"][0].startswith(f"file {project.path}/runs.db, created at {at}:")
    assert left["test_socket"][0].startswith(f"file {project.path}/listening.socket, created at")
    assert "test_child" not in left
    result.stdout.fnmatch_lines([note(project, "by_child", "*::test_child")])
    assert len(left["test_two"]) == 2
    for kind in ("processes", "threads", "files"):
        result.stdout.fnmatch_lines([f"*or allow it: @pytest.mark.leaves('{kind}', reason=...)"])


def test_what_ends_or_belongs_elsewhere_is_not_left(project: pytest.Pytester) -> None:
    """What ends, belongs to the pytest run, or is written by pytest or Python is not an error."""
    project.makepyfile(
        """
        import multiprocessing
        import pathlib
        import subprocess
        import sys
        import tempfile
        import threading
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

        import pytest
        from conftest import going_on
        from flowgauge.leftovers import watch
        from flowgauge.leftovers.watch import adopted

        # All that is started ends, or is allowed.
        watch.PATIENCE = 100

        @pytest.fixture(scope="module")
        def browser():
            shell = "read _; sleep 68 & echo $!; read _; kill $!"
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(["sh", "-c", shell], **pipes) as process:
                yield process
                process.stdin.write("end\\n")

        def test_helpers_of_what_was_there(browser):
            browser.stdin.write("start\\n")
            browser.stdin.flush()
            assert int(browser.stdout.readline()) > 0

        @pytest.fixture(scope="module")
        def pool():
            with ThreadPoolExecutor(4) as pool:
                pool.submit(int).result()
                yield pool

        @pytest.fixture(scope="session")
        def lazy():
            threading.Thread(target=going_on.wait).start()
            pathlib.Path("of_the_run").touch()
            process = subprocess.Popen(["sleep", "63"])
            yield
            process.kill()
            process.wait()

        def test_a_fixture_of_the_run(request):
            request.getfixturevalue("lazy")

        def test_adopted(start):
            with adopted():
                start("sleep", "64")

        def test_a_pool_of_the_module_grows(pool):
            barrier = threading.Barrier(4)
            list(pool.map(lambda _: barrier.wait(), range(4)))

        def test_daemon():
            threading.Thread(target=going_on.wait, daemon=True).start()

        def test_ends_soon(tmp_path):
            process = subprocess.Popen(["sleep", "0.2"])
            threading.Thread(target=process.wait).start()

        def test_ended_but_not_waited_for(start):
            start("true")

        def test_fork_server():
            context = multiprocessing.get_context("forkserver")
            with ProcessPoolExecutor(1, context) as pool:
                assert pool.submit(int).result() == 0

        def test_own_folder(tmp_path, tmp_path_factory):
            (tmp_path / "a").touch()
            (tmp_path_factory.mktemp("b") / "a").touch()

        def test_removed():
            with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory():
                file.write(b"x")

        def test_unchanged():
            open("old.log", "a").close()
            pathlib.Path("home").mkdir(exist_ok=True)
            open("/dev/null", "w").close()

        def test_compiled(monkeypatch):
            monkeypatch.setattr(sys, "dont_write_bytecode", False)
            monkeypatch.syspath_prepend(".")
            import imported
        """
    )
    (project.path / "old.log").write_text("1")
    (project.path / "imported.py").touch()
    # Without pytester's --basetemp: pytest itself creates the folder that its runs share.
    result = project.run(sys.executable, "-m", "pytest", "-p", "flowgauge.plugin.leftovers_fixture")
    result.assert_outcomes(passed=12)
    assert (project.path / "__pycache__").is_dir()


def test_what_merely_appears_is_a_note(
    project: pytest.Pytester, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that another program saves while a test runs fails no test, but is named in a note.

    It cannot be known whether a process that the test started created it. A file that appears in
    the temporary folder is not named.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        # A run that fails before it connects must not leave this one waiting.
        server.settimeout(patience())
        monkeypatch.setenv("PORT", str(server.getsockname()[1]))
        project.makepyfile(
            """
            import os
            import socket
            import subprocess

            def test_it():
                subprocess.run(["true"], check=True)
                with socket.create_connection(("127.0.0.1", int(os.environ["PORT"]))) as other:
                    assert other.recv(1) == b"x"
            """
        )

        def make_files() -> None:
            connection, _ = server.accept()
            with connection:
                for folder in (project.path, project.path / "home", temporary):
                    (folder / "foreign").touch()
                connection.send(b"x")

        other = threading.Thread(target=make_files)
        other.start()
        result = run(project)
        other.join()
    result.assert_outcomes(passed=1)
    for file in ("foreign", "home/foreign"):
        result.stdout.fnmatch_lines([note(project, file, "*::test_it")])
    assert str(temporary) not in result.stdout.str()


def test_a_mark_allows(project: pytest.Pytester) -> None:
    """The mark `leaves` allows what it names and nothing else."""
    project.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.leaves("files", "processes", reason="they are looked at by hand")
        def test_allowed(start):
            start("sleep", "65")
            pathlib.Path("allowed").touch()

        @pytest.mark.leaves("files", reason="they are looked at by hand")
        def test_not_allowed(start):
            start("sleep", "66")
        """
    )
    result = run(project)
    result.assert_outcomes(passed=2, errors=1)
    assert list(errors(result)) == ["test_not_allowed"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'proceses', reason='x'", "unknown kind 'proceses'; choose from processes, threads"),
        (
            "reason='x'",
            "name what the test may leave; choose from processes, threads, connections, files",
        ),
        ("'files'", 'give a reason="...", and no other keyword'),
    ],
)
def test_an_invalid_mark_is_reported(project: pytest.Pytester, arguments: str, says: str) -> None:
    """An invalid mark ends the pytest run with one line, before any test runs."""
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.leaves({arguments})
        def test_it():
            raise AssertionError("it ran")
        """
    )
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    printed = [line for line in result.outlines + result.errlines if says in line]
    assert len(printed) == 1
    assert "test_it: mark leaves: " in printed[0]
    assert "it ran" not in result.stdout.str()


def test_nothing_is_checked_where_the_check_is_off(project: pytest.Pytester) -> None:
    """A project that neither enables the plugin nor uses its server is not checked at all."""
    project.makeini("[pytest]")
    project.makepyfile(
        """
        import pathlib
        import sys

        def test_it(start):
            start("sleep", "67")
            pathlib.Path("left").touch()

        def test_no_hook_is_installed():
            import flowgauge.leftovers.audit
            assert not flowgauge.leftovers.audit._installed
        """
    )
    run(project).assert_outcomes(passed=2)


@pytest.mark.e2e
def test_what_prefect_starts_is_not_left(project: pytest.Pytester, temporary: Path) -> None:
    """Prefect's services and connections are not left; a task's file and an open client are."""
    project.makeini("[pytest]")
    project.makepyfile(
        """
        import asyncio
        import os
        import pathlib
        import tempfile

        import pytest
        from prefect import flow, task
        from prefect.client.orchestration import get_client
        from prefect.runner import Runner
        from conftest import started

        @task(log_prints=True)
        def report(place=None):
            print("hello")
            if place is not None:
                pathlib.Path(place).touch()

        @flow
        def reports(place=None):
            report.submit(place).result()

        @pytest.mark.runners("threads", "processes")
        def test_flows(task_runner):
            reports.with_options(task_runner=task_runner)()

        @pytest.mark.runners("processes")
        def test_task(task_runner):
            place = os.path.join(tempfile.gettempdir(), "by_task")
            reports.with_options(task_runner=task_runner)(place)

        def test_cluster(started_runners):
            assert started_runners.dask_scheduler("dask-processes").startswith("tcp")

        def test_served(prefect_server):
            async def start_and_end():
                async with Runner(name="served") as runner:
                    await runner.add_flow(reports)

            asyncio.run(start_and_end())
            assert pathlib.Path(tempfile.gettempdir(), "runner_storage").is_dir()

        of_the_module = get_client(sync_client=True)

        def test_client_of_the_module(prefect_server):
            assert of_the_module._client.get(f"{prefect_server}/health").is_success

        def test_client(prefect_server):
            client = get_client(sync_client=True)
            client.__enter__()
            client.api_healthcheck()
            close = {"kill": client._client.close, "wait": bool}
            started.append(type("Client", (), close))

        def test_no_server():
            pathlib.Path("unchecked").touch()
        """
    )
    result = run(project)
    left = errors(result)
    assert set(left) == {"test_task[processes]", "test_client"}
    [made] = left["test_task[processes]"]
    assert made.startswith(f"file {temporary}/by_task, created at ")
    assert "in report (process " in made
    [connection] = left["test_client"]
    assert " to the Prefect server at 127.0.0.1:" in connection
    assert connection.endswith(" in test_client")
    result.assert_outcomes(passed=8, errors=2)


@pytest.mark.nightly
def test_a_dask_worker_that_is_restarted_is_not_left(project: pytest.Pytester) -> None:
    """A worker that its nanny restarts during a test belongs to the pytest run, not to the test."""
    project.makepyfile(
        """
        import os
        import signal

        import dask
        import pytest
        from distributed import LocalCluster
        from flowgauge.waiting import wait_until

        @pytest.fixture(scope="session")
        def cluster(tmp_path_factory):
            with (
                dask.config.set(temporary_directory=str(tmp_path_factory.mktemp("dask"))),
                LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
            ):
                yield cluster

        def test_it(cluster):
            [nanny] = cluster.workers.values()
            first = nanny.pid
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: nanny.pid not in {None, first})
        """
    )
    run(project).assert_outcomes(passed=1)


def test_a_server_that_starts_during_a_test_is_not_left(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server for later tests may start during any test; it belongs to the pytest run."""
    # Otherwise it would be forked by the zygote of this run.
    monkeypatch.delenv(ZYGOTE, raising=False)
    project.makepyfile(
        """
        import psutil
        from flowgauge.waiting import wait_until

        def test_that_starts_before_the_server():
            wait_until(lambda: any(child.children() for child in psutil.Process().children()))

        def test_that_uses_it(prefect_server):
            pass
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_worker_process_reports_what_it_writes(tmp_path: Path) -> None:
    """A worker reports a file written outside the run's folder once, with the line of code."""
    home = tmp_path / "home"
    home.mkdir()
    script = (
        "import os, sys; from flowgauge.leftovers.writes import report_writes\n"
        "report_writes(sys.argv[1])\n"
        "def work():\n"
        "    open(os.path.join(sys.argv[1], 'inside'), 'w').close()\n"
        "    open('outside', 'w').close()\n"
        "work()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script, str(home)], cwd=tmp_path)
    worker.wait()
    found, read = reported(home)
    assert list(found) == [str(tmp_path / "outside")]
    assert found[str(tmp_path / "outside")].before is None
    assert found[str(tmp_path / "outside")].origin.endswith(f"in work (process {worker.pid})")
    assert reported(home, read) == ({}, read)


def test_a_write_while_a_write_is_reported_does_not_block(tmp_path: Path) -> None:
    """A finalizer that writes while its thread holds the log does not wait for itself."""
    (tmp_path / "home").mkdir()
    script = (
        "import sys; from flowgauge.leftovers import writes\n"
        "write_value = writes.write_value\n"
        "def finalized(file, value):\n"
        "    open('by a finalizer', 'w').close()\n"
        "    write_value(file, value)\n"
        "writes.write_value = finalized\n"
        "writes.report_writes(sys.argv[1])\n"
        "open('first', 'w').close(); open('second', 'w').close()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "home")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=patience())
    found, _ = reported(tmp_path / "home")
    assert list(found) == [str(tmp_path / "first"), str(tmp_path / "second")]


def test_allowed_leftovers_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leftovers of an allowed kind are not waited for, however patient the check is."""
    monkeypatch.setattr(watch_module, "PATIENCE", float("inf"))
    ends = threading.Event()
    watch = LeftoverWatch(Folders(tmp_path, lambda: (), alone=True))
    thread = threading.Thread(target=ends.wait)
    thread.start()
    try:
        assert watch.left(frozenset({"threads"})) == {}
        monkeypatch.setattr(watch_module, "PATIENCE", 0)
        assert watch.left(frozenset({"files"})).keys() == {"threads"}
    finally:
        watch.close()
        ends.set()
        thread.join()


def test_watching_a_clean_test_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watching a test that leaves nothing is cheap.

    It lists folders at most nine times, inspects no single process and collects no garbage.
    """
    looks: list[str] = []
    listdir, here = os.listdir, threading.get_ident()

    def count(module: Any, name: str, what: str) -> None:
        function = getattr(module, name)

        def counted(*args: Any) -> Any:
            if threading.get_ident() == here:  # threads of earlier tests look at things, too
                looks.append(what)
            return function(*args)

        monkeypatch.setattr(module, name, counted)

    count(gc, "collect", "garbage")
    count(psutil, "Process", "a process")
    count(os, "listdir", "a folder")
    watch = LeftoverWatch(Folders(tmp_path, lambda: (), alone=True))
    assert watch.left() == {}
    assert watch.appeared() == []
    watch.close()
    # Before, after, and for `appeared`: the processes, the project's folder and the home.
    assert looks == ["a folder"] * len(looks)
    assert len(looks) <= 9
    assert listdir(tmp_path) == []


class ClosedMeanwhile(socket.socket):
    """A socket that closes when it is first looked at, as if another thread had closed it."""

    def fileno(self) -> int:
        """Return the file descriptor, and close the socket."""
        number = super().fileno()
        self.close()
        return number


def test_a_connection_closed_meanwhile_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is closed while it is being checked is not a leftover."""
    monkeypatch.setattr(watch_module, "_server_port", lambda: 4200)
    address = ("127.0.0.1", 4200)
    closing, kept = ClosedMeanwhile(), socket.socket()
    with closing, kept:
        found = frozenset(
            OpenedConnection(weakref.ref(each), address, threading.current_thread(), "here")
            for each in (closing, kept)
        )
        (line,) = watch_module._connections(found, tmp_path)
    assert line.endswith("to the Prefect server at 127.0.0.1:4200, made at here")
