# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Hand work to a background task under a key, and get back what a killed worker has lost.

Problem:
    A web application answers at once and leaves the work to `task.delay()` and a process that
    serves the task. If the user clicks twice, the work is done twice. If that process is killed,
    its runs stay Running for ever; if the server restarts, it forgets the runs that waited. Nobody
    is told, and whoever waits for a result waits in vain.

Guarantees:
    handed: `submit` returns the id of a run without waiting for it, also if nobody serves the task
        yet: the run is executed once somebody does.
    key: a second `submit` with a key returns the run of the first one, also if both come at once;
        with other arguments it is a ValueError. A parameter that can't be pickled, or that the task
        doesn't have, is an error of `submit`, and the key stays unused.
    answer: `answer` returns the result by the id, in any process that shares the result storage, or
        raises the task's error; if the run has not ended in time, a TimeoutError.
    lost: `resubmit_lost` submits a run again, under its id, if its worker was killed during the
        task or if the server forgot it while it waited.
    alive: it leaves alone a run that is being executed, that waits for its retry, that has ended,
        that is younger than `after`, that was called instead of submitted, or is of another task.
    bounded: a run that has been started `attempts` times and is lost again ends as Crashed.
    once: a run that was submitted again although it was not lost makes no second invoice, neither
        afterwards nor at the same time.

Prefect:
    left (3.8, 3.9): a run whose task worker is killed stays Running, also if another one starts.
    forgotten (3.8, 3.9): runs that wait are in the memory of the server: after its restart no
        worker gets them.
    delayed-twice (3.8, 3.9): two equal calls of `delay` are two runs.
    changed (3.8, 3.9): a worker asks for the runs of its task's key, which is a hash of the task's
        code: another function body, or only a line more above it, is another key.
    deleted (3.8, 3.9): parameters are in the result storage. A worker that doesn't find them
        deletes the run.

Not for:
    More than one machine, unless they share a disk with a working `flock`, and the result storage.
    Windows. Effects elsewhere, such as an e-mail: a killed worker may have sent it. A task whose
    code has changed: its waiting runs need a worker with the old code. Trying again what has
    failed: the run keeps its key. A task that hangs: its run is alive. More than a thousand waiting
    runs of a task, which the server's queue can't hold.

Costs:
    An empty lock file for each run. `resubmit_lost` reads the states of each run that has not
    ended; call it every minute or so from one place, such as a scheduled flow.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-background-tasks
    - Prefect #21218: the queue is in the memory of one server process
    - Prefect #18775: a result that is waited for in vain
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from prefect import Task, get_client, tags, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import TaskRunFilter
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import task_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed, Scheduled
from prefect.task_worker import serve
from prefect.utilities.callables import get_call_parameters

INVOICES = Path(os.environ.get("INVOICES") or tempfile.gettempdir()) / "invoices"
"""Where all who submit and serve keep the invoices, and the locks of runs."""
PAUSE = 0.5
"""Seconds between two looks at a run that somebody waits for."""
RUNS = UUID("7c1f5a52-3d0e-4f0c-9d4b-5b8f4a1c2e60")


async def submit(key: str, task: Task[..., Any], /, *args: Any, **kwargs: Any) -> UUID:
    """Submit a run of a task, unless one was submitted under this key.

    Args:
        key: What makes two submissions the same, such as the number of an order.
        task: A task that somebody serves, or will serve.
        *args: Arguments of the task, which are told apart by their `repr`.
        **kwargs: More of them.

    Returns:
        The id of the run.

    Raises:
        ValueError: If the run of this key has other arguments.
        TypeError: If the task has no such parameters.
    """
    parameters = get_call_parameters(task.fn, args, kwargs)
    run_id = uuid5(RUNS, f"{task.name} {key}")
    tag = "arguments:" + sha256(repr(sorted(parameters.items())).encode()).hexdigest()
    async with get_client() as client:
        try:
            run = await client.read_task_run(run_id)
        except ObjectNotFound:
            try:
                with tags(tag):
                    await task.create_run(id=run_id, parameters=parameters, deferred=True)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != 409:  # somebody else was faster
                    raise
            run = await client.read_task_run(run_id)
    if tag not in run.tags:
        raise ValueError(f"{key!r} was submitted with other arguments, as run {run_id}")
    return run_id


