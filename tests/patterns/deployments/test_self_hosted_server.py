# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/self_hosted_server.py`."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import json
import logging
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import httpx
import psutil
import pytest
from prefect.server.services.task_run_recorder import TaskRunRecorder
from prefect.settings import (
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL,
    temporary_settings,
)

from flowgauge.catalogue.catalogue import catalogue_root, find_pattern
from flowgauge.waiting import patience, wait_until
from patterns.deployments import self_hosted_server as pattern
from patterns.deployments.self_hosted_server import (
    free_port,
    postgres,
    prefect_server,
    read,
    stop,
    wait_until_it_answers,
)
from tests.signals import main_thread_waits

NAME = "deployments/self_hosted_server"
SCRIPT = Path(pattern.__file__)

# One task that is done at once, and one that waits until a file exists.
FLOW = """
import time
from pathlib import Path
from prefect import flow, task

@task
def step(folder, name):
    with (Path(folder) / "done").open("a") as file:
        file.write(f"{name}\\n")

@task
def wait(folder):
    (Path(folder) / "waits").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)

@flow
def journey(folder: str):
    step(folder, "departed")
    wait(folder)
    step(folder, "arrived")
"""


def server_process(api: str) -> psutil.Process:
    """Return the process that listens at an address."""
    port = urlsplit(api).port
    return next(
        process
        for process in psutil.Process().children(recursive=True)
        if port in {each.laddr.port for each in listening(process)}
    )


def listening(process: psutil.Process) -> list[Any]:
    """Return the sockets on which a process listens."""
    connections = process.net_connections(kind="tcp")
    return [each for each in connections if each.status == psutil.CONN_LISTEN]


def post(api: str, path: str, body: object) -> dict[str, object]:
    """Send JSON to an API and return its answer, retrying while it is too busy."""

    def answered() -> httpx.Response | None:
        answer = httpx.post(f"{api}/{path}", json=body, timeout=patience())
        # A server on SQLite may be busy with another write; Prefect's client retries, too.
        return answer if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE else None

    answer = wait_until(answered, f"an answer from {api}/{path}").raise_for_status()
    return dict(answer.json()) if answer.content else {}


def scheduled(api: str) -> int:
    """Return how many flow runs a server has, or 0 if it is too busy to answer."""
    answer = httpx.post(f"{api}/flow_runs/count", json={}, timeout=patience())
    return int(answer.json()) if answer.is_success else 0


def state(api: str, run: str) -> str:
    """Return the name of a run's state."""
    answer = httpx.get(f"{api}/flow_runs/{run}", timeout=patience()).raise_for_status()
    return str(answer.json()["state"]["name"])


def answers(api: str, run: str) -> bool:
    """Return whether a server can read a run."""
    return httpx.get(f"{api}/flow_runs/{run}", timeout=patience()).status_code == 200


def deploy(api: str, folder: Path) -> str:
    """Make a pool and a deployment of the flow, and return the deployment's id."""
    code = folder / "code"
    code.mkdir()
    (code / "journey.py").write_text(FLOW)
    post(api, "work_pools/", {"name": "travel", "type": "process", "base_job_template": TEMPLATE})
    flow = post(api, "flows/", {"name": "journey"})["id"]
    deployment = {
        "name": "self-hosted",
        "flow_id": flow,
        "work_pool_name": "travel",
        "entrypoint": "journey.py:journey",
        "path": str(code),
    }
    return str(post(api, "deployments/", deployment)["id"])


TEMPLATE = {
    "job_configuration": {"command": "{{ command }}", "env": "{{ env }}"},
    "variables": {
        "type": "object",
        "properties": {"command": {"type": "string"}, "env": {"type": "object"}},
    },
}


@contextmanager
def worker(api: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of the pool."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(folder / "worker"),
        # It gives up after twelve failed polls; a server may take long to restart.
        "PREFECT_WORKER_QUERY_SECONDS": "5",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "travel"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env={**inherited, **settings}, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=patience())


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    """Return PostgreSQL's own answer to a query."""

    async def ask() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


