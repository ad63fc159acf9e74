# SPDX-License-Identifier: Apache-2.0
"""The task runner `ray`: Prefect's own, on a Ray cluster of the pytest run.

Run with `uv run --extra ray pytest -m nightly tests/flowgauge/runners/test_ray.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from prefect import flow, get_client, get_run_logger, task
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner

from flowgauge import Faults, VirtualClock
from flowgauge.measure.baselines import Baseline
from flowgauge.runners.ray_cluster import LOOPBACK, local_ray
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.starts import RunnerError
from flowgauge.runners.table import RUNNERS
from flowgauge.waiting import patience, wait_until
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.work_items import check_results
from flowgauge.workflows.workflow import Kernel

NAME = "ray"
ROOT = Path(__file__).parents[3]
HOUR = 3600.0
SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 10_000.0))

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not RUNNERS[NAME].installed, reason="needs `uv run --extra ray pytest`"),
]


@pytest.fixture
def ray_runner(started_runners: StartedRunners) -> TaskRunner[Any]:
    """Return the task runner, also in a run on others."""
    return started_runners.task_runner(NAME)


@task(retries=1, retry_delay_seconds=HOUR)
def develop(film: int) -> tuple[int, str]:
    """Log, emit an event, and return the process and the server in use."""
    get_run_logger().info("film %d", film)
    emit_event("film.developed", {"prefect.resource.id": f"film.{film}"})
    return os.getpid(), PREFECT_API_URL.value() or ""


@task
def count(developed: list[tuple[int, str]], after: list[int]) -> int:
    """Return how many there are."""
    return len(developed) + len(after)


@flow
def laboratory(films: int) -> list[tuple[int, str]]:
    """Develop films, and count them with a task that needs them all."""
    developed: Any = [develop.submit(film) for film in range(films)]
    submit: Any = count.submit
    first = submit(developed, [])
    assert submit([], [1], wait_for=[*developed, first]).result() == 1
    assert first.result() == films
    return [future.result() for future in developed]


def pids(runner: TaskRunner[Any], films: int) -> set[int]:
    """Return the processes in which tasks of a flow run ran."""
    return {pid for pid, _ in laboratory.with_options(task_runner=runner)(films)}


def test_tasks_run_in_workers_of_one_cluster(
    ray_runner: TaskRunner[Any], started_runners: StartedRunners
) -> None:
    """Tasks run in other processes, which belong to the pytest run and serve all its flows."""
    used = pids(ray_runner, 8) | pids(started_runners.task_runner(NAME), 8)
    assert os.getpid() not in used
    descendants = {process.pid for process in psutil.Process().children(recursive=True)}
    assert used <= descendants
    assert started_runners.ray_address(NAME) == started_runners.ray_address(NAME)
    assert started_runners.seconds_to_start[NAME] > 0


@pytest.mark.usefixtures("ray_runner")
def test_it_listens_on_loopback_only(started_runners: StartedRunners) -> None:
    """No process of the cluster listens on another interface, nor is its address another one."""
    assert [name.missing() for name in LOOPBACK.names] == ["", ""]
    assert started_runners.ray_address(NAME).startswith("127.0.0.1:")
    addresses = {
        connection.laddr.ip
        for process in (psutil.Process(), *psutil.Process().children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert "127.0.0.1" in {address.removeprefix("::ffff:") for address in addresses}
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


@pytest.mark.usefixtures("ray_runner")
def test_there_is_one_ray_in_a_process(tmp_path: Path) -> None:
    """Who starts a second one is told so in one line."""
    with pytest.raises(RunnerError, match=r"^Ray runs in this process already, .*: end it$"):  # noqa: SIM117
        with local_ray(1, tmp_path, as_shipped=False):
            pass


def test_the_clock_and_faults_reach_the_workers(
    ray_runner: TaskRunner[Any], virtual_clock: VirtualClock, faults: Faults
) -> None:
    """Tasks are let fail in the workers, and their retries wait in virtual time."""
    faults.on("develop").fail_times(1)
    before = virtual_clock.elapsed
    assert os.getpid() not in pids(ray_runner, 6)
    assert faults.struck("develop") == 6
    assert virtual_clock.elapsed - before >= HOUR


def test_logs_and_events_of_the_workers_arrive(
    ray_runner: TaskRunner[Any], run_logs: Any, run_events: Any
) -> None:
    """What tasks log and emit in the workers is there right after the run."""
    run: Any = laboratory.with_options(task_runner=ray_runner)
    state = run(4, return_state=True)
    logs, events = run_logs(state), run_events(state)
    for film in range(4):
        assert logs.contains(f"film {film}")
        assert events.contains("film.developed", resource=f"film.{film}")


@task
def leave(folder: str, name: int) -> None:
    """Leave a file."""
    Path(folder, str(name)).touch()


@flow
def hurry(folder: str) -> None:
    """Submit tasks, and wait for none of them."""
    for name in range(12):
        leave.submit(folder, name)


def test_tasks_that_nobody_waits_for_run_later(ray_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Ray runs all tasks of a flow that does not keep their futures, if its cluster lasts."""
    hurry.with_options(task_runner=ray_runner)(str(tmp_path))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 12, "all tasks", seconds=60)


