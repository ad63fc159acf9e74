# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/clean_up.py`."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.states import Cancelling
from prefect.task_runners import TaskRunner

from flowgauge.runners.process_pool import preloaded_context
from flowgauge.waiting import patience, wait_until
from patterns.flows import clean_up as pattern
from patterns.flows.clean_up import main, remove, render_first, run_program, sweep, workspace
from tests.conftest import environment
from tests.processes import is_running
from tests.signals import main_thread_waits

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "flows/clean_up"
ROOT = Path(__file__).parents[3]
MANY_RUNNERS = pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own place for workspaces, and end what it has left there."""
    place = tmp_path / "workspaces"
    monkeypatch.setattr(pattern, "PLACE", place)
    monkeypatch.setenv("WORKSPACES", str(place))
    yield place
    with suppress(PermissionError):  # of a test that made it a place of others
        sweep()  # of a test that failed


def numbers(started: Path) -> list[int]:
    """Return the processes that programs have recorded."""
    return [int(line) for line in started.read_text().split()] if started.exists() else []


def hold(folder: Path, started: Path) -> None:
    """Run a program that starts another process, records both, and never ends by itself."""
    file = shlex.quote(str(started))
    run_program(folder, "sh", "-c", f"sleep 3600 & echo $! >> {file}; echo $$ >> {file}; wait")


hold_in_a_task = task(hold)


def wait_for_programs(started: Path, count: int = 1) -> None:
    """Wait until programs run, each with the process that it starts."""
    wait_until(lambda: len(numbers(started)) == 2 * count, "programs to start")


def assert_nothing_left(place: Path, started: Path) -> None:
    """Check that there are no files of runs, and that no program runs."""
    assert not place.exists() or list(place.iterdir()) == []
    # Killed processes whose parent is gone are collected a moment later.
    wait_until(lambda: not any(map(is_running, numbers(started))), "the end", seconds=60)


@flow
def hold_two(started: Path, fails: bool = False) -> list[str]:
    """Run two programs in tasks, and leave the workspace while they run."""
    with workspace() as folder:
        (folder / "notes").mkdir()
        (folder / "notes" / "page").touch()
        held = [hold_in_a_task.submit(folder, started) for _ in range(2)]
        wait_for_programs(started, 2)
        if fails:
            raise ArithmeticError
    wait(held)
    return [str(each.state.name) for each in held]


@MANY_RUNNERS
@pytest.mark.guarantee(NAME, "ended")
def test_nothing_is_left_of_a_run_that_ends(
    task_runner: TaskRunner[Any], place: Path, tmp_path: Path
) -> None:
    """Folder and programs are gone when the block has ended, and the tasks fail."""
    started = tmp_path / "started"
    assert hold_two.with_options(task_runner=task_runner)(started) == ["Failed"] * 2
    assert_nothing_left(place, started)


@pytest.mark.guarantee(NAME, "ended")
def test_nothing_is_left_of_a_run_that_fails(place: Path, tmp_path: Path) -> None:
    """If the body raises, the error arrives, and nothing is left."""
    started = tmp_path / "started"
    with pytest.raises(ArithmeticError):
        hold_two(started, fails=True)
    assert_nothing_left(place, started)


@pytest.mark.guarantee(NAME, "ended")
def test_nothing_is_left_of_an_async_run(place: Path, tmp_path: Path) -> None:
    """In an async flow, too, nothing is left."""
    started = tmp_path / "started"

    @flow
    async def hold_one() -> None:
        with workspace() as folder:
            hold_in_a_task.submit(folder, started)
            await asyncio.to_thread(wait_for_programs, started)

    asyncio.run(hold_one())
    assert_nothing_left(place, started)


@pytest.mark.guarantee(NAME, "ended")
def test_the_losers_of_a_race_are_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """The pattern's flow returns the first film, without the hour that the other would take."""
    main()
    assert capsys.readouterr().out.splitlines()[-2:] == ["sunrise", "left: []"]


@pytest.mark.guarantee(NAME, "ended")
def test_a_program_that_leaves_a_process_behind(place: Path, tmp_path: Path) -> None:
    """A process that a program has left running when it ended is killed at the end of the block."""
    started = tmp_path / "started"

    @flow
    def leave_one() -> list[bool]:
        with workspace() as folder:
            run_program(folder, "sh", "-c", f"sleep 3600 & echo $! >> {started}")
            return list(map(is_running, numbers(started)))

    assert leave_one() == [True]
    assert_nothing_left(place, started)