@dataclass(frozen=True)
class Life:
    """What was seen of a server on PostgreSQL, and of a run during which both were restarted."""

    version: str
    page: str
    ui_settings: dict[str, object]
    port: int | None
    listening: frozenset[str]
    settings: frozenset[str]
    home: frozenset[str]
    without_database: int
    pid_kept: bool
    worker_alive: bool
    states: tuple[str, str, str]
    done: tuple[str, ...]
    later: str
    in_postgres: tuple[tuple[object, ...], ...]
    survivors: tuple[Any, ...]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Restart PostgreSQL, then kill and start the server, while a run waits in a task."""
    folder = tmp_path_factory.mktemp("life")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as person:
        person.setenv("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
        # Not in pytest's folders: each pytest that starts closes them to PostgreSQL's own user.
        data = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        database = stack.enter_context(ExitStack())
        url = database.enter_context(postgres(data))
        server = stack.enter_context(ExitStack())
        api = server.enter_context(prefect_server(folder / "home", url))
        process = server_process(api)
        version, page = read(f"{api}/admin/version"), read(api.removesuffix("/api"))
        ui_settings = read(api.removesuffix("/api") + "/ui-settings")
        seen_listening = frozenset(str(each.laddr.ip) for each in listening(process))
        settings = frozenset(name for name in process.environ() if name.startswith("PREFECT_"))

        deployment = deploy(api, folder)
        stack.enter_context(worker(api, folder))
        start = f"deployments/{deployment}/create_flow_run"
        run = str(post(api, start, {"parameters": {"folder": str(folder)}})["id"])
        wait_until((folder / "waits").exists)
        states = [state(api, run)]

        database.close()
        without_database = httpx.get(f"{api}/flow_runs/{run}", timeout=patience()).status_code
        database.enter_context(postgres(data))
        wait_until(lambda: answers(api, run))
        states.append(state(api, run))
        pid_kept = server_process(api) == process

        family = (process, *process.children(recursive=True))
        process.send_signal(signal.SIGKILL)
        server.close()
        port = urlsplit(api).port
        server.enter_context(prefect_server(folder / "home", url, port))
        (folder / "go").touch()
        wait_until(lambda: state(api, run) == "Completed")
        states.append(state(api, run))
        done = tuple((folder / "done").read_text().split())
        later = str(post(api, start, {"parameters": {"folder": str(folder)}})["id"])
        wait_until(lambda: state(api, later) == "Completed")
        family += (server_process(api), *server_process(api).children(recursive=True))
        in_postgres = rows(url, f"select state_name from flow_run where id = '{run}'")
        home = frozenset(path.name for path in (folder / "home").iterdir())
        worker_alive = "exceeded error threshold" not in (folder / "worker.log").read_text()
        later = state(api, later)
    return Life(
        version=json.loads(version),
        page=page,
        ui_settings=json.loads(ui_settings),
        port=port,
        listening=seen_listening,
        settings=settings,
        home=home,
        without_database=without_database,
        pid_kept=pid_kept,
        worker_alive=worker_alive,
        states=(states[0], states[1], states[2]),
        done=done,
        later=later,
        in_postgres=tuple(in_postgres),
        survivors=tuple(psutil.wait_procs(family, timeout=patience())[1]),
    )


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "three-parts")
def test_the_api_and_the_ui_are_at_one_address(life: Life) -> None:
    """The API and the UI's page are at the same address, and the UI uses that API."""
    assert life.version == importlib.metadata.version("prefect")
    assert "<title>Prefect Server</title>" in life.page
    assert urlsplit(str(life.ui_settings["api_url"])).port == life.port


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "loopback")
def test_the_server_listens_on_this_machine_only(life: Life) -> None:
    """The server listens on 127.0.0.1 and nowhere else."""
    assert life.listening == {"127.0.0.1"}


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "own-settings")
def test_settings_of_the_person_do_not_reach_the_server(life: Life) -> None:
    """A `PREFECT_` variable of the person who starts it does not reach the server."""
    assert "PREFECT_HOME" in life.settings
    assert "PREFECT_SERVER_LOGGING_LEVEL" not in life.settings


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "postgres")
def test_runs_are_in_postgresql(life: Life) -> None:
    """The run's state can be read from PostgreSQL itself, and the server's home has no database."""
    assert life.in_postgres == (("Completed",),)
    assert "server.log" in life.home
    assert not [name for name in life.home if name.startswith("prefect.db")]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "database-restart")