@pytest.mark.fresh_server
def test_workers_use_a_fresh_server(
    ray_runner: TaskRunner[Any], prefect_server: str, run_logs: Any
) -> None:
    """In a test that has a server to itself, the workers use that one."""
    run: Any = laboratory.with_options(task_runner=ray_runner)
    state = run(4, return_state=True)
    assert {url for _, url in state.result()} == {prefect_server}
    assert run_logs(state).contains("film 3")

    def recorded() -> bool:
        # Workers that served another server before send states of task runs, as events, to this.
        with get_client(sync_client=True) as client:
            return sum(run.state_name == "Completed" for run in client.read_task_runs()) == 6

    wait_until(recorded, "the states of task runs", seconds=20)


@pytest.mark.runners(NAME)
def test_its_baseline_is_right(baseline: Baseline) -> None:
    """Bare Ray calls in order, in other processes, and runs workflows of any shape."""
    here = os.getpid()
    mapped = baseline.map(lambda number: (number, os.getpid()), range(20))
    assert [number for number, _ in mapped] == list(range(20))
    assert here not in {pid for _, pid in mapped}
    assert baseline.map(abs, [-1, 2]) == [1, 2]
    for workflow in (shape("stencil", 3, 3, seconds=0.0002), shape("tree", 4, 3, seconds=0.0002)):
        check_results(workflow, SPEEDS, baseline.run(workflow, SPEEDS))


CLUSTER = """
import json, os, signal, sys
from pathlib import Path
import psutil
from flowgauge.runners.ray_cluster import local_ray

home, how = Path(sys.argv[1]), sys.argv[2]
environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
with local_ray(2, home, as_shipped=False) as address:
    import ray
    pid = ray.get(ray.remote(lambda: os.getpid()).remote())
    started = [process.pid for process in psutil.Process().children(recursive=True)]
    assert pid in started
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGTERM) is handler
    folder = ray._private.worker._global_node.temp_dir
    Path(sys.argv[3]).write_text(json.dumps([folder, started]))
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
assert not ray.is_initialized()
with local_ray(1, home, as_shipped=False):
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
@pytest.mark.parametrize("depth", [0, 1], ids=["short", "long"])
def test_nothing_is_left(tmp_path: Path, how: str, depth: int) -> None:
    """A cluster ends with its process, even by SIGKILL, and writes nothing into the user's home.

    What it writes is in the folder of the pytest run, unless its sockets would have too long paths.
    Once it has ended, the same process can have another.
    """
    script, said, user = tmp_path / "cluster.py", tmp_path / "said", tmp_path / "user"
    script.write_text(CLUSTER)
    user.mkdir()
    # The folders of tests are too deep for sockets.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        home = Path(short, *["a" * 50] * depth)
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, script, home, how, said],
            env={**os.environ, "HOME": str(user)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=patience(),
            check=False,
        )
        assert done.returncode == (-9 if how == "killed" else 0)
        folder, started = json.loads(said.read_text())
        assert len(started) >= 5
        left = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
        _, alive = psutil.wait_procs(left, timeout=patience())
        for process in alive:
            process.kill()
        assert alive == []
        assert list(user.iterdir()) == []
        assert Path(folder).is_relative_to(home) == (depth == 0)
        if how == "ended":
            assert Path(folder).exists() == (depth == 0)
        shutil.rmtree(folder, ignore_errors=True)


PATTERNS = (
    "tasks/test_basics.py",
    "retries/test_backoff.py",
    "transactions/test_all_or_nothing.py",
    "flows/test_final_state.py",
)


def test_patterns_are_proved_on_it() -> None:
    """The tests of patterns that every task runner must pass, pass on Ray."""
    words = ["-m", "pytest", "-v", "-n0", "--flow-runners", NAME, "-m", "not e2e and not nightly"]
    files = [f"tests/patterns/{file}" for file in PATTERNS]
    with tempfile.TemporaryDirectory() as report:
        done = subprocess.run(
            [sys.executable, *words, "--flow-report-dir", report, *files],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert done.stdout.count(f"[{NAME}] PASSED") > 20, done.stdout[-5000:]
