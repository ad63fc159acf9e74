# SPDX-License-Identifier: Apache-2.0
"""Work pools and processes: what executes flow runs, and how a child that failed is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.flows import load_flow_from_entrypoint

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.faults.faults import Faults
from flowgauge.services.service import Service

Start = Callable[..., Service]

FLOWS = """\
import os
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.types._datetime import now


@task(retries=1, retry_delay_seconds=3600, persist_result=True)
def fetch() -> str:
    return os.environ.get("REGION", "nowhere")


@flow(persist_result=True)
def ingest(wait: bool = True) -> tuple[str, int, str]:
    return fetch(), os.getpid(), str(Path.cwd())


@flow
def exits() -> None:
    os._exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file of flows."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def deploy(folder: Path, name: str, pool: str, **options: Any) -> str:
    """Deploy a flow of the file to a work pool, and return the deployment's name."""
    source: Any = Flow.from_source
    loaded: Any = source(str(folder), entrypoint=f"flows.py:{name}", _sync=True)
    loaded.deploy(name, work_pool_name=pool, build=False, push=False, _sync=True, **options)
    return f"{loaded.name}/{name}"


def state_of(run: FlowRun | Any) -> State[Any]:
    """Return the state of a flow run, which has one."""
    assert run.state is not None
    state: State[Any] = run.state
    return state


def test_a_worker_runs_what_is_deployed_to_its_pool(
    worker: Start, folder: Path, virtual_clock: VirtualClock
) -> None:
    """It loads the flow from its file, runs it at its time, and the working directory stays."""
    before = os.getcwd()
    working = worker("here")
    name = deploy(folder, "ingest", "here", interval=timedelta(days=1))
    run = run_deployment(name, poll_interval=1)
    assert state_of(run).result()[1] == os.getpid()
    assert len(working.runs(3)) == 3
    assert virtual_clock.elapsed > 24 * 3600
    assert os.getcwd() == before


def test_job_variables_need_a_process(worker: Start, folder: Path) -> None:
    """A run in this process whose job variables would be ignored crashes, and says why."""
    working = worker("variables")
    name = deploy(folder, "ingest", "variables", job_variables={"env": {"REGION": "eu"}})
    run_deployment(name, poll_interval=0.1)
    (run,) = working.runs()
    assert state_of(run).is_crashed()
    assert "job variables (env), which need a process of its own" in str(state_of(run).message)


@pytest.mark.e2e
def test_a_worker_with_processes(
    worker: Start, folder: Path, virtual_clock: VirtualClock, faults: Faults
) -> None:
    """Each run has a process and its job variables, and follows virtual time and faults."""
    worker("there", processes=True)
    faults.on("fetch").fail_times(1)
    name = deploy(folder, "ingest", "there", job_variables={"env": {"REGION": "eu"}})
    run = run_deployment(name, poll_interval=1)
    region, process, _ = state_of(run).result()
    assert region == "eu"
    assert process != os.getpid()
    assert virtual_clock.elapsed > 3600


@pytest.mark.e2e
def test_a_served_flow_with_processes(
    serve: Start, folder: Path, virtual_clock: VirtualClock
) -> None:
    """Each run of a schedule has a process of its own; one that dies is Crashed, and says how."""
    ingest: Any = load_flow_from_entrypoint(f"{folder / 'flows.py'}:ingest")
    served = serve(ingest, cron="0 6 * * *", processes=True)
    virtual_clock.advance(timedelta(days=2))
    processes = {state_of(run).result()[1] for run in served.runs()}
    assert len(processes | {os.getpid()}) == 3
    exits: Any = load_flow_from_entrypoint(f"{folder / 'flows.py'}:exits")
    died = serve(exits, processes=True)
    run_deployment(died.name, poll_interval=1)
    (run,) = died.runs()
    assert state_of(run).is_crashed()
    assert "its process ended with exit status 3" in str(state_of(run).message)
