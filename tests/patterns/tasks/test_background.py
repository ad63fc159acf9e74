# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/background.py`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound, SerializationError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.states import AwaitingRetry, Cancelled, Completed, Pending, Running
from prefect.task_worker import TaskWorker, serve
from prefect.types._datetime import now

from flowgauge import VirtualClock
from flowgauge.runners.process_pool import preloaded_context
from flowgauge.server.isolation import forget_user_settings
from flowgauge.waiting import patience, wait_until
from patterns.deployments.self_hosted_server import free_port
from patterns.deployments.self_hosted_server import prefect_server as run_prefect_server
from patterns.tasks import background as pattern
from patterns.tasks.background import alone, answer, make_invoice, resubmit_lost, submit

NAME = "tasks/background"
NOW = timedelta()


@pytest.fixture(autouse=True)
def invoices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the invoices in a folder of the test, and return it."""
    monkeypatch.setattr(pattern, "INVOICES", tmp_path / "invoices")
    return tmp_path / "invoices"


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Yield a client of the server."""
    with get_client(sync_client=True) as client:
        yield client


def submitted(order: str | None = None, what: Any = make_invoice) -> UUID:
    """Submit the invoice of an order under a new key, and return the id of the run."""
    key = str(uuid4())
    return asyncio.run(submit(key, what, order or key, cents=1990))


def answered(run_id: UUID, seconds: float = 0) -> Any:
    """Return the result of a run."""
    return asyncio.run(answer(run_id, seconds or patience()))


def execute(run: TaskRun, what: Any = make_invoice) -> None:
    """Execute a run, in the state in which it was read, as a worker does that it was sent to."""

    async def in_worker() -> None:
        await TaskWorker(what).execute_task_run(run.model_copy(deep=True))

    asyncio.run(in_worker())


def names(client: SyncPrefectClient, run_id: UUID) -> list[str]:
    """Return the names of the states of a run so far."""
    states = client.read_task_run_states(run_id)
    return [str(each.name) for each in sorted(states, key=lambda each: each.timestamp)]


def name(client: SyncPrefectClient, run_id: UUID) -> str | None:
    """Return the name of the state of a run."""
    return client.read_task_run(run_id).state_name


@pytest.mark.guarantee(NAME, "handed")
@pytest.mark.guarantee(NAME, "key")
def test_a_key_stands_for_one_run(client: SyncPrefectClient) -> None:
    """Equal submissions, also at once, return one run, which waits; another key has another one.

    With other arguments a key is refused, even when its run has ended.
    """
    key = str(uuid4())

    async def click_often() -> list[UUID]:
        return await asyncio.gather(*(submit(key, make_invoice, "17", 1990) for _ in range(4)))

    (run_id,) = set(asyncio.run(click_often()))
    assert names(client, run_id) == ["Scheduled"]
    assert asyncio.run(submit(key, make_invoice, cents=1990, order="17")) == run_id
    assert submitted("17") != run_id
    execute(client.read_task_run(run_id))
    assert Path(answered(run_id)).read_text() == "17: 19.90 EUR\n"
    assert asyncio.run(submit(key, make_invoice, "17", 1990)) == run_id
    with pytest.raises(
        ValueError, match=f"^'{key}' was submitted with other arguments, as run {run_id}$"
    ):
        asyncio.run(submit(key, make_invoice, "17", 1991))


@pytest.mark.guarantee(NAME, "key")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"order": threading.Lock(), "cents": 1}, "pickle"),
        ({"order": "17"}, "missing a required argument: 'cents'"),
        ({"order": "17", "cents": 1, "euros": 1}, "unexpected keyword argument 'euros'"),
    ],
    ids=["lock", "missing", "unknown"],
)
def test_arguments_that_can_not_be_handed_over_leave_the_key_unused(
    client: SyncPrefectClient, arguments: dict[str, Any], told: str
) -> None:
    """What can't be pickled, or doesn't fit, is an error of `submit`; the key stays unused."""
    key = f"order {told} é/\n"
    with pytest.raises((TypeError, SerializationError), match=told):
        asyncio.run(submit(key, make_invoice, **arguments))
    run_id = asyncio.run(submit(key, make_invoice, "17", cents=1))
    assert names(client, run_id) == ["Scheduled"]