def test_a_run_outlives_a_restart_of_postgresql(life: Life) -> None:
    """After PostgreSQL restarts mid-run, the same server answers again with the run's state."""
    assert life.without_database >= 500
    assert life.pid_kept
    assert life.states[:2] == ("Running", "Running")


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "server-restart")
@pytest.mark.guarantee(NAME, "database-restart")
def test_a_run_outlives_a_killed_server(life: Life) -> None:
    """If the server is killed and restarted mid-run, the run completes with each step done once."""
    assert life.states[2] == "Completed"
    assert life.done == ("departed", "arrived")


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "server-restart")
def test_a_worker_outlives_a_killed_server(life: Life) -> None:
    """The worker goes on after the restart, and executes a run that is scheduled afterwards."""
    assert life.worker_alive
    assert life.later == "Completed"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "ends")
def test_nothing_is_left_after_the_block(life: Life) -> None:
    """After the block, no process of the killed server or of the next one is left."""
    assert life.survivors == ()


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "sqlite")
@pytest.mark.guarantee(NAME, "scheduled")
@pytest.mark.guarantee(NAME, "ends")
def test_a_server_finds_the_runs_of_its_home_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server makes a schedule's runs; the next one on its SQLite file finds its flows.

    The file is in the home, whether that is given with `~` or as a relative path. A server also
    ends if its block raises.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    with prefect_server(Path("~/server")) as api:
        flow = post(api, "flows/", {"name": "left"})["id"]
        hourly = {"schedule": {"interval": 3600, "anchor_date": "2026-01-01T00:00:00Z"}}
        post(api, "deployments/", {"name": "hourly", "flow_id": flow, "schedules": [hourly]})
        wait_until(lambda: scheduled(api), "a scheduled run")
    assert (tmp_path / "server" / "prefect.db").exists()
    monkeypatch.chdir(tmp_path)
    with (  # noqa: PT012
        pytest.raises(LookupError, match="the block fails"),
        prefect_server(Path("server")) as api,
    ):
        process = server_process(api)
        # Otherwise a server that hangs could not be killed together with what it started.
        assert os.getpgid(process.pid) == process.pid
        assert httpx.get(f"{api}/flows/{flow}").raise_for_status().json()["name"] == "left"
        raise LookupError("the block fails")
    assert not process.is_running()


def test_a_server_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """A process that does not end in time is killed, and so are the processes that it started."""
    hangs = "trap '' TERM; sleep 1000 & echo $! > pid; mv pid child; wait"
    process = subprocess.Popen(["sh", "-c", hangs], cwd=tmp_path, start_new_session=True)
    wait_until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    stop(process, patience=0.1)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


