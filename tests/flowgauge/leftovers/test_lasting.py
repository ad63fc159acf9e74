# SPDX-License-Identifier: Apache-2.0
"""What ordinary code keeps for as long as Python runs is no leftover of a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.server.template import cache_folder

CACHE = cache_folder()
CONFTEST = """
from flowgauge.leftovers import watch, writes
from pathlib import Path

# What is left in these tests stays.
watch.PATIENCE = 0.5
writes.SITE = (*writes.SITE, str(Path(__file__).parent / "installed"))
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return an empty project that has the check enabled, with a folder for configuration."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pytester.path / "config"))
    pytester.makeini("[pytest]\nflowgauge = true\npythonpath = . installed")
    pytester.makeconftest(CONFTEST)
    return pytester


def left(result: pytest.RunResult) -> list[str]:
    """Return the names of the tests that left something behind."""
    start, end = "ERROR at teardown of ", " "
    lines = [line.strip("_ ") for line in result.outlines if start in line]
    return [line.partition(start)[2].partition(end)[0] for line in lines]


POOLS = """
import functools
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

threads = ThreadPoolExecutor(1)
processes = ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"))
done = threading.Event()

@functools.cache
def made_late():
    return ThreadPoolExecutor(1)

@pytest.mark.parametrize("pool", [lambda: threads, made_late, lambda: processes])
def test_idle(pool):
    assert pool().submit(int).result() == 0

def test_busy_thread():
    ThreadPoolExecutor(1).submit(done.wait)

def wait_for(file):
    while not file.exists():
        time.sleep(0.01)

def test_busy_process(tmp_path):
    global end
    end = tmp_path / "end"
    ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")).submit(wait_for, end)

def test_end():
    done.set()
    end.touch()
"""


def test_pools_with_nothing_to_do_are_not_left(project: pytest.Pytester) -> None:
    """Pools that a module or a cache keeps are no leftovers, unless something still runs in them.

    They start their threads and processes in the first test that uses them.
    """
    project.makepyfile(POOLS)
    result = project.runpytest_subprocess("-p", "flowgauge.plugin.leftovers_fixture", "-n0")
    result.assert_outcomes(passed=6, errors=2)
    assert left(result) == ["test_busy_thread", "test_busy_process"]


@pytest.mark.e2e
def test_processes_that_joblib_keeps_are_not_left(project: pytest.Pytester) -> None:
    """Joblib's processes stay for its next call, and so does the process that cleans up after."""
    pytest.importorskip("joblib")
    project.makepyfile(
        """
        from joblib import Parallel, delayed

        def test_it():
            assert Parallel(n_jobs=2)(delayed(abs)(number) for number in (1, 2)) == [1, 2]
        """
    )
    result = project.runpytest_subprocess("-p", "flowgauge.plugin.leftovers_fixture", "-n0")
    result.assert_outcomes(passed=1)


def test_what_a_library_caches_is_not_left(project: pytest.Pytester) -> None:
    """A library may write to the user's folder for configuration; a test and its project may not.

    The same holds for a worker process.
    """
    installed = project.mkdir("installed")
    library = """
from pathlib import Path
import os

def write(name, folder=os.environ["XDG_CONFIG_HOME"]):
    Path(folder).mkdir(exist_ok=True)
    Path(folder, name).write_text("x")
"""
    (installed / "library.py").write_text(library)
    (project.path / "own.py").write_text(library)
    project.makepyfile(
        """
        import multiprocessing
        import os
        from concurrent.futures import ProcessPoolExecutor

        import library
        import own
        import pytest
        from flowgauge.leftovers.writes import report_writes

        @pytest.mark.parametrize("writes", [library.write, own.write], ids=["library", "own"])
        def test_here(writes):
            writes(writes.__module__)

        @pytest.mark.parametrize("writes", [library.write, own.write], ids=["library", "own"])
        def test_in_a_worker(writes):
            context = multiprocessing.get_context("forkserver")
            home = os.environ["PREFECT_HOME"]
            with ProcessPoolExecutor(
                1, context, initializer=report_writes, initargs=(home,)
            ) as pool:
                pool.submit(prepared, writes).result()

        def prepared(writes):
            import conftest
            writes(f"{writes.__module__} of a worker")

        def test_elsewhere():
            library.write("library", ".")
        """
    )
    result = project.runpytest_subprocess("-p", "flowgauge.plugin.leftovers_fixture", "-n0")
    result.assert_outcomes(passed=5, errors=3)
    assert left(result) == ["test_here[own]", "test_in_a_worker[own]", "test_elsewhere"]
    assert {path.name for path in Path(project.path, "config").iterdir()} == {
        f"{module}{where}" for module in ("library", "own") for where in ("", " of a worker")
    }