@pytest.mark.guarantee(NAME, "answer")
@pytest.mark.usefixtures("virtual_clock")
def test_an_answer_is_the_result_or_the_error_or_late(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> None:
    """A run that waits is a TimeoutError, one that failed raises its error after its retries.

    The answer to one that fails once is that of its retry, 1 second later.
    """
    tries: list[str] = []

    def flaky(order: str, cents: int) -> str:
        tries.append(order)
        if order == "bad" or len(tries) == 1:
            raise ConnectionError("the printer is off")
        return order

    monkeypatch.setattr(pattern, "typeset", flaky)
    run_id = submitted("17")
    with pytest.raises(TimeoutError, match=f"^run {run_id} is Scheduled after 0.1 seconds$"):
        answered(run_id, 0.1)
    execute(client.read_task_run(run_id))
    assert (Path(answered(run_id)).read_text(), tries) == ("17", ["17"] * 2)
    states = ["Scheduled", "Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
    wait_until(lambda: names(client, run_id) == states, "the states")
    run_id = submitted("bad")
    execute(client.read_task_run(run_id))
    with pytest.raises(ConnectionError, match="the printer is off"):
        answered(run_id)
    assert tries[2:] == ["bad"] * 3
    with pytest.raises(ObjectNotFound):
        answered(uuid4())


@pytest.mark.guarantee(NAME, "lost")
@pytest.mark.guarantee(NAME, "bounded")
def test_a_run_that_is_lost_in_each_attempt_crashes_in_the_end(client: SyncPrefectClient) -> None:
    """A run is submitted again as often as it may be started, with its parameters; then it crashes.

    Each time it waits for its worker, and `Pending` counts as lost, too. A run that was started
    more often than it now may be crashes as well.
    """
    run_id = submitted("17")
    for attempt in range(3):
        client.set_task_run_state(run_id, Pending(), force=True)
        if attempt:
            client.set_task_run_state(run_id, Running(), force=True)
        assert resubmit_lost(make_invoice, NOW, attempts=3)[run_id] == "Scheduled"
    details = [each.state_details for each in client.read_task_run_states(run_id)]
    waiting = [each for each in details if each.deferred]
    assert len(waiting) == 4
    assert len({each.task_parameters_id for each in waiting}) == 1
    client.set_task_run_state(run_id, Running(), force=True)
    assert resubmit_lost(make_invoice, NOW, attempts=3)[run_id] == "Crashed"
    assert run_id not in resubmit_lost(make_invoice, NOW, attempts=3)
    assert name(client, run_id) == "Crashed"
    run_id = submitted("18")
    for _ in range(3):
        client.set_task_run_state(run_id, Running(), force=True)
    assert resubmit_lost(make_invoice, NOW, attempts=2)[run_id] == "Crashed"


@pytest.mark.guarantee(NAME, "lost")
@pytest.mark.guarantee(NAME, "once")
def test_a_run_that_was_submitted_again_is_executed_with_its_parameters(
    client: SyncPrefectClient,
) -> None:
    """A run that was lost is executed under its id by the next worker that gets it."""
    run_id = submitted("17")
    client.set_task_run_state(run_id, Running(), force=True)
    assert resubmit_lost(make_invoice, NOW)[run_id] == "Scheduled"
    execute(client.read_task_run(run_id))
    assert Path(answered(run_id)).read_text() == "17: 19.90 EUR\n"


@pytest.mark.guarantee(NAME, "alive")
def test_what_is_not_lost_is_left_alone(client: SyncPrefectClient) -> None:
    """A run that is executed, waits for its retry, has ended, is young or no such run stays."""

    @task
    def make_another(order: str, cents: int) -> str:
        return order

    executed, young, other = submitted(), submitted(), submitted(what=make_another)
    called = client.create_task_run(make_invoice, None, str(uuid4()), state=Running()).id
    retried = submitted()
    later: State[Any] = AwaitingRetry(scheduled_time=now("UTC") + timedelta(hours=1))
    client.set_task_run_state(retried, later, force=True)
    ended = [submitted() for _ in range(2)]
    for run_id in (executed, young, other):
        client.set_task_run_state(run_id, Running(), force=True)
    final: tuple[State[Any], ...] = (Completed(), Cancelled())
    for run_id, state in zip(ended, final, strict=True):
        client.set_task_run_state(run_id, state, force=True)
    everything = {executed, young, other, called, retried, *ended}
    assert everything.isdisjoint(resubmit_lost(make_invoice, timedelta(hours=1)))
    with alone(executed), alone(young):
        assert everything.isdisjoint(resubmit_lost(make_invoice, NOW))
    assert [name(client, each) for each in (executed, young, other, called, retried, *ended)] == [
        *["Running"] * 4,
        "AwaitingRetry",
        "Completed",
        "Cancelled",
    ]
    changed = resubmit_lost(make_invoice, NOW)
    assert everything & set(changed) == {executed, young}


@pytest.mark.guarantee(NAME, "alive")
@pytest.mark.usefixtures("client")
def test_a_run_that_waits_is_submitted_again_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that waits is submitted again after an hour, and then after two and four hours."""
    hour = timedelta(hours=1)

    def is_lost_after(hours: float) -> bool:
        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + hours * hour

        monkeypatch.setattr(pattern, "datetime", Later)
        return run_id in resubmit_lost(make_invoice, hour)

    run_id = submitted()
    waits = (0, 1.1, 1.1, 2.1, 2.1, 3.1, 4.1)
    assert [is_lost_after(hours) for hours in waits] == [False, True] * 2 + [False, False, True]


@pytest.mark.guarantee(NAME, "bounded")
def test_no_attempt_is_refused() -> None:
    """Less than one attempt is a ValueError."""
    with pytest.raises(ValueError, match="attempts=0: a run has to be started at least once"):
        resubmit_lost(make_invoice, attempts=0)


@pytest.mark.guarantee(NAME, "once")
def test_a_run_that_is_executed_twice_makes_one_invoice(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, invoices: Path
) -> None:
    """Two workers that get a run at once, and one that gets it afterwards, make one invoice."""
    begun, second_came = threading.Event(), threading.Event()
    made: list[str] = []
    lock = fcntl.flock

    def slow(order: str, cents: int) -> str:
        made.append(order)
        if begun.is_set():
            second_came.set()
        begun.set()
        assert second_came.wait(patience())
        return order

    def traced(file: Any, operation: int) -> None:
        if begun.is_set() and str(run_id) in str(getattr(file, "name", "")):
            second_came.set()
        lock(file, operation)

    monkeypatch.setattr(pattern, "typeset", slow)
    monkeypatch.setattr(fcntl, "flock", traced)
    run_id = submitted("17")
    run = client.read_task_run(run_id)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(copy_context().run, execute, run)
        assert begun.wait(patience())
        second = pool.submit(copy_context().run, execute, run)
        for each in (first, second):
            each.result()
    execute(run)
    assert Path(answered(run_id)).read_text() == "17"
    assert made == ["17"]
    assert [each.name for each in invoices.glob("*.txt")] == [f"{run_id}.txt"]


def test_without_a_server_in_common_the_demo_says_so() -> None:
    """Without the address of a server, which each process would start for itself, it ends at once.

    The message is one line.
    """
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(SystemExit, match=r"^PREFECT_API_URL is not set: .*\Z"),
    ):
        pattern.main()


@pytest.mark.fact(NAME, "delayed-twice")
@pytest.mark.usefixtures("client")
def test_equal_calls_of_delay_are_two_runs() -> None:
    """`delay` makes a new run for each call."""
    runs = {make_invoice.delay("17", 1990).task_run_id for _ in range(2)}
    assert len(runs) == 2


@pytest.mark.fact(NAME, "changed")
def test_the_key_of_a_task_is_a_hash_of_its_code() -> None:
    """Another body or a line above the task changes its key; a change in what it calls doesn't."""

    def key(code: str) -> str:
        module: dict[str, Any] = {"task": task}
        exec(compile(code, "invoices.py", "exec"), module)

        async def asked_for() -> set[str]:
            return TaskWorker(module["make"]).task_keys

        (key,) = asyncio.run(asked_for())
        assert key == module["make"].task_key
        return key

    code = "@task\ndef make(order):\n    return typeset(order)\n"
    assert key(code) == key(code + "\ndef typeset(order): return order\n")
    assert key(code) != key(code.replace("(order)\n", "(order) + order\n"))
    assert key(code) != key("\n" + code)


@pytest.mark.fact(NAME, "deleted")
def test_a_run_whose_parameters_are_not_found_is_deleted(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    """A worker with another result storage deletes the run."""
    run_id = submitted()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "elsewhere"}):
        execute(client.read_task_run(run_id))
    with pytest.raises(ObjectNotFound):
        client.read_task_run(run_id)


def serve_slowly(api: str, folder: Path, storage: Path) -> None:
    """Serve the task in a new process; an invoice `slow...` takes until there is a file `go`."""
    os.environ.update(PREFECT_API_URL=api, PREFECT_LOCAL_STORAGE_PATH=str(storage))
    forget_user_settings()
    pattern.INVOICES = folder / "invoices"

    def typeset(order: str, cents: int) -> str:
        with (folder / "begun.txt").open("a") as lines:
            lines.write(f"{order}\n")
        if order.startswith("slow"):
            wait_until((folder / "go").exists, "the file `go`")
        return order

    pattern.typeset = typeset
    serve(make_invoice, limit=2)


def begun(folder: Path) -> list[str]:
    """Return the orders whose invoices were begun."""
    file = folder / "begun.txt"
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Yield a function that starts a process that serves the task; it is killed after the test."""
    processes: list[Any] = []

    def start(api: str) -> Any:
        storage = PREFECT_LOCAL_STORAGE_PATH.value()
        process = preloaded_context().Process(target=serve_slowly, args=(api, tmp_path, storage))
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "handed")
@pytest.mark.guarantee(NAME, "answer")
@pytest.mark.guarantee(NAME, "lost")
@pytest.mark.guarantee(NAME, "alive")
@pytest.mark.fact(NAME, "left")
def test_what_a_killed_worker_was_doing_is_done_by_another(
    client: SyncPrefectClient, prefect_server: str, tmp_path: Path, worker: Callable[[str], Any]
) -> None:
    """What a killed worker was doing stays Running, until it is submitted again.

    Then another worker does it, and while it does, it is not submitted again.
    """
    # Other tests have left runs that wait: a worker gets these, too.
    orders = [f"{when}-{uuid4()}" for when in ("early", "slow", "late")]
    early, slow = submitted(orders[0]), submitted(orders[1])

    def done() -> list[str]:
        return [order for order in begun(tmp_path) if order in orders]

    first = worker(prefect_server)
    assert Path(answered(early)).read_text() == orders[0]
    wait_until(lambda: name(client, slow) == "Running", "the slow run")
    first.kill()
    first.join()
    worker(prefect_server)
    late = submitted(orders[2])
    assert Path(answered(late)).read_text() == orders[2]
    # A worker begins two runs at once, in whatever order.
    assert (name(client, slow), sorted(done())) == ("Running", sorted(orders))
    assert resubmit_lost(make_invoice, NOW)[slow] == "Scheduled"
    wait_until(lambda: done()[3:] == [orders[1]], "the slow run")
    wait_until(lambda: name(client, slow) == "Running", "the slow run")
    assert slow not in resubmit_lost(make_invoice, NOW)
    (tmp_path / "go").touch()
    assert Path(answered(slow)).read_text() == orders[1]
    assert done()[4:] == []


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "lost")
@pytest.mark.fact(NAME, "forgotten")
def test_what_a_server_forgot_is_submitted_again(
    tmp_path: Path, worker: Callable[[str], Any]
) -> None:
    """A server that restarts forgets a run that waits, until it is submitted again."""
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    with run_prefect_server(home, port=port) as api, temporary_settings({PREFECT_API_URL: api}):
        waiting = submitted("waiting")
    with (
        run_prefect_server(home, port=port) as api,
        temporary_settings({PREFECT_API_URL: api}),
        get_client(sync_client=True) as client,
    ):
        late = submitted("late")
        worker(api)
        assert Path(answered(late)).read_text() == "late"
        assert (name(client, waiting), begun(tmp_path)) == ("Scheduled", ["late"])
        assert resubmit_lost(make_invoice, NOW) == {waiting: "Scheduled"}
        assert Path(answered(waiting)).read_text() == "waiting"
