# SPDX-License-Identifier: Apache-2.0
"""What was logged in flow runs, on every task runner."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Completed
from prefect.task_runners import TaskRunner

from flowgauge import Logs, LogsError, VirtualClock
from flowgauge.observe.sent import Sent
from flowgauge.plugin.session import run_home
from flowgauge.runners.table import RUNNERS

ReadLogs = Callable[..., Logs]


@task
def load(rows: int) -> str:
    """Log three lines, and return the id of the task run."""
    logger = get_run_logger()
    for row in range(rows):
        logger.info("row %d", row)
    logger.warning("dropped %d rows", rows)
    run_id: str = task_run.id
    return run_id


@task(log_prints=True, name="say it")
def say() -> None:
    """Print a line."""
    print("said by print")


@flow
def inner() -> str:
    """Log a line and run a task that does; return the id of the flow run."""
    get_run_logger().error("inside")
    load(1)
    run_id: str = flow_run.id
    return run_id


@flow
def nightly() -> tuple[str, str]:
    """Log, and run a subflow and tasks that do."""
    loaded = load.submit(3)
    inside = inner()
    say.submit().wait()
    return loaded.result(), inside


@pytest.fixture(scope="module")
def state(_sent: Sent, task_runner: TaskRunner[Any]) -> State[Any]:
    """Run `nightly` once on each task runner, and return its state."""
    run: Any = nightly.with_options(task_runner=task_runner)
    final: State[Any] = run(return_state=True)
    return final


def messages(logs: Logs, run_id: object = None) -> list[str]:
    """Return the messages, of one run if given, without the names of runs."""
    said = [line.message for line in logs if run_id is None or str(line.run_id) == str(run_id)]
    return [re.sub("run '.*'", "run", message) for message in said]


def test_all_that_was_logged_is_there(task_runner: TaskRunner[Any], run_logs: ReadLogs) -> None:
    """Right after a run, its logs have every line, in order, whichever process logged it."""
    run: Any = nightly.with_options(task_runner=task_runner)
    state = run(return_state=True)
    logs = run_logs(state)
    task_run_id, subflow_run_id = state.result()
    finished = "Finished in state Completed()"
    rows = ["row 0", "row 1", "row 2", "dropped 3 rows", finished]
    assert messages(logs, task_run_id) == rows
    assert messages(logs, subflow_run_id) == ["Beginning subflow run", "inside", finished]
    assert messages(logs, state.state_details.flow_run_id) == ["Beginning flow run", finished]
    assert messages(logs)[-1] == finished
    of_flows = ["Beginning flow run", finished, "Beginning subflow run", "inside", finished]
    assert sorted(messages(logs)) == sorted(
        [*rows, "row 0", "dropped 1 rows", finished, "said by print", finished, *of_flows]
    )
    assert [line.time for line in logs] == sorted(line.time for line in logs)


def test_caplog_hears_only_this_process(
    task_runner: TaskRunner[Any],
    runner_name: str,
    run_logs: ReadLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a task logs in another process is in `run_logs`, and not in pytest's `caplog`."""
    called: Any = flow(task_runner=task_runner)(lambda: load.submit(3).wait())
    state = called(return_state=True)
    assert run_logs(state).contains("dropped 3 rows")
    assert ("dropped 3 rows" in caplog.text) == RUNNERS[runner_name].in_process


def test_a_line_says_where_it_is_from(state: State[Any], run_logs: ReadLogs) -> None:
    """A line has its level, logger, task, flow and run, on every task runner."""
    logs = run_logs(state)
    task_run_id, subflow_run_id = state.result()
    [dropped] = [line for line in logs if "dropped 3" in line]
    assert (dropped.level, dropped.logger) == ("WARNING", "prefect.task_runs")
    assert (dropped.task, dropped.flow, str(dropped.run_id)) == ("load", "nightly", task_run_id)
    [inside] = [line for line in logs if "inside" in line]
    assert (inside.level, inside.logger) == ("ERROR", "prefect.flow_runs")
    assert (inside.task, inside.flow, str(inside.run_id)) == ("", "inner", subflow_run_id)
    assert logs.contains("said by print", level="INFO", task="say it", flow="nightly")
    assert logs.contains(re.compile(r"dropped \d rows"), task="load", flow="inner")
    assert not logs.contains("dropped 1 rows", flow="nightly")
    assert not logs.contains("dropped 1 rows", level="INFO")
    assert not logs.contains("inside", task="load")