async def answer(run_id: UUID, seconds: float) -> Any:
    """Wait for the result of a run.

    Args:
        run_id: The id of the run.
        seconds: How long to wait.

    Returns:
        The result.

    Raises:
        TimeoutError: If the run does not end in time; the message has its state.
    """
    end = time.monotonic() + seconds
    async with get_client() as client:
        # Not by a future: it waits for an event, which it may miss, until its time is over.
        while not (state := (await client.read_task_run(run_id)).state) or not state.is_final():
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"run {run_id} is {state and state.name} after {seconds} seconds"
                )
            await asyncio.sleep(PAUSE)
        return await state.aresult()


def lock_of(run_id: object) -> Path:
    """Return the file that is locked while a run is executed."""
    INVOICES.mkdir(parents=True, exist_ok=True)
    return INVOICES / f"{run_id}.lock"


@contextmanager
def alone(run_id: object) -> Iterator[None]:
    """Wait until no other process executes a run; the lock ends with the process that holds it."""
    with lock_of(run_id).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_executed(run_id: UUID) -> bool:
    """Return whether some process executes a run."""
    with lock_of(run_id).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def resubmit_lost(
    task: Task[..., Any], after: timedelta = timedelta(minutes=1), attempts: int = 3
) -> dict[UUID, str]:
    """Submit runs of a task again that were lost, or let them crash.

    Args:
        task: The task.
        after: How long a run must have been in its state; for one that waits, this is doubled each
            time, because it may still be in the queue. Longer than a worker takes to start a run.
        attempts: How many times a run may be started.

    Returns:
        The name of the new state of each run that was lost.

    Raises:
        ValueError: If `attempts` is below 1.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: a run has to be started at least once")
    changed = {}
    with get_client(sync_client=True) as client:
        for run in unfinished(client, task):
            states = sorted(client.read_task_run_states(run.id), key=lambda each: each.timestamp)
            last, names = states[-1], [each.name for each in states]
            since = max(last.timestamp, last.state_details.scheduled_time or last.timestamp)
            wait = (
                after * 2 ** (names.count("Scheduled") - 1) if last.name == "Scheduled" else after
            )
            submitted = states[0].state_details.deferred  # rather than called
            if not submitted or datetime.now(UTC) - since < wait or is_executed(run.id):
                continue
            state: State[Any] = Crashed(message=f"it was lost {attempts} times")
            if names.count("Running") < attempts:
                state = Scheduled(message=f"it was lost in state {last.name}")
                state.state_details.deferred = True  # this is what puts it into the queue
                state.state_details.task_parameters_id = states[0].state_details.task_parameters_id
            client.set_task_run_state(run.id, state, force=True)
            changed[run.id] = str(state.name)
    return changed


def unfinished(client: SyncPrefectClient, task: Task[..., Any]) -> list[TaskRun]:
    """Return all runs of a task, outside of flows, that have not ended."""
    types = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    criteria = {"state": {"type": {"any_": types}}, "flow_run_id": {"is_null_": True}}
    page, runs = 200, list[TaskRun]()
    while True:
        found = client.read_task_runs(
            task_run_filter=TaskRunFilter.model_validate(criteria), limit=page, offset=len(runs)
        )
        runs += found
        if len(found) < page:
            return [run for run in runs if run.task_key == task.task_key]


def typeset(order: str, cents: int) -> str:
    """Return an invoice; stands in for what takes long."""
    return f"{order}: {cents / 100:.2f} EUR\n"


@task(persist_result=True, retries=2, retry_delay_seconds=[1, 10])
def make_invoice(order: str, cents: int) -> str:
    """Write an invoice, once for each run, and return its file."""
    invoice = INVOICES / f"{task_run.id}.txt"
    with alone(task_run.id):
        if not invoice.exists():
            part = invoice.with_suffix(".part")
            part.write_text(typeset(order, cents))
            os.replace(part, invoice)
    return str(invoice)


async def order_twice() -> None:
    """Submit the same order twice, and print the invoice."""
    first = await submit("order 17", make_invoice, "17", cents=1990)
    print(
        f"run {first}, and for a second click {await submit('order 17', make_invoice, '17', 1990)}"
    )
    print("lost so far:", resubmit_lost(make_invoice))
    print(Path(await answer(first, seconds=60)).read_text(), end="")


def main() -> None:
    """Serve the task if the argument is `serve`; otherwise start a process for it, and use it."""
    if not PREFECT_API_URL.value():
        raise SystemExit("PREFECT_API_URL is not set: `prefect server start` gives an address")
    if sys.argv[1:] == ["serve"]:
        serve(make_invoice, limit=4)
        return
    worker = subprocess.Popen([sys.executable, __file__, "serve"])
    try:
        asyncio.run(order_twice())
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