STANDS_IN = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Well(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        Path(os.environ["HERE"], "pid").write_text(str(os.getpid()))

HTTPServer(("127.0.0.1", int(os.environ["PREFECT_SERVER_API_PORT"])), Well).serve_forever()
"""
"""A module that is started in place of Prefect; it answers as healthy and writes its process id."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a quick server stand in for Prefect's, and return the file for its process id."""
    (tmp_path / "prefect.py").write_text(STANDS_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HERE", str(tmp_path))
    return tmp_path / "pid"


@pytest.mark.guarantee(NAME, "ends")
def test_main_ends_its_server_when_it_is_terminated(tmp_path: Path, stand_in: Path) -> None:
    """After SIGTERM, which by default runs no `finally`, `main` leaves no server process behind."""
    # `main` waits at its first request, which is never answered.
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n" + WAITING
    with subprocess.Popen([sys.executable, "-c", code]) as program:
        wait_until(lambda: stand_in.exists() and stand_in.read_text(), "the server")
        server = psutil.Process(int(stand_in.read_text()))
        try:
            wait_until((tmp_path / "asked").exists)
            wait_until(lambda: main_thread_waits(program.pid), "main to wait")
            program.terminate()
            assert program.wait(patience()) == 128 + signal.SIGTERM
            assert not server.is_running()
        finally:
            program.kill()
            if server.is_running():
                server.kill()


WAITING = """
import os, time
from pathlib import Path
import self_hosted_server

def ask(url):
    Path(os.environ["HERE"], "asked").touch()
    time.sleep(1000)

self_hosted_server.read = ask
self_hosted_server.main([])
"""
"""Runs `main`, whose first request is never answered."""


@pytest.mark.guarantee(NAME, "three-parts")
def test_a_proxy_is_not_used_for_this_machine(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with a proxy set, the server on 127.0.0.1 is reached."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    # As in a program that starts now: the URL opener is created when the module is loaded.
    fresh = runpy.run_path(str(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect"],
        env={**os.environ, "PREFECT_SERVER_API_PORT": str(port := free_port())},
    )
    try:
        api = f"http://127.0.0.1:{port}/api"
        fresh["wait_until_it_answers"](process, api, tmp_path / "server.log", patience())
        assert read(f"{api}/admin/version") == ""
    finally:
        stop(process)


@pytest.mark.guarantee(NAME, "fails")
def test_a_port_that_is_not_allowed_is_not_reported_as_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that the system refuses is a one-line error with the reason; nothing is started."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with (
        pytest.raises(RuntimeError, match=r"^port 80: Permission denied$"),
        prefect_server(tmp_path / "home", port=80),
    ):
        raise AssertionError("it came up")
    assert not (tmp_path / "home").exists()


@pytest.mark.guarantee(NAME, "fails")
@pytest.mark.parametrize(
    ("program", "patience"), [("false", float("inf")), ("sleep 1000", 0.1)], ids=["ended", "hangs"]
)
def test_waiting_for_a_server_always_ends(tmp_path: Path, program: str, patience: float) -> None:
    """A server that has ended is not waited for; one that never answers, until patience ends."""
    api = f"http://127.0.0.1:{free_port()}/api"
    with subprocess.Popen(program.split()) as process:
        try:
            with pytest.raises(RuntimeError, match=f"no Prefect server at {api}"):
                wait_until_it_answers(process, api, tmp_path / "server.log", patience)
        finally:
            process.kill()


@pytest.mark.fact(NAME, "rounded-down")
def test_an_interval_below_a_second_keeps_a_core_busy(caplog: pytest.LogCaptureFixture) -> None:
    """The part of a server that stores task runs never sleeps if its interval is half a second."""

    async def seconds_of_core() -> float:
        recorder = TaskRunRecorder()
        running = asyncio.create_task(recorder.start())
        await recorder.started_event.wait()
        before = time.thread_time()
        await asyncio.sleep(0.3)
        used = time.thread_time() - before
        running.cancel()
        await asyncio.wait([running])
        return used

    def used_with(interval: float) -> float:
        with temporary_settings(
            {PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL: interval}
        ):
            return asyncio.run(seconds_of_core())

    caplog.set_level(logging.INFO, "prefect.server.services.task_run_recorder")
    idle, busy = used_with(1.9), used_with(0.5)
    said = [re.findall(r"flush every (\S+) seconds", each) for each in caplog.messages]
    assert [word for words in said for word in words] == ["1", "0"]
    assert busy > 5 * idle


def test_the_packages_of_the_server_are_bounded_as_in_the_project() -> None:
    """The pattern's header has the same version bounds for Prefect's server as this project."""
    project = tomllib.loads((catalogue_root().parent / "pyproject.toml").read_text())["project"]
    bounds = [each for each in project["dependencies"] if each.startswith(("fast", "sqlalchemy"))]
    assert len(bounds) == 2
    assert {*bounds} <= {*find_pattern(catalogue_root(), NAME).dependencies}


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "fails")
def test_a_server_that_does_not_come_up_names_its_log(tmp_path: Path) -> None:
    """If a server can't open its database, a one-line error names its log; no process is left."""
    before = set(psutil.Process().children(recursive=True))
    port, nowhere = free_port(), f"sqlite+aiosqlite:///{tmp_path}/nowhere/prefect.db"
    with (
        pytest.raises(RuntimeError) as raised,
        prefect_server(tmp_path, nowhere, port=port),
    ):
        raise AssertionError("it came up")
    log = tmp_path / "server.log"
    assert str(raised.value) == (
        f"no Prefect server at http://127.0.0.1:{port}/api; see the end of {log}"
    )
    assert "unable to open database file" in log.read_text()
    assert set(psutil.Process().children(recursive=True)) <= before


class Healthy(BaseHTTPRequestHandler):
    """A server that answers any request as if it were healthy."""

    def do_GET(self) -> None:
        """Answer with success and nothing more."""
        self.send_response(200)
        self.end_headers()


@pytest.mark.guarantee(NAME, "fails")
def test_another_server_at_the_port_is_not_mistaken_for_it(tmp_path: Path) -> None:
    """A port where another server answers is a one-line error naming it; nothing is started."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with (
            pytest.raises(RuntimeError, match=f"^port {other.server_port} is taken$"),
            prefect_server(tmp_path / "home", port=other.server_port),
        ):
            raise AssertionError("another server was taken for it")
        other.shutdown()
    assert not (tmp_path / "home").exists()
