# SPDX-License-Identifier: Apache-2.0
"""The connection to the Prefect server, lost on purpose below Prefect's own clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flowgauge.faults.connection import LossyConnection
from flowgauge.faults.faults import Faults, wanted_faults
from flowgauge.faults.process import FaultProcess, faults_folder
from flowgauge.observe.history import run_history
from tests.flowgauge.faults.conftest import RunTasks

EVENTS = "prefect.events.clients"


@task
def ask(url: str) -> list[str]:
    """Request the server's health five times; return the status code or error of each request."""
    answers = []
    for _ in range(5):
        try:
            answers.append(str(httpx.get(f"{url}/health").status_code))
        except httpx.ConnectError as error:
            answers.append(str(error))
    return answers


@task
def ask_through_prefect(url: str) -> str:
    """Send a request through Prefect's client; return the status code."""
    with get_client(sync_client=True) as client:
        return str(client.hello().status_code)


def test_requests_fail_for_a_while(
    faults: Faults, run_tasks: RunTasks, prefect_server: str
) -> None:
    """The next requests of the task's process fail, and those after them succeed."""
    faults.on("ask").lose_connection(requests=3)
    # Prefect's own requests count, too; this setting prevents those that send logs. Logs of an
    # earlier test may still be among the three.
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        _, [outcome] = run_tasks((ask, prefect_server))
    lost = outcome.value.count("connection lost by a fault")
    assert 1 <= lost <= 3
    assert outcome.value == ["connection lost by a fault"] * lost + ["200"] * (5 - lost)


@pytest.mark.runners("threads")
def test_prefects_client_retries(faults: Faults, run_tasks: RunTasks) -> None:
    """Prefect's client retries a failed request, after a real wait of more than a second."""
    faults.on("ask_through_prefect").lose_connection()
    start = time.monotonic()
    _, [outcome] = run_tasks((ask_through_prefect, ""))
    assert outcome.value == "200"
    assert time.monotonic() - start > 1


@pytest.mark.runners("sequential", "dask-threads", "dask-processes")
def test_states_survive_a_broken_websocket(
    faults: Faults,
    run_tasks: RunTasks,
    runner_name: str,
    prefect_server: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The websocket breaks and can't be reopened at once, but every state still arrives."""
    caplog.set_level(logging.DEBUG, logger=EVENTS)
    faults.on("ask").lose_connection(requests=3)
    _, [outcome] = run_tasks((ask, prefect_server))
    assert run_history(outcome.run).matches("Pending Running Completed")
    if runner_name != "dask-processes":
        told = [record.getMessage() for record in caplog.records if record.name == EVENTS]
        assert any("will retry. Reason: connection lost" in line for line in told)


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[LossyConnection]:
    """Yield a connection to a server that is lost for one request of each kind."""
    with wanted_faults(faults_folder(tmp_path), 1, "http://127.0.0.1:4200/api") as wanted:
        wanted.on("ask").slow(0)
        connection = LossyConnection(FaultProcess(tmp_path, expendable=False))
        connection.lose(1)
        yield connection


def test_other_servers_are_reached(lost: LossyConnection) -> None:
    """Requests to another server than Prefect's do not fail, nor are they counted."""
    assert not lost.refuses("http", "127.0.0.1", 4201)
    assert not lost.refuses("http", "localhost", 4200)
    assert lost.refuses("http", "127.0.0.1", 4200)
    assert not lost.refuses("http", "127.0.0.1", 4200)


def test_kinds_of_requests_are_counted_separately(lost: LossyConnection) -> None:
    """A loss on Prefect's websocket does not spare a task's own request."""
    assert lost.refuses("websocket", "127.0.0.1", 4200)
    assert lost.refuses("http", "127.0.0.1", 4200)


def test_the_connection_is_back_after_the_test(lost: LossyConnection, tmp_path: Path) -> None:
    """A worker that outlives the test does not keep losing its connection in the next test."""
    with wanted_faults(faults_folder(tmp_path), 1, "http://127.0.0.1:4200/api") as next_test:
        next_test.on("ask").slow(0)
        assert not lost.refuses("http", "127.0.0.1", 4200)
