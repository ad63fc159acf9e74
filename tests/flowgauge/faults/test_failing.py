# SPDX-License-Identifier: Apache-2.0
"""Tasks that fail, are slow or lose their result on purpose, on every task runner.

What happened is read from Prefect. Its server knows of a task run up to a second late, so one
flow run on each runner has all the faults.
"""

from __future__ import annotations

import binascii
import pickle
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.runtime import task_run
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from prefect.task_runners import _ChainedFuture
from prefect.transactions import Transaction, transaction

from flowgauge.faults import InjectedFault
from flowgauge.faults.engine import hooks
from flowgauge.faults.faults import Faults
from flowgauge.faults.plan import FAULT_POINTS, FailSometimes, Fault, FaultPoint
from flowgauge.faults.process import FaultProcess
from flowgauge.observe.history import History, run_history
from tests.flowgauge.faults.conftest import Outcome, RunTasks, unchecked


class ServiceDown(Exception):
    """An error of one's own."""


@task(retries=2)
def fetch(what: object) -> int:
    """Return which attempt succeeded."""
    attempt: int = task_run.run_count
    return attempt


@task(retries=2)
async def fetch_async(what: object) -> int:
    """Return which attempt succeeded."""
    attempt: int = task_run.run_count
    return attempt


@task(persist_result=True, cache_policy=INPUTS)
def store(what: str) -> str:
    """Return what it got, and store it."""
    return what


@task(persist_result=True, cache_policy=INPUTS)
async def store_async(what: str) -> str:
    """Return what it got, and store it."""
    return what


@task(retries=2)
def count_up(number: int) -> Iterator[int]:
    """Yield numbers."""
    yield from range(number)


CHANCES = 4
TASKS = {
    name: like.with_options(name=name)
    for like, names in (
        (fetch, ["twice", "for good", "together", "chance", "late", "slow", "none"]),
        (fetch_async, ["twice, async", "late, async", "slow, async"]),
        (store, ["unstored", "damaged", "whole"]),
        (store_async, ["unstored, async", "damaged, async", "damaged, unread"]),
    )
    for name in names
}


@dataclass(frozen=True)
class Course:
    """A flow run with all faults, and one more in which stored results could be reused."""

    seed: int
    first: list[Outcome]
    second: list[Outcome]

    def outcomes(self, name: str) -> list[Outcome]:
        """Return what came of the task of this name in the first flow run."""
        return [outcome for outcome in self.first if outcome.task == name]

    def history(self, name: str) -> History:
        """Return the states of the only run of a task in the first flow run."""
        [outcome] = self.outcomes(name)
        return run_history(outcome.run)

    def again(self, name: str) -> History:
        """Return the states of a task in the second flow run."""
        [outcome] = [outcome for outcome in self.second if outcome.task == name]
        return run_history(outcome.run)


@pytest.fixture(scope="module")
def course(
    prefect_server: str, pytestconfig: pytest.Config, run_tasks: RunTasks, runner_name: str
) -> Course:
    """Run every task with its fault."""
    # `INPUTS` holds tasks with the same arguments for the same; other runners store results, too.
    with unchecked(pytestconfig, prefect_server) as faults:
        faults.on("twice*").fail_times(2, ServiceDown("no answer"))
        faults.on("for good").fail_times(3, ServiceDown("no answer"))
        faults.on("together").fail_times(2, in_all=True)
        faults.on("chance").fail_with_probability(0.5)
        faults.on("late*", at="after the effect").fail_times(1)
        faults.on("slow*").slow(0.2)
        faults.on("slow*").fail_times(1)
        faults.on("unstored*", at="before the result is stored").fail_times(1)
        faults.on("damaged*").corrupt_result()
        calls: list[tuple[Any, int | str]] = [
            (a_task, f"{runner_name}, {name}")
            for name, a_task in TASKS.items()
            if name not in ("together", "chance")
        ]
        calls += [(TASKS["together"], number) for number in range(2)]
        calls += [(TASKS["chance"], number) for number in range(CHANCES)]
        _, first = run_tasks(*calls)
        assert faults.unmet() == faults.refused() == []
    reused = ("unstored", "unstored, async", "damaged", "damaged, async", "whole")
    _, second = run_tasks(*((TASKS[name], f"{runner_name}, {name}") for name in reused))
    return Course(faults.seed, first, second)