def test_the_logs_of_a_task_run(state: State[Any], run_logs: ReadLogs) -> None:
    """The logs of a task run are its own only."""
    task_run_id, _ = state.result()
    logs = run_logs(task_run_id)
    assert logs.run == f"task run {task_run_id}"
    assert len(logs) == 5
    assert {str(line.run_id) for line in logs} == {task_run_id}


def test_hundreds_of_lines(run_logs: ReadLogs) -> None:
    """All lines are there even if they are more than the API returns at once."""

    @flow
    def many() -> None:
        load(450)

    logs = run_logs(many(return_state=True))
    rows = [line.message for line in logs if line.message.startswith("row")]
    assert rows == [f"row {row}" for row in range(450)]


def test_lines_on_their_way(run_logs: ReadLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are still on their way when the logs are first read are awaited."""
    was_read = threading.Event()
    send, read = APILogWorker._handle_batch, SyncPrefectClient.read_logs

    async def send_late(self: APILogWorker, items: Any) -> None:
        while not was_read.is_set():
            await asyncio.sleep(0.01)
        await send(self, items)

    def read_and_note(self: SyncPrefectClient, *args: Any) -> Any:
        found = read(self, *args)
        was_read.set()
        return found

    monkeypatch.setattr(APILogWorker, "_handle_batch", send_late)
    monkeypatch.setattr(SyncPrefectClient, "read_logs", read_and_note)
    state = inner(return_state=True)
    assert not was_read.is_set()
    logs = run_logs(state)
    assert messages(logs, state.result())[-1] == "Finished in state Completed()"
    assert len(logs) == 6


def test_virtual_timestamps(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, run_logs: ReadLogs
) -> None:
    """With the virtual clock, a line's time is virtual, in every process."""

    @task(retries=1, retry_delay_seconds=86400)
    def flaky() -> None:
        get_run_logger().info("attempt %s", task_run.run_count)
        if task_run.run_count == 1:
            raise ConnectionError("no answer")

    @flow(task_runner=task_runner)
    def retried() -> None:
        flaky.submit().result()

    logs = run_logs(retried(return_state=True))
    first, second = (line.time for line in logs if "attempt" in line)
    assert second - first >= timedelta(days=1)
    assert logs.lines[-1].time >= second
    assert logs.lines[-1].message.startswith("Finished in state")


def test_a_level_above_info(run_logs: ReadLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on the lines that Prefect logs: they may be off."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
        logging.getLogger(name).manager._clear_cache()  # type: ignore[attr-defined]
    try:
        logs = run_logs(inner(return_state=True))
        assert messages(logs) == ["inside", "dropped 1 rows"]
    finally:
        monkeypatch.undo()
        logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


def test_logs_that_are_not_sent(run_logs: ReadLogs) -> None:
    """If Prefect sends no logs to the server, one line says so and what to set."""
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        state = inner(return_state=True)
        with pytest.raises(LogsError, match=r"^run_logs: PREFECT_LOGGING_TO_API_ENABLED is fals"):
            run_logs(state)


def note_line(home: Path, pid: int, flow_run_id: UUID | None, message: str) -> None:
    """Note a line that a process gave to Prefect, which never sends it."""
    log = {
        "flow_run_id": str(flow_run_id),
        "task_run_id": None,
        "timestamp": datetime.now(UTC).isoformat(),
        "level": logging.INFO,
        "name": "prefect.flow_runs",
        "message": message,
    }
    sent = Sent(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        sent.note("log", log, task="", flow="inner")


def test_a_line_that_does_not_arrive(run_logs: ReadLogs, pytestconfig: pytest.Config) -> None:
    """A line that does not reach the server is an error of one line, not a shorter answer."""
    state = inner(return_state=True)
    flow_run_id = state.state_details.flow_run_id
    note_line(run_home(pytestconfig), os.getpid(), flow_run_id, "on its way")
    with pytest.raises(LogsError) as caught:
        run_logs(state, timeout=0)
    assert re.match(
        f"run_logs: 1 lines of flow run {flow_run_id} did not reach the server within 0 s, such"
        " as 'on its way'",
        str(caught.value),
    )
    assert len(str(caught.value).splitlines()) == 1


def test_a_process_that_was_killed(run_logs: ReadLogs, pytestconfig: pytest.Config) -> None:
    """Lines that a process had not sent when it was killed are lost; the others are there."""
    state = inner(return_state=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    home = run_home(pytestconfig)
    note_line(home, ended.pid, state.state_details.flow_run_id, "never sent")
    logs = run_logs(state)
    assert logs.contains("inside")
    assert not logs.contains("never sent")


def test_a_run_in_an_unknown_process(run_logs: ReadLogs) -> None:
    """Of a run elsewhere, the last line is awaited; if it does not come, one line says why."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(inner)
        client.set_flow_run_state(run.id, Completed(), force=True)
        with pytest.raises(
            LogsError, match=r"the last line of flow run .* was not there"
        ) as caught:
            run_logs(run, timeout=0)
        assert len(str(caught.value).splitlines()) == 1
        said = ("hello", "Finished in state Completed()")
        start = datetime.now(UTC)
        for place, message in enumerate(said):
            log = {"name": "prefect.flow_runs", "level": logging.INFO, "message": message}
            log |= {"timestamp": start + timedelta(seconds=place), "flow_run_id": run.id}
            client.create_logs([LogCreate.model_validate(log)])
        logs = run_logs(run)
    assert messages(logs) == list(said)
    assert logs.contains("hello", flow="inner", task="")


@pytest.mark.parametrize("run", ["one", 42, UUID(int=1)])
def test_what_is_not_a_run_is_one_line(run_logs: ReadLogs, run: object) -> None:
    """Something that has no logs is reported in one line by the fixture's name."""
    with pytest.raises(LogsError, match=r"^run_logs: ") as caught:
        run_logs(run, timeout=0)
    assert len(str(caught.value).splitlines()) == 1


def test_a_failed_assertion_shows_the_lines(pytester: pytest.Pytester) -> None:
    """A failed `assert logs.contains(...)` shows the lines, marking the closest."""
    pytester.makepyfile(
        """
        from datetime import datetime
        from uuid import UUID
        from flowgauge import Events, LogLine, Logs, RunEvent

        def test_logs():
            texts = ["Beginning flow run", "dropped 3 rows", "Finished"]
            rest = ("prefect.task_runs", "load", "nightly", UUID(int=1))
            start = datetime(2026, 1, 1)
            logs = Logs("flow run 1", tuple(LogLine(start, "INFO", t, *rest) for t in texts))
            assert logs.contains("dropped 3 rows", level="INFO", task="load")
            assert logs.contains("dropped 4 rows", level="WARNING")

        def test_events():
            rest = ("invoice.sent", "invoice.1", {"id": 2}, UUID(int=1))
            event = RunEvent(datetime(2026, 1, 1), *rest)
            events = Events("flow run 1", (event,))
            assert events.contains("invoice.sent", payload={"id": 1})
        """
    )
    result = pytester.runpytest_subprocess("-p", "flowgauge.plugin.observe_fixtures")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E *assert no line with 'dropped 4 rows', level 'WARNING' in the 3 logs of *",
            "*- run logs -*",
            "flow run 1 has no line with 'dropped 4 rows', level 'WARNING' among its 3 logs",
            "  INFO     load: Beginning flow run",
            "> INFO     load: dropped 3 rows",
            "  ^ the closest: its message and level differ",
            "  INFO     load: Finished",
            "*- run events -*",
            "flow run 1 has no event 'invoice.sent', payload {'id': 1} among its 1 events",
            '> invoice.sent invoice.1 {"id": 2}',
            "  ^ the closest: its payload differs",
        ]
    )
