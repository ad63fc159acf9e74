# SPDX-License-Identifier: Apache-2.0
"""The zygote that is kept for the next pytest run: found again, replaced, stopped."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowgauge.cli.app import run
from flowgauge.server import kept
from flowgauge.server.kept import KeptError, find_kept, lease_kept, stop_kept
from flowgauge.waiting import wait_until
from tests.processes import is_running


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of a project whose zygotes are stopped after the test."""
    with tempfile.TemporaryDirectory(prefix="fg", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path
        for folder in (*Path(runtime).glob("*"), *Path(runtime).glob("*/*/")):
            folder.chmod(0o700)
        stop_kept(tmp_path)


Lend = Callable[[Path], None]


@pytest.fixture
def lend(tmp_path: Path) -> Lend:
    """Return a function that leases a project's zygote, started if necessary, and releases it."""

    def lend(root: Path) -> None:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        lease_kept(root, home).close()

    return lend


def pids(root: Path) -> list[int]:
    """Return the process ids of a project's zygotes."""
    return [found.pid for found in find_kept(root)]


def test_a_zygote_is_found_again(project: Path, lend: Lend) -> None:
    """The next run of a project uses the zygote that the previous run left."""
    lend(project)
    first = pids(project)
    lend(project)
    assert pids(project) == first
    assert len(first) == 1


def test_a_stale_zygote_is_replaced(
    project: Path, lend: Lend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zygote whose code (Prefect, Python, flowgauge) differs from the run's is replaced."""
    lend(project)
    (stale,) = pids(project)
    monkeypatch.setattr(kept, "socket_name", lambda: "other.sock")
    lend(project)
    (fresh,) = find_kept(project)
    assert fresh.path.name == "other.sock"
    assert not is_running(stale)
    assert is_running(fresh.pid)


def test_a_dead_zygote_is_replaced(project: Path, lend: Lend) -> None:
    """If a zygote was killed and left its socket behind, a new one is started."""
    lend(project)
    (dead,) = find_kept(project)
    os.kill(dead.pid, signal.SIGKILL)
    wait_until(lambda: not find_kept(project))
    assert dead.path.exists()
    lend(project)
    (fresh,) = pids(project)
    assert fresh != dead.pid
    assert is_running(fresh)


def test_each_project_has_its_own_zygote(project: Path, lend: Lend) -> None:
    """A zygote serves one project; stopping it does not stop those of other projects."""
    other = project / "other"
    lend(project)
    lend(other)
    try:
        assert set(pids(project)).isdisjoint(pids(other))
        stop_kept(project)
        assert pids(project) == []
        assert len(pids(other)) == 1
    finally:
        stop_kept(other)


@pytest.mark.parametrize("level", [0, 1])
def test_a_folder_that_others_can_write_to_is_refused(
    project: Path, lend: Lend, level: int
) -> None:
    """A folder of sockets that others can write to is reported in one line, which names it.

    Whoever can write to that folder could have our environment sent to them.
    """
    lend(project)
    folder = find_kept(project)[0].path.parents[level]
    folder.chmod(0o777)
    with pytest.raises(KeptError, match="not a folder for this user alone") as caught:
        lend(project)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_two_runs_at_once_start_one_zygote(
    project: Path, lend: Lend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that start at the same time share one zygote."""
    clear = kept._clear

    def clear_slowly(folder: Path) -> None:
        clear(folder)
        # Long enough for the other runs to find that there is no zygote.
        time.sleep(0.2)

    monkeypatch.setattr(kept, "_clear", clear_slowly)
    with ThreadPoolExecutor(4) as runs:
        list(runs.map(lend, [project] * 4))
    assert len(pids(project)) == 1


def test_stop_ends_the_zygote_and_says_so(
    project: Path, lend: Lend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flowgauge server stop`, anywhere in the project, stops the zygote and leaves no file."""
    lend(project)
    (pid,) = pids(project)
    inside = project / "tests"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert run(["server", "stop"]) == 0
    assert capsys.readouterr().out == f"{project}: stopped server process {pid}\n"
    assert not is_running(pid)
    assert list(Path(os.environ["XDG_RUNTIME_DIR"]).iterdir()) == []


def test_stop_says_that_there_was_nothing_to_stop(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a zygote, `flowgauge server stop` says so and exits with status 0."""
    assert run(["server", "stop", str(project)]) == 0
    assert capsys.readouterr().out == f"{project}: no server was running\n"


def test_status_says_what_is_running(
    project: Path, lend: Lend, capsys: pytest.CaptureFixture[str]
) -> None:
    """`flowgauge server status` reports the process id, or that no server is running."""
    run(["server", "status", str(project)])
    lend(project)
    run(["server", "status", str(project)])
    assert capsys.readouterr().out.splitlines() == [
        f"{project}: no server is running",
        f"{project}: server process {pids(project)[0]}",
    ]


def test_stop_kills_a_zygote_that_hangs(
    project: Path, lend: Lend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zygote that no longer responds is killed."""
    monkeypatch.setattr(kept, "_END_SECONDS", 0.2)
    lend(project)
    (pid,) = pids(project)
    os.kill(pid, signal.SIGSTOP)
    stop_kept(project)
    wait_until(lambda: not is_running(pid))