@pytest.mark.parametrize("name", ["twice", "twice, async"])
def test_a_task_fails_as_often_as_was_asked(course: Course, name: str) -> None:
    """`fail_times(2)` fails the first two attempts of a task run, and Prefect retries them."""
    assert course.history(name).matches("Pending Running Retrying{2} Completed")
    assert course.outcomes(name)[0].value == 3


def test_other_tasks_are_left_alone(course: Course) -> None:
    """A task that no fault names runs as ever."""
    assert course.history("none").matches("Pending Running Completed")


def test_the_error_arrives(course: Course) -> None:
    """What a task fails with is the test's own exception, also from another process."""
    [outcome] = course.outcomes("for good")
    assert repr(outcome.error) == "ServiceDown('no answer')"
    assert isinstance(outcome.error, ServiceDown)
    assert course.history("for good").matches("Pending Running Retrying{2} Failed")


def test_a_count_over_all_task_runs(course: Course) -> None:
    """With `in_all=True` two attempts fail, whichever task runs they belong to."""
    runs = [outcome.run for outcome in course.outcomes("together")]
    assert sum(run_history(run).attempts for run in runs) == len(runs) + 2


def test_the_seed_decides(course: Course) -> None:
    """With a probability, the same attempts fail on every runner: those that the seed chooses."""
    wanted = Fault(3, "chance", "before the body", FailSometimes(b"", 0.5), "")
    for number, outcome in enumerate(course.outcomes("chance")):
        subject = f"chance({{'what': {number}}}) #0"
        strikes = [wanted.strikes(course.seed, subject, attempt, 0) for attempt in (1, 2, 3)]
        retries = [*strikes[:2], False].index(False)
        end = "Failed" if all(strikes) else "Completed"
        assert run_history(outcome.run).matches(f"Pending Running Retrying{{{retries}}} {end}")


@pytest.mark.parametrize("name", ["late", "late, async"])
def test_after_the_effect(course: Course, name: str) -> None:
    """A fault after the effect fails an attempt whose body has run."""
    assert course.history(name).matches("Pending Running Retrying Completed")


@pytest.mark.parametrize("name", ["slow", "slow, async"])
def test_slow(course: Course, name: str) -> None:
    """A slow task is Running for as long as was asked, in every attempt."""
    history = course.history(name)
    assert history.duration("Running") >= 0.2
    assert history.duration("Retrying") >= 0.2


@pytest.mark.parametrize("name", ["unstored", "unstored, async"])
def test_before_the_result_is_stored(course: Course, name: str) -> None:
    """Where storing fails, Prefect rolls a completed task back; the next flow run finds nothing."""
    assert course.history(name).matches("Pending Running Completed RolledBack")
    assert course.again(name).matches("Pending Running Completed")


@pytest.mark.parametrize("name", ["damaged", "damaged, async"])
def test_a_damaged_result_is_no_cache(course: Course, name: str) -> None:
    """Prefect holds a damaged result for a missing one, and runs the task again."""
    assert course.history(name).matches("Pending Running Completed")
    assert course.again(name).matches("Pending Running Completed")
    assert course.again("whole").matches("Pending Running Cached")


def test_a_damaged_result_cannot_be_read(course: Course) -> None:
    """Whoever reads a damaged result gets an error; who had it before keeps it."""
    [outcome] = course.outcomes("damaged, unread")
    assert outcome.error is None
    assert course.history("damaged, unread").matches("Pending Running Completed")
    with get_client(sync_client=True) as client:
        state = client.read_task_run(outcome.run).state
    assert state is not None
    # Prefect does not say what is wrong: it takes the half of its JSON for the pickle in it.
    with pytest.raises((binascii.Error, pickle.UnpicklingError)):
        state.result(retry_result_failure=False)


