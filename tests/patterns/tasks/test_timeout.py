# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/timeout.py`."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.runtime import task_run
from prefect.task_runners import TaskRunner
from pydantic import TypeAdapter, ValidationError

from flowgauge.runners.process_pool import preloaded_context
from flowgauge.waiting import patience, wait_until
from patterns.tasks.timeout import ends_after, read_sensors
from tests.processes import is_running

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "tasks/timeout"
NEVER = 3600
"""Seconds for a body to block, or for a deadline, that no test should ever wait out."""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


def wait_until_gone(*pids: int) -> None:
    """Wait until killed processes are gone: the kernel may take a moment."""
    try:
        wait_until(lambda: not any(map(is_running, pids)), f"the end of {pids}", seconds=60)
    except TimeoutError:
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)
        raise


@pytest.mark.guarantee(NAME, "deadline")
def test_a_blocking_body_is_ended(task_runner: TaskRunner[Any]) -> None:
    """A body past its deadline is ended; the task raises TimeoutError and is TimedOut."""

    @task
    @ends_after(0.2)
    def block() -> str:
        # Left alone, it would end after 4 seconds: a deadline enforced later fails the test.
        time.sleep(4)
        return "ended by itself"

    @flow(task_runner=task_runner)
    def blocks() -> tuple[str, object]:
        future = block.submit()
        error = future.result(raise_on_failure=False)
        return str(future.state.name), error

    for _ in range(3):  # the machine may stall for that long
        name, error = blocks()
        if name == "TimedOut":
            break
    assert name == "TimedOut"
    assert isinstance(error, TimeoutError)


@pytest.mark.guarantee(NAME, "deadline")
def test_the_output_of_a_blocking_body_is_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a body printed before its deadline is on stderr, even if Python would buffer it."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    def block() -> None:
        print("step 1 done")
        time.sleep(NEVER)

    # The body must have begun by then, and a Python process may take long to start.
    for seconds in (1, 10, 100):
        with pytest.raises(TimeoutError):
            ends_after(seconds)(block)()
        if printed := capfd.readouterr().err:
            break
    assert printed == "step 1 done\n"


def blocking(pids: Path) -> Callable[[], None]:
    """Return a body that starts a process, writes the ids of both to a file and blocks."""

    def block() -> None:
        grandchild = subprocess.Popen(["sleep", str(NEVER)])
        unfinished = pids.with_suffix(".unfinished")
        unfinished.write_text(f"{os.getpid()} {grandchild.pid}")
        unfinished.rename(pids)
        time.sleep(NEVER)

    return block


def wait_until_all_gone(pids: Path) -> None:
    """Wait until the processes of a blocking body are gone."""
    wait_until_gone(*map(int, pids.read_text().split()))