@pytest.mark.guarantee(NAME, "ended")
def test_a_daemon_does_not_hold_up_the_end(place: Path, tmp_path: Path) -> None:
    """A process in a session of its own goes on, but the block ends and the folder is gone."""
    started = tmp_path / "started"

    @flow
    def leave_a_daemon() -> None:
        with workspace() as folder:
            run_program(folder, "sh", "-c", f"setsid sh -c 'echo $$ >> {started}; sleep 3600' &")
            wait_until(lambda: numbers(started))

    leave_a_daemon()
    (daemon,) = numbers(started)
    assert is_running(daemon)
    assert list(place.iterdir()) == []
    os.killpg(daemon, signal.SIGKILL)


@pytest.mark.guarantee(NAME, "next-run")
def test_what_cannot_be_removed_does_not_stop_others(place: Path) -> None:
    """A run begins although what another one left can't be removed."""
    left = place / str(uuid4())
    left.mkdir(parents=True)
    left.with_suffix(".lock").touch()
    left.with_suffix(".ending").touch()  # a file, where a folder is to be renamed to
    assert render_first({"sunrise": 0}) == "sunrise"
    assert left.with_suffix(".lock").exists()


@pytest.mark.parametrize("whose", ["somebody else's", "everybody's", "a link"])
@pytest.mark.guarantee(NAME, "own")
def test_a_place_of_others_is_refused(
    whose: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run does not begin, and a hook removes nothing, where others can have put what is there."""
    there = tmp_path / "elsewhere" if whose == "a link" else place
    (there / "run").mkdir(parents=True)
    (there / "run.lock").touch()
    with monkeypatch.context() as patch:
        if whose == "a link":
            place.symlink_to(there)
        elif whose == "everybody's":
            place.chmod(0o777)
        else:
            me = os.getuid()
            patch.setattr(os, "getuid", lambda: me + 1)
        with pytest.raises(PermissionError, match="WORKSPACES"):
            render_first({"sunrise": 0})
        with pytest.raises(PermissionError, match="WORKSPACES"):
            sweep("run")
    assert sorted(each.name for each in there.iterdir()) == ["run", "run.lock"]


@pytest.mark.guarantee(NAME, "own")
def test_the_place_is_made_for_one_user(place: Path) -> None:
    """Only the user can look into the place that a run makes."""
    render_first({"sunrise": 0})
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.guarantee(NAME, "late")
def test_no_program_starts_after_the_end(place: Path, tmp_path: Path) -> None:
    """A program that is started after the block has ended does not run."""

    @flow
    def too_late() -> None:
        with workspace() as folder:
            pass
        run_program(folder, "touch", str(tmp_path / "done"))

    with pytest.raises(FileNotFoundError):
        too_late()
    assert not (tmp_path / "done").exists()


@pytest.mark.guarantee(NAME, "late")
def test_programs_that_start_during_the_end(place: Path, tmp_path: Path) -> None:
    """Of programs that threads start while the workspace is removed, none runs afterwards."""
    started, folder = tmp_path / "started", place / str(uuid4())
    folder.mkdir(parents=True)
    errors = []

    def hold_again_and_again() -> None:
        while True:
            try:
                hold(folder, started)
            except subprocess.CalledProcessError:
                pass
            except FileNotFoundError as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=hold_again_and_again) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: numbers(started))
    remove(folder)
    for thread in threads:
        thread.join(patience())
    assert len(errors) == len(threads)
    assert_nothing_left(place, started)


@pytest.mark.guarantee(NAME, "again")
def test_a_retry_begins_with_an_empty_folder() -> None:
    """The second attempt of a flow finds nothing of the first in its folder."""
    found = []

    @flow(retries=1)
    def twice() -> None:
        with workspace() as folder:
            found.append(list(folder.iterdir()))
            (folder / "page").touch()
            if flow_run.run_count == 1:
                raise ConnectionError

    twice()
    assert found == [[], []]


@pytest.mark.guarantee(NAME, "again")
def test_a_run_has_one_workspace_at_a_time(place: Path) -> None:
    """A second workspace of a run is refused in one line, and the first one stays."""

    @flow
    def nested() -> bool:
        with workspace() as folder:
            with pytest.raises(RuntimeError, match=r"is in use: a run has one .* at a time$"):
                workspace().__enter__()
            return folder.exists()

    assert nested()
    assert list(place.iterdir()) == []


def test_outside_a_flow_there_is_no_workspace() -> None:
    """Outside a flow it is refused in one line: nothing could be found by its run."""
    with pytest.raises(RuntimeError, match=r"^workspace\(\) finds .*: call it in a flow$"):
        workspace().__enter__()


@pytest.mark.guarantee(NAME, "living")
def test_what_is_in_use_is_left_alone(place: Path, tmp_path: Path) -> None:
    """The start of another run leaves the files and programs of a run that lives, and of others."""
    (place / "holiday").mkdir(parents=True)
    theirs = place / str(uuid4())
    theirs.mkdir()
    (place / "list.txt").touch()
    started = tmp_path / "started"

    @flow
    def other() -> None:
        with workspace():
            pass

    @flow
    def outer() -> list[bool]:
        with workspace() as folder:
            hold_in_a_task.submit(folder, started)
            wait_for_programs(started)
            other()
            sweep(str(flow_run.id))
            return [folder.exists(), *map(is_running, numbers(started))]

    assert outer() == [True, True, True]
    assert {each.name for each in place.iterdir()} == {"holiday", theirs.name, "list.txt"}


def hold_one_as_script(started: Path) -> None:
    """Run a flow in a new process that stays in its workspace for an hour."""

    @flow
    def hold_one() -> None:
        with workspace() as folder:
            hold_in_a_task.submit(folder, started).wait()

    hold_one()


def start_script(target: Any, place: Path, *arguments: Any) -> Any:
    """Start a process that calls a function of this file, which runs a flow."""
    api = str(PREFECT_API_URL.value())
    process = preloaded_context().Process(target=in_place, args=(place, api, target, *arguments))
    process.start()
    return process


def in_place(place: Path, api: str, target: Any, *arguments: Any) -> None:
    """Call a function in a process that uses a server and has a place for workspaces."""
    pattern.PLACE = place
    # With heartbeats a flow run ends by joining a thread that sleeps in steps of a second.
    with temporary_settings({PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        target(*arguments)


def end(process: Any, number: signal.Signals) -> None:
    """Send a signal to a process, and wait for its end."""
    os.kill(process.pid, number)
    process.join(patience())
    assert process.exitcode not in (0, None)


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "interrupted")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_after_a_signal(
    place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """After SIGTERM or Ctrl-C a script has left nothing, though its submitted task was waiting."""
    started = tmp_path / "started"
    process = start_script(hold_one_as_script, place, started)
    wait_for_programs(started)
    wait_until(lambda: main_thread_waits(process.pid), "the script to wait")
    end(process, number)
    assert_nothing_left(place, started)


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "next-run")
@pytest.mark.fact(NAME, "orphans")
def test_the_next_run_removes_what_a_killed_one_left(place: Path, tmp_path: Path) -> None:
    """The program of a killed script continues, until another run begins."""
    started = tmp_path / "started"
    process = start_script(hold_one_as_script, place, started)
    wait_for_programs(started)
    end(process, signal.SIGKILL)
    assert all(map(is_running, numbers(started)))
    (left,) = [each for each in place.iterdir() if each.is_dir()]
    # A removal that was killed, too, is continued.
    left.rename(left.with_suffix(".ending"))
    assert render_first({"sunrise": 0}) == "sunrise"
    assert_nothing_left(place, started)


def wait_in_a_thread(folder: Path) -> None:
    """Run a flow whose submitted task waits for a file, and note when its body is interrupted."""

    @task
    def wait_for_go() -> None:
        (folder / "waits").touch()
        wait_until((folder / "go").exists)
        (folder / "done").touch()

    @flow
    def wait_for_it() -> None:
        try:
            wait_for_go.submit().wait()
        finally:
            (folder / "interrupted").touch()

    wait_for_it()


@pytest.mark.nightly
@pytest.mark.fact(NAME, "threads")
def test_submitted_tasks_are_not_interrupted(place: Path, tmp_path: Path) -> None:
    """After SIGTERM the body of the flow is left, and its process waits for the submitted task."""
    process = start_script(wait_in_a_thread, place, tmp_path)
    wait_until((tmp_path / "waits").exists)
    wait_until(lambda: main_thread_waits(process.pid), "the flow to wait")
    os.kill(process.pid, signal.SIGTERM)
    wait_until((tmp_path / "interrupted").exists)
    assert is_running(process.pid)
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()
    process.join(patience())
    assert (tmp_path / "done").exists()


SERVED = """
import os, sys
from pathlib import Path
from prefect import flow, task
from patterns.flows.clean_up import clean_up, run_program, workspace

@task
def hold(folder: Path, started: Path):
    script = "sleep 3600 & echo $! >> {0}; echo $$ >> {0}; wait"
    run_program(folder, "sh", "-c", script.format(started))

known = "nothing"

def note(flow, flow_run, state):
    Path(flow_run.parameters["started"] + ".hook").write_text(f"{os.getpid()} {known} {state.name}")

@flow(on_cancellation=[clean_up, note], on_crashed=[clean_up, note])
def film(started: str):
    global known
    known = "something"
    with workspace() as folder:
        Path(started + ".process").write_text(str(os.getpid()))
        hold.submit(folder, started).wait()

if __name__ == "__main__":
    film.serve("served")
"""


@pytest.fixture
def runner(prefect_server: str, place: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that serves the flow."""
    (tmp_path / "film.py").write_text(SERVED)
    settings = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "WORKSPACES": str(place)}
    with (tmp_path / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "film.py"],
            cwd=tmp_path,
            env=environment(prefect_server, tmp_path / "home", PYTHONPATH=str(ROOT), **settings),
            stdout=log,
            stderr=log,
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "interrupted")
@pytest.mark.guarantee(NAME, "killed")
@pytest.mark.guarantee(NAME, "next-run")
@pytest.mark.guarantee(NAME, "living")
@pytest.mark.fact(NAME, "elsewhere")
@pytest.mark.fact(NAME, "still-running")
def test_runs_of_a_runner(runner: subprocess.Popen[bytes], place: Path, tmp_path: Path) -> None:
    """A cancelled run and a killed one leave nothing; if the runner is killed, the next run helps.

    The hooks are called in the runner's process, and the task run of a killed run stays Running.
    """
    with get_client(sync_client=True) as client:
        wait_until(lambda: any(each.name == "served" for each in client.read_deployments()))
        files = [tmp_path / name for name in ("cancelled", "killed", "lost")]
        runs = [trigger(file) for file in files]
        cancelled, killed, lost = files
        for file in files:
            wait_for_programs(file)
        client.set_flow_run_state(runs[0].id, Cancelling())
        wait_until(lambda: client.read_flow_run(runs[0].id).state_name == "Cancelled")
        os.kill(process_of(killed), signal.SIGKILL)
        wait_until(Path(f"{killed}.hook").exists)
        wait_until(lambda: client.read_flow_run(runs[1].id).state_name == "Crashed")
        hooks = [Path(f"{file}.hook").read_text() for file in (cancelled, killed)]
        assert hooks == [f"{runner.pid} nothing Cancelling", f"{runner.pid} nothing Crashed"]
        of_the_killed = FlowRunFilter(id=FlowRunFilterId(any_=[runs[1].id]))
        task_runs = client.read_task_runs(flow_run_filter=of_the_killed)
        assert [each.state_name for each in task_runs] == ["Running"]
    assert {each.stem for each in place.iterdir()} == {str(runs[2].id)}
    for file in (cancelled, killed):
        assert_gone(file)
    assert all(map(is_running, numbers(lost)))
    runner.kill()
    os.kill(process_of(lost), signal.SIGKILL)
    wait_until(lambda: not is_running(process_of(lost)))
    assert all(map(is_running, numbers(lost)))
    assert render_first({"sunrise": 0}) == "sunrise"
    assert_nothing_left(place, lost)


def trigger(started: Path) -> FlowRun:
    """Trigger a run of the served flow."""
    run: Any = run_deployment("film/served", parameters={"started": str(started)}, timeout=0)
    assert isinstance(run, FlowRun)
    return run


def process_of(started: Path) -> int:
    """Return the process of a run of the served flow."""
    return int(Path(f"{started}.process").read_text())


def assert_gone(started: Path) -> None:
    """Check that no program of a run is left."""
    wait_until(lambda: not any(map(is_running, numbers(started))))
