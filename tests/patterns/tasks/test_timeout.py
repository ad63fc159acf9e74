# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/timeout.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.runtime import task_run
from prefect.task_runners import TaskRunner

from flowgauge.waiting import wait_until
from patterns.tasks.timeout import ends_after, read_sensors

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "tasks/timeout"
NEVER = 60
"""Seconds that a body blocks which is to be ended long before."""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


def is_running(pid: int) -> bool:
    """Say whether a process is there and not only waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until_gone(pid: int) -> None:
    """Wait for a killed process: the kernel may take a moment."""
    wait_until(lambda: not is_running(pid), f"the end of process {pid}")


@pytest.mark.guarantee(NAME, "deadline")
def test_a_blocking_body_is_ended(task_runner: TaskRunner[Any]) -> None:
    """A body past its deadline is ended; the task raises TimeoutError and is TimedOut."""

    @task
    @ends_after(0.2)
    def block() -> None:
        time.sleep(NEVER)

    @flow(task_runner=task_runner)
    def blocks() -> tuple[str, object]:
        future = block.submit()
        error = future.result(raise_on_failure=False)
        return str(future.state.name), error

    # A body that were left alone would go on until the test is ended.
    name, error = blocks()
    assert name == "TimedOut"
    assert isinstance(error, TimeoutError)


@pytest.mark.guarantee(NAME, "nothing-left")
def test_no_process_is_left(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The body's process is gone when the task ends, and so are those that it started."""
    pids = tmp_path / "pids"

    def block() -> None:
        grandchild = subprocess.Popen(["sleep", str(NEVER)])
        pids.write_text(f"{os.getpid()} {grandchild.pid}")
        time.sleep(NEVER)

    @flow(task_runner=task_runner)
    def blocks(seconds: float) -> None:
        task(ends_after(seconds)(block)).submit().wait()

    # The body must have begun, and a process of Python may take long to start.
    for seconds in (1, 10, 100):
        blocks(seconds)
        if pids.exists():
            break
    child, grandchild = (int(pid) for pid in pids.read_text().split())
    assert not is_running(child)
    wait_until_gone(grandchild)


@pytest.mark.guarantee(NAME, "result")
@settings(max_examples=5)
@given(value=values)
def test_results_arrive_unchanged(value: object) -> None:
    """What the body returns arrives unchanged, whatever the body prints."""

    @ends_after(NEVER)
    def echo(given: object) -> object:
        print(given)
        os.write(1, b"straight to the file")
        return given

    # NaN is not equal to itself.
    assert repr(echo(value)) == repr(value)


@pytest.mark.guarantee(NAME, "result")
def test_a_result_arrives_on_every_runner(task_runner: TaskRunner[Any]) -> None:
    """Keyword arguments reach the body, and its result reaches the flow."""

    @task
    @ends_after(NEVER)
    def join(parts: list[str], *, with_: str) -> str:
        return with_.join(parts)

    @flow(task_runner=task_runner)
    def joins() -> str:
        return join.submit(["a", "b"], with_="-").result()

    assert joins() == "a-b"


@pytest.mark.guarantee(NAME, "result")
def test_a_function_of_a_module_that_only_the_parent_can_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body may use whatever its parent could import."""
    (tmp_path / "far_away.py").write_text("def distance() -> int:\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    far_away: Any = __import__("far_away")
    assert ends_after(NEVER)(far_away.distance)() == 42
    monkeypatch.delitem(sys.modules, "far_away")


@pytest.mark.guarantee(NAME, "errors")
def test_errors_arrive(task_runner: TaskRunner[Any]) -> None:
    """What the body raises arrives with its type and its arguments."""

    @task
    @ends_after(NEVER)
    def lose() -> None:
        raise KeyError("sensor", 3)

    @flow(task_runner=task_runner)
    def loses() -> None:
        lose.submit().result()

    with pytest.raises(KeyError) as raised:
        loses()
    assert raised.value.args == ("sensor", 3)


@pytest.mark.guarantee(NAME, "died")
def test_a_dead_process_is_an_error() -> None:
    """A body whose process dies is a RuntimeError that says with which exit code."""

    @ends_after(NEVER)
    def die(code: int) -> None:
        os._exit(code)

    @ends_after(NEVER)
    def be_killed() -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(RuntimeError, match="died with exit code 3"):
        die(3)
    with pytest.raises(RuntimeError, match="died with exit code -9"):
        be_killed()


@pytest.mark.guarantee(NAME, "retried")
def test_an_attempt_that_timed_out_is_retried(task_runner: TaskRunner[Any]) -> None:
    """An attempt that ran out of time is retried like any other failure."""

    @task(retries=1)
    def answer_at_last() -> str:
        first = task_run.run_count == 1

        @ends_after(0.2 if first else NEVER)
        def answer() -> str:
            time.sleep(NEVER if first else 0)
            return "21 degrees"

        return answer()

    @flow(task_runner=task_runner)
    def asks() -> str:
        return answer_at_last.submit().result()

    assert asks() == "21 degrees"


@pytest.mark.guarantee(NAME, "deadline")
def test_a_body_in_time_is_not_ended() -> None:
    """The pattern's flow reads the sensor that answers and gives up the one that does not."""
    roof, cellar = read_sensors()
    assert roof == "roof: 21 degrees"
    assert isinstance(cellar, TimeoutError)


def stock_blocking_task(done: Path) -> Any:
    """Return a task with Prefect's own timeout, blocked by a command that leaves a mark."""

    @task(timeout_seconds=0.1)
    def block() -> None:
        # Interrupted, `run` kills the command; else the command ends by itself.
        subprocess.run(["sh", "-c", f"exec 3>'{done}.part'; sleep 1; mv '{done}.part' '{done}'"])

    return block


@pytest.mark.guarantee(NAME, "stock-called")
def test_stock_timeout_ends_a_call(tmp_path: Path) -> None:
    """`timeout_seconds` ends a blocking task that is called in the main thread."""
    block = stock_blocking_task(tmp_path / "done")

    @flow
    def calls() -> str:
        return str(block(return_state=True).name)

    assert calls() == "TimedOut"
    assert not (tmp_path / "done").exists()


@pytest.mark.guarantee(
    NAME,
    "stock-submitted",
    runners=("sequential", "processes"),
    reason="a worker thread can't be interrupted while it blocks",
    issue=15760,
)
def test_stock_timeout_ends_a_submitted_task(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """`timeout_seconds` ends a blocking task that is submitted."""
    block = stock_blocking_task(tmp_path / "done")

    @flow(task_runner=task_runner)
    def submits() -> str:
        future = block.submit()
        future.wait()
        return str(future.state.name)

    assert submits() == "TimedOut"
    assert not (tmp_path / "done").exists()