@pytest.mark.guarantee(NAME, "nothing-left")
def test_no_process_is_left(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """At the deadline the body's process and those that it started are ended."""
    pids = tmp_path / "pids"

    @flow(task_runner=task_runner)
    def blocks(seconds: float) -> None:
        task(ends_after(seconds)(blocking(pids))).submit().wait()

    # The body must have begun by then, and a Python process may take long to start.
    for seconds in (1, 10, 100):
        blocks(seconds)
        if pids.exists():
            break
    assert not is_running(int(pids.read_text().split()[0]))
    wait_until_all_gone(pids)


@pytest.mark.guarantee(NAME, "nothing-left")
def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    """When the call is interrupted, the body's process and those it started are ended."""
    pids = tmp_path / "pids"

    def interrupt() -> None:
        wait_until(pids.exists)
        os.kill(os.getpid(), signal.SIGUSR1)

    def raise_interrupt(_: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    waiting = threading.Thread(target=interrupt)
    waiting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            ends_after(NEVER)(blocking(pids))()
    finally:
        waiting.join()
        signal.signal(signal.SIGUSR1, before)
    wait_until_all_gone(pids)


@pytest.mark.guarantee(NAME, "nothing-left")
def test_a_body_that_dies_leaves_no_process(tmp_path: Path) -> None:
    """When the body's process dies, those that it started are ended."""
    pids = tmp_path / "pids"

    @ends_after(NEVER)
    def die() -> None:
        pids.write_text(str(subprocess.Popen(["sleep", str(NEVER)]).pid))
        os._exit(1)

    with pytest.raises(RuntimeError, match="died"):
        die()
    wait_until_all_gone(pids)


def block_with_a_deadline(pids: Path) -> None:
    """Call a blocking body whose deadline is far off."""
    ends_after(NEVER)(blocking(pids))()


@pytest.mark.guarantee(NAME, "orphaned")
def test_killing_the_task_leaves_no_process(tmp_path: Path) -> None:
    """When the task's process is killed, the body's process and those it started end as well."""
    pids = tmp_path / "pids"
    process = preloaded_context().Process(target=block_with_a_deadline, args=(pids,))
    process.start()
    wait_until(pids.exists)
    process.kill()
    process.join()
    wait_until_all_gone(pids)


def match_with_a_deadline(pids: Path) -> None:
    """Call a body that holds the interpreter lock and whose deadline is far off."""

    def match() -> None:
        pids.with_suffix(".unfinished").write_text(str(os.getpid()))
        pids.with_suffix(".unfinished").rename(pids)
        re.match(r"(a+)+$", "a" * 40 + "b")

    ends_after(NEVER)(match)()


@pytest.mark.guarantee(NAME, "orphaned")
def test_killing_the_task_ends_a_body_that_holds_the_lock(tmp_path: Path) -> None:
    """When the task's process is killed, a body that holds the interpreter lock ends as well."""
    pids = tmp_path / "pids"
    process = preloaded_context().Process(target=match_with_a_deadline, args=(pids,))
    process.start()
    wait_until(pids.exists)
    process.kill()
    process.join()
    wait_until_all_gone(pids)


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
def test_a_module_that_only_the_parent_can_find_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body may come from a module that only its parent's `sys.path` leads to."""
    (tmp_path / "far_away.py").write_text("def distance() -> int:\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    far_away: Any = __import__("far_away")
    assert ends_after(NEVER)(far_away.distance)() == 42
    monkeypatch.delitem(sys.modules, "far_away")


def many_errors() -> dict[str, Callable[[], Exception]]:
    """Return factories of errors; the classes are local, as importing this module is slow."""

    class LostError(Exception):
        """An error whose arguments are not those of its `__init__`."""

        def __init__(self, *, sensor: str, floor: int = 0) -> None:
            super().__init__(f"{sensor} is lost")
            self.sensor = sensor
            self.floor = floor

    class NoFileError(OSError):
        """An OSError whose `__init__` takes other arguments."""

        def __init__(self, name: str) -> None:
            super().__init__(2, "not there", name)

    class TwiceError(KeyError):
        """An error whose message would change each time it is rebuilt from its arguments."""

        def __init__(self, name: str) -> None:
            super().__init__(f"no {name}")

    class SlottedError(Exception):
        """An error whose message comes from a slot, not from its arguments or `__dict__`."""

        __slots__ = ("sensor",)

        def __init__(self, sensor: str) -> None:
            self.sensor = sensor

        def __str__(self) -> str:
            return f"{self.sensor} is lost"

    return {
        "built-in": lambda: KeyError("sensor", 3),
        "slots": lambda: SlottedError("roof"),
        "numpy": lambda: np.exceptions.AxisError(5, 1),
        "keyword-only": lambda: LostError(sensor="roof", floor=3),
        "system": lambda: NoFileError("/dev/sensor"),
        "message": lambda: TwiceError("roof"),
        "file": lambda: FileNotFoundError(2, "not there", "/dev/sensor"),
        "import": lambda: ModuleNotFoundError("no sensors", name="sensors"),
        "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        "group": lambda: ExceptionGroup("all", [ValueError("roof"), OSError(5, "broken")]),
    }


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize(("_", "make"), many_errors().items())
def test_errors_arrive_as_they_were(_: str, make: Callable[[], Exception]) -> None:
    """What the body raises arrives with its type, arguments, attributes and traceback."""

    @ends_after(NEVER)
    def lose() -> None:
        raise make()

    error = make()
    with pytest.raises(type(error)) as raised:
        lose()
    arrived = raised.value
    (note,) = arrived.__dict__.pop("__notes__")
    assert "in lose\n" in note
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert repr(arrived.args) == repr(error.args)
    assert arrived.__dict__ == error.__dict__
    for name in ("errno", "filename", "name", "object", "start"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


@pytest.mark.guarantee(NAME, "errors")
def test_errors_arrive_on_every_runner(task_runner: TaskRunner[Any]) -> None:
    """What the body raises is raised by the task."""

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


@pytest.mark.guarantee(NAME, "errors")
def test_an_error_of_pydantic_arrives() -> None:
    """A Pydantic error, which can be rebuilt only in its own way, arrives with its traceback."""

    @ends_after(NEVER)
    def parse() -> int:
        return TypeAdapter(int).validate_json('"warm"')

    with pytest.raises(ValidationError) as raised:
        parse()
    (wrong,) = raised.value.errors()
    assert (wrong["type"], wrong["input"]) == ("int_parsing", "warm")
    assert any("in parse\n" in note for note in raised.value.__notes__)


@pytest.mark.guarantee(NAME, "errors")
def test_an_error_that_cannot_be_pickled_is_reported() -> None:
    """An error that can't be pickled arrives as a RuntimeError with its `repr` and traceback."""

    class LockedError(Exception):
        lock: object

    @ends_after(NEVER)
    def lose() -> None:
        error = LockedError("roof")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(RuntimeError, match="LockedError") as raised:
        lose()
    assert str(raised.value) == "LockedError('roof')"
    (note,) = raised.value.__notes__
    assert "in lose\n" in note


@pytest.mark.guarantee(NAME, "errors")
def test_a_result_that_cannot_be_pickled_is_an_error() -> None:
    """A result that can't be pickled raises the TypeError of the attempt to pickle it."""

    @ends_after(NEVER)
    def lock() -> object:
        return threading.Lock()

    with pytest.raises(TypeError, match="cannot pickle"):
        lock()


@pytest.mark.guarantee(NAME, "refused")
def test_an_async_body_is_refused() -> None:
    """An async function raises a TypeError when it is decorated."""

    async def wait() -> None: ...

    with pytest.raises(TypeError, match="wait is async"):
        ends_after(NEVER)(wait)


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("seconds", [print, None, "60", 0, -1, math.nan, math.inf])
def test_seconds_that_are_not_a_positive_number_are_refused(seconds: Any) -> None:
    """Seconds that are not a finite number above 0 raise a TypeError that says what to write."""
    # If this were allowed, a task under `@ends_after` without parentheses would just complete.
    with pytest.raises(TypeError, match=r"write @ends_after\(60\)"):
        ends_after(seconds)


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_task_is_refused(asynchronous: bool) -> None:
    """A task under `@ends_after` raises a TypeError that gives the right order of decorators."""

    def read() -> None: ...

    async def wait() -> None: ...

    with pytest.raises(TypeError, match=r"put @task above @ends_after"):
        ends_after(NEVER)(task(wait) if asynchronous else task(read))


@pytest.mark.guarantee(NAME, "died")
def test_a_dead_process_is_an_error() -> None:
    """A body whose process dies raises a RuntimeError that gives the exit code."""

    @ends_after(NEVER)
    def die(code: int) -> None:
        os._exit(code)

    @ends_after(NEVER)
    def leave(code: int) -> None:
        sys.exit(code)

    @ends_after(NEVER)
    def be_killed() -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(RuntimeError, match="died with exit code 3"):
        die(3)
    with pytest.raises(RuntimeError, match="died with exit code 0"):
        leave(0)
    with pytest.raises(RuntimeError, match="died with exit code -9"):
        be_killed()


@pytest.mark.guarantee(NAME, "died")
def test_a_dead_process_is_an_error_even_if_its_forks_live_on() -> None:
    """A body's death is reported before the deadline, even if processes that it forked live on."""

    @ends_after(patience())
    def die() -> None:
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            list(pool.map(abs, [1, 2]))
            os.kill(os.getpid(), 9)

    with pytest.raises(RuntimeError, match="died with exit code -9"):
        die()


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
def test_a_body_within_its_deadline_is_not_ended() -> None:
    """The pattern's flow reads the sensor that answers and gives up on the one that does not."""
    roof, cellar = read_sensors()
    assert roof == "roof: 21 degrees"
    assert isinstance(cellar, TimeoutError)


def blocking_task(done: Path) -> Any:
    """Return a task with Prefect's own timeout that blocks on a command which creates a file."""

    @task(timeout_seconds=0.1)
    def block() -> None:
        # If interrupted, `run` kills the command; otherwise the command ends by itself.
        subprocess.run(["sh", "-c", f"exec 3>'{done}.part'; sleep 1; mv '{done}.part' '{done}'"])

    return block


@pytest.mark.fact(NAME, "called")
def test_timeout_seconds_ends_a_call(tmp_path: Path) -> None:
    """`timeout_seconds` ends a blocking task that is called in the main thread."""
    block = blocking_task(tmp_path / "done")

    @flow
    def calls() -> str:
        return str(block(return_state=True).name)

    assert calls() == "TimedOut"
    assert not (tmp_path / "done").exists()


@pytest.mark.fact(
    NAME,
    "submitted",
    runners=("threads", "dask-threads", "dask-processes"),
    reason="the task runs in the main thread of its process",
    issue=15760,
)
def test_timeout_seconds_does_not_end_a_submitted_task(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """`timeout_seconds` does not end a blocking task in a worker thread."""
    block = blocking_task(tmp_path / "done")

    @flow(task_runner=task_runner)
    def submits() -> str:
        future = block.submit()
        future.wait()
        return str(future.state.name)

    assert submits() == "TimedOut"
    assert (tmp_path / "done").exists()


@pytest.mark.fact(NAME, "async")
def test_timeout_seconds_ends_an_async_task_that_awaits() -> None:
    """`timeout_seconds` ends an async task while it awaits, not while it blocks."""
    got_past: list[str] = []

    @task(timeout_seconds=0.1)
    async def wait(blocking: bool) -> None:
        if blocking:
            await asyncio.to_thread(lambda: None)
            time.sleep(0.3)
            got_past.append("time.sleep")
        await asyncio.sleep(NEVER)
        got_past.append("asyncio.sleep")

    @flow
    async def waits() -> list[str]:
        task_of_a_flow: Any = wait
        states = [await task_of_a_flow(each, return_state=True) for each in (False, True)]
        return [str(state.name) for state in states]

    assert asyncio.run(waits()) == ["TimedOut", "TimedOut"]
    assert got_past == ["time.sleep"]