@pytest.mark.runners("sequential", "threads", "dask-threads", "dask-processes")
def test_after_completion(faults: Faults, run_tasks: RunTasks) -> None:
    """An error after completion reaches who waits for the task; nothing is retried."""
    faults.on("fetch", at="after completion").fail_times(9, ServiceDown("no answer"))
    state, outcomes = run_tasks((fetch, 1))
    # The sequential runner runs tasks where they are submitted, so the flow fails there.
    error = outcomes[0].error if outcomes else state.result(raise_on_failure=False)
    assert repr(error) == "ServiceDown('no answer')"


@pytest.mark.runners("processes")
def test_no_error_after_completion_in_a_pool(unchecked_faults: Faults, run_tasks: RunTasks) -> None:
    """In a process pool, where such an error would never be heard of, the fault is refused."""
    unchecked_faults.on("fetch", at="after completion").fail_times(1)
    _, [outcome] = run_tasks((fetch, 1))
    assert outcome.value == 1
    [line] = unchecked_faults.refused()
    assert "hangs forever; use another task runner or another point" in line


def test_the_refusal_in_a_pool_is_still_needed() -> None:
    """Prefect's pool never hears of an error that ends a worker; once it does, the refusal can go.

    The wrapper of the engine in a worker turns every error into `SystemExit`.
    """
    resolved: Future[Future[bytes]] = Future()
    in_worker: Future[bytes] = Future()
    waited_for = _ChainedFuture(resolved)
    resolved.set_result(in_worker)
    with pytest.raises(SystemExit):
        in_worker.set_exception(SystemExit(1))
    assert not waited_for.done()


def test_a_cached_result_has_no_body(unchecked_faults: Faults) -> None:
    """A run that finds its result in the cache gets to no point at which it could fail."""
    assert store("once") == "once"
    for point in FAULT_POINTS:
        unchecked_faults.on("store", at=point).fail_times(1)
    state = store("once", return_state=True)
    assert state.name == "Cached"
    assert len(unchecked_faults.unmet()) == len(FAULT_POINTS)


@pytest.mark.parametrize("point", ["before the body", "after the effect"])
def test_generators(faults: Faults, point: FaultPoint) -> None:
    """A generator task fails like any other."""
    faults.on("count_up", at=point).fail_times(3)
    with pytest.raises(InjectedFault):
        list(count_up(2))


def test_a_transaction_around_the_task_stores(faults: Faults) -> None:
    """A task in a transaction gets to the point of storing when the transaction commits."""
    rolled_back = []
    faults.on("store_later", at="before the result is stored").fail_times(1)

    @task(persist_result=True)
    def store_later() -> None:
        """Store a result."""

    @store_later.on_rollback
    def note(transaction: Transaction) -> None:
        rolled_back.append("store_later")

    @flow
    def commit_later() -> bool:
        with transaction():
            store_later()
            return not rolled_back

    assert commit_later()
    assert rolled_back == ["store_later"]


def test_a_damaged_result_with_its_key_apart(faults: Faults, tmp_path: Path) -> None:
    """Where keys are stored apart Prefect trusts them, and a task whose result is damaged fails.

    The copy that the process has in memory does not hide the damage.
    """
    faults.on("store_apart").corrupt_result()

    @task(persist_result=True, cache_policy=INPUTS.configure(key_storage=tmp_path))
    def store_apart(what: str) -> str:
        return what

    @flow
    def store_twice() -> list[str | None]:
        states = [store_apart("whole", return_state=True) for _ in range(2)]
        return [state.name for state in states]

    assert store_twice() == ["Completed", "Failed"]


def test_without_the_fixture_prefect_is_stock(tmp_path: Path) -> None:
    """The engines of pytest's own process are Prefect's again at the end of the test."""

    def methods() -> list[Any]:
        engines = (SyncTaskRunEngine, AsyncTaskRunEngine)
        names = ("start", "transaction_context", "handle_success", "call_hooks")
        return [getattr(engine, name) for engine in engines for name in names]

    stock = methods()
    with hooks(FaultProcess(tmp_path, expendable=False)):
        assert not set(stock) & set(methods())
    assert methods() == stock
