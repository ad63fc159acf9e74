# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "cloudpickle>=3,<4"]
# ///
"""End a task at its deadline, whatever it is doing and whichever runner runs it.

Problem:
    `timeout_seconds` interrupts a blocking task only in the main thread of its process. A submitted
    task runs in a worker thread, where the timeout is noticed only when the blocking call returns
    by itself, after seconds or never. A process can be killed at any moment, so the body of the
    task gets a separate one.

Guarantees:
    deadline: a body that blocks past its deadline is killed; the task raises TimeoutError and its
        run ends TimedOut. What the body had printed is on stderr.
    nothing-left: at the deadline, or when the call is interrupted, the body's process is killed,
        and so are the processes that it started in its session; these are also killed when the
        body's process dies.
    orphaned: the body's process and those that it started in its session also end when the process
        of the task is killed, even while the body holds the interpreter lock.
    result: what the body returns arrives unchanged, whatever the body prints.
    errors: what the body raises arrives with its type, arguments, attributes and text, and with the
        traceback as a note; if the error can't be pickled, its `repr` arrives as a RuntimeError.
    died: if the body's process dies (killed, out of memory, a crash, `sys.exit`), the task raises a
        RuntimeError that gives the exit code.
    retried: an attempt that timed out is retried like any other failure.
    refused: an async function, a task, or seconds that are not a number above 0 raise a TypeError
        when the function is decorated.

Prefect:
    called (3.8, 3.9): `timeout_seconds` ends a blocking task that is called in the main thread.
    submitted (3.8, 3.9): it does not end a blocking task in a worker thread, and therefore none
        that is submitted to threads or to Dask; the task is TimedOut once it has ended by itself.
    async (3.8, 3.9): it ends an async task while that awaits, not while it blocks.

Not for:
    Bodies that use Prefect (loggers, `log_prints`, other tasks): they run outside the task run.
    Bodies with globals that can't be pickled, such as a lock: that is a TypeError. Bodies in the
    main script that pickle its functions or classes, as a process pool does: put these in a module.
    Bodies that change their arguments or globals: only what they return leaves their process.
    Bodies that leave threads running: the process waits for those, until the deadline. Async tasks
    that only await: `timeout_seconds` interrupts those. Ctrl-C: it interrupts called tasks, but not
    submitted ones, which end at their deadline. Bodies that start processes in new sessions, as
    daemons do: those keep running, and so does everything that a body leaves running when it
    returns. Windows: it has no sessions.

Costs:
    Row `tasks/timeout` of the report: a new Python process for each call, which forks once and
    imports what the body uses. The deadline counts from the start of that process.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/write-and-run#task-timeout-behavior
    - Prefect #15760 and #10926: submitted tasks outlive their timeout
    - Prefect #18133: so do async tasks that block
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

import cloudpickle  # type: ignore[import-untyped]
from prefect import Task, flow, task

P = ParamSpec("P")
R = TypeVar("R")

CHILD = """
import os, pickle, signal, sys, threading, traceback

def end_with_parent():
    os.read(int(sys.argv[1]), 1)  # nothing is ever written: this returns when the parent is gone
    os.killpg(0, signal.SIGKILL)

# The body runs in a fork: it may never release the interpreter lock to a watching thread.
if body := os.fork():
    os.close(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(body, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
answers = os.fdopen(os.dup(1), "wb")
os.register_at_fork(after_in_child=answers.close)  # else the pipe is open until all forks end
os.dup2(2, 1)  # what the body prints must not mix with the answer
sys.path[:] = pickle.load(sys.stdin.buffer)
import cloudpickle
try:
    call = pickle.load(sys.stdin.buffer)
    answer = cloudpickle.dumps((call(), None))
except Exception as error:
    built_in = next(each for each in type(error).__mro__ if each.__module__ == "builtins")
    pickled = []
    for way in (type(error), *built_in.__reduce__(error)[1:]), error:
        try:
            pickled.append(cloudpickle.dumps(way))
        except Exception:
            pass  # an argument or an attribute can't be pickled
    answer = cloudpickle.dumps((None, (pickled, repr(error), traceback.format_exc())))
answers.write(answer)
answers.close()
"""


def ends_after(seconds: float) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that runs a function in a process which is ended at a deadline.

    Args:
        seconds: How long the process may run, in seconds.

    Returns:
        The decorator, to be placed below `@task`.

    Raises:
        TypeError: If `seconds` is not a finite number above 0, or, when the decorator is applied,
            if the function is async or already a task.
    """
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise TypeError(f"write @ends_after(60), a number of seconds above 0, not {seconds!r}")

    def decorate(body: Callable[P, R]) -> Callable[P, R]:
        if isinstance(body, Task):
            raise TypeError(f"{body.name} is a task already: put @task above @ends_after")
        if inspect.iscoroutinefunction(body):
            raise TypeError(f"{body.__name__} is async: give its task timeout_seconds")

        @functools.wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast(R, _answer(functools.partial(body, *args, **kwargs), seconds))

        return run

    return decorate


def _answer(call: Callable[[], object], seconds: float) -> object:
    """Make the call in a new process, which multiprocessing refuses to Dask's daemonic workers."""
    request = pickle.dumps(sys.path) + cloudpickle.dumps(call)
    watched, held = os.pipe()  # held open as long as this process lives
    # A new session, so that everything the body starts can be killed with it.
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", CHILD, str(watched)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[watched],
        start_new_session=True,
    )
    try:
        answer, _ = child.communicate(request, timeout=seconds)
        if not answer:
            raise RuntimeError(f"the process of the task died with exit code {child.returncode}")
    except BaseException as error:
        with suppress(ProcessLookupError):  # a process that died may have left none
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(f"not finished after {seconds} seconds") from None
        raise
    finally:
        os.close(watched)
        os.close(held)
    result, failure = pickle.loads(answer)
    if failure is not None:
        raise _rebuilt(*failure)
    return result


def _rebuilt(pickled: list[bytes], text: str, trace: str) -> Exception:
    """Return the original error, or a RuntimeError with its text if it can't be rebuilt."""
    error: Exception = RuntimeError(text)
    for each in pickled:
        # A class may raise anything when it is rebuilt, or in `str` when a part is missing.
        with suppress(Exception):
            error = _from_parts(pickle.loads(each))
            str(error)
            break
    error.add_note(trace)
    return error


def _from_parts(parts: Any) -> Exception:
    """Rebuild an error without calling its own `__init__`, which may take other arguments."""
    if isinstance(parts, Exception):  # pickled in its own way: it has slots, or is written in C
        return parts
    kind, arguments, *attributes = parts
    built_in: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    error: Exception = built_in.__new__(kind, *arguments)
    built_in.__init__(error, *arguments)
    for each in attributes:
        error.__setstate__(each)
    return error


@task
@ends_after(10)
def read_sensor(name: str) -> str:
    """Read a sensor that answers."""
    return f"{name}: 21 degrees"


@task
@ends_after(1)
def read_broken_sensor(name: str) -> str:
    """Read a sensor that never answers."""
    time.sleep(3600)
    return name


@flow
def read_sensors() -> list[object]:
    """Read both sensors side by side."""
    readings = [read_sensor.submit("roof"), read_broken_sensor.submit("cellar")]
    return [reading.result(raise_on_failure=False) for reading in readings]


def main() -> None:
    """Show that a call that never returns does not hold up the flow."""
    for reading in read_sensors():
        print(repr(reading))


if __name__ == "__main__":
    main()
