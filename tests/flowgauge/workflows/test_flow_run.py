# SPDX-License-Identifier: Apache-2.0
"""A flow run on a Prefect server is written as a workflow, by `flowgauge trace`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime, task
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from flowgauge.cli.app import run as flowgauge
from flowgauge.workflows import flow_run
from flowgauge.workflows.wfformat import load_workflow
from flowgauge.workflows.workflow import Workflow

NAP = 0.2
RETRY_DELAY = 3.0


@task(task_run_name="plan")
def plan() -> list[int]:
    """Return the work."""
    time.sleep(NAP)
    return [1, 2]


@task(task_run_name="sew {number}", retries=1, retry_delay_seconds=RETRY_DELAY)
def sew(number: int, effect_ledger: Any) -> int:
    """Fail once for the second piece."""
    effect_ledger.record("sewn", number=number)
    time.sleep(NAP)
    if number == 2 and effect_ledger.count("sewn", number=2) == 1:
        raise ConnectionError("needle lost")
    return number


@task(task_run_name="measure")
def measure() -> None:
    """Do a part of another task."""
    time.sleep(NAP)


@task(task_run_name="iron", persist_result=True)
def iron(pieces: list[int]) -> bytes:
    """Call another task."""
    measure()
    return bytes(1000)


@task(task_run_name="fold")
def fold() -> None:
    """Be a subflow's task."""


@flow(flow_run_name="pack")
def pack(cloth: bytes) -> int:
    """Run a task."""
    fold.submit().wait()
    return len(cloth)


@task(task_run_name="ship")
def ship(parcel: int) -> None:
    """Take what a subflow returns."""


@flow
def make_shirts(effect_ledger: Any) -> str:
    """Run a diamond, a retry, a task in a task and a subflow; return the id of the last run."""
    planned: Any = plan.submit()
    submit: Any = sew.submit
    sewn = [submit(number, effect_ledger, wait_for=[planned]) for number in (1, 2)]
    cloth = iron.submit(sewn)
    packed: Any = pack(cloth, return_state=True)
    shipped = ship.submit(packed)
    shipped.wait()
    return str(shipped.task_run_id)


def traced(state: Any, file: Path) -> Workflow:
    """Return the workflow that the command writes of a flow run."""
    assert flowgauge(["trace", str(state.state_details.flow_run_id), "-o", str(file)]) == 0
    return load_workflow(file)


# Prefect's process pool does not record which task runs a task has read from.
@pytest.mark.runners("threads", "dask-processes")
def test_a_flow_run_is_written_as_a_workflow(
    task_runner: TaskRunner[Any],
    virtual_clock: object,
    effect_ledger: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tasks, their edges, their durations without waits, and sizes are those of the flow run.

    The flow run ended just before, when the server had not stored all of its task runs.
    """
    monkeypatch.setattr(flow_run, "PAGE", 2)
    state: Any = make_shirts.with_options(task_runner=task_runner)(effect_ledger, return_state=True)
    file = tmp_path / "shirts.json"
    workflow = traced(state, file)
    edges = {task.id: (set(task.needs), set(task.after)) for task in workflow.tasks}
    assert edges == {
        "plan": (set(), set()),
        "sew 1": (set(), {"plan"}),
        "sew 2": (set(), {"plan"}),
        "iron": ({"sew 1", "sew 2"}, set()),
        "fold": (set(), {"iron"}),
        "ship": ({"fold"}, set()),
    }
    assert workflow.critical_path == ("plan", "sew 2", "iron", "fold", "ship")
    assert 2 * NAP <= workflow["sew 2"].seconds < RETRY_DELAY
    assert workflow["iron"].output_bytes > 1000
    assert workflow["plan"].output_bytes == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}: 6 tasks, ")
    assert second.endswith(f"flowgauge advise --workflow {file}")


@flow
def idle(ends: Callable[[], None]) -> None:
    """Run no task."""
    ends()


def said(flow_run_id: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that the command says instead of writing a file."""
    capsys.readouterr()
    assert flowgauge(["trace", flow_run_id, "-o", "never.json"]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    (line,) = written.err.splitlines()
    return line


def test_a_flow_run_that_has_not_ended_is_refused(
    prefect_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow run that still runs, or ran no tasks, is refused in one line."""
    monkeypatch.setattr(flow_run, "_RECENT", timedelta(seconds=1))
    monkeypatch.setattr(flow_run, "_PAUSE_SECONDS", 0.1)
    lines = []

    def ends() -> None:
        lines.append(said(str(runtime.flow_run.id), capsys))

    state: Any = idle.with_options(flow_run_name="idler")(ends, return_state=True)
    assert lines == ["flowgauge: flow run 'idler' has not ended: it has the state Running"]
    line = said(str(state.state_details.flow_run_id), capsys)
    assert line == "flowgauge: flow run 'idler' ran no tasks"


def test_a_flow_run_that_is_not_there_is_refused(
    prefect_server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A wrong or unknown id, no server and a file that exists are refused in one line each."""
    unknown = "00000000-0000-0000-0000-000000000000"
    assert "nightly: not the id of a flow run" in said("nightly", capsys)
    assert f"{prefect_server} has no flow run {unknown}" in said(unknown, capsys)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert "http://127.0.0.1:9/api cannot be reached: " in said(unknown, capsys)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert "no Prefect server to read from: prefect config set" in said(unknown, capsys)
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    assert flowgauge(["trace", unknown, "-o", str(kept)]) == 2
    assert "kept.json exists: give another file, or --force" in capsys.readouterr().err
    assert kept.read_text() == "mine"
