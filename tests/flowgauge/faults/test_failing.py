# SPDX-License-Identifier: Apache-2.0
"""Tasks that fail, are slow or lose their result on purpose, on every task runner.

What happened is read from Prefect. Its server learns of a task run up to a second late, so a
single flow run on each task runner has all the faults.
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
from prefect import flow, task, task_engine
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
    """An exception that the test defines."""


@task(retries=2)
def fetch(what: object) -> int:
    """Return the number of the attempt that succeeded."""
    attempt: int = task_run.run_count
    return attempt


@task(retries=2)
async def fetch_async(what: object) -> int:
    """Return the number of the attempt that succeeded."""
    attempt: int = task_run.run_count
    return attempt


@task(persist_result=True, cache_policy=INPUTS)
def store(what: str) -> str:
    """Return the argument, which is stored as the result."""
    return what


@task(persist_result=True, cache_policy=INPUTS)
async def store_async(what: str) -> str:
    """Return the argument, which is stored as the result."""
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
    """A flow run with all faults, and a second one in which stored results could be reused."""

    seed: int
    first: list[Outcome]
    second: list[Outcome]

    def outcomes(self, name: str) -> list[Outcome]:
        """Return the outcomes of the task of this name in the first flow run."""
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
    """Run every task with its fault, then run those that stored results again."""
    # With `INPUTS`, tasks with the same arguments share a result, even across task runners.
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
def test_a_task_fails_as_often_as_requested(course: Course, name: str) -> None:
    """`fail_times(2)` fails the first two attempts of a task run, and Prefect retries them."""
    assert course.history(name).matches("Pending Running Retrying{2} Completed")
    assert course.outcomes(name)[0].value == 3


def test_other_tasks_are_unaffected(course: Course) -> None:
    """A task that no fault names runs as usual."""
    assert course.history("none").matches("Pending Running Completed")


def test_the_error_arrives(course: Course) -> None:
    """A task fails with the test's own exception, even in another process."""
    [outcome] = course.outcomes("for good")
    assert repr(outcome.error) == "ServiceDown('no answer')"
    assert isinstance(outcome.error, ServiceDown)
    assert course.history("for good").matches("Pending Running Retrying{2} Failed")


def test_a_count_over_all_task_runs(course: Course) -> None:
    """With `in_all=True` two attempts fail in total, whichever task runs they belong to."""
    runs = [outcome.run for outcome in course.outcomes("together")]
    assert sum(run_history(run).attempts for run in runs) == len(runs) + 2


def test_the_seed_decides(course: Course) -> None:
    """With a probability, the same attempts fail on every task runner: those the seed chooses."""
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
    """A slowed task runs for at least the requested time in every attempt."""
    history = course.history(name)
    assert history.duration("Running") >= 0.2
    assert history.duration("Retrying") >= 0.2


@pytest.mark.parametrize("name", ["unstored", "unstored, async"])
def test_before_the_result_is_stored(course: Course, name: str) -> None:
    """If storing fails, Prefect rolls the completed task back; the next flow run runs it again."""
    assert course.history(name).matches("Pending Running Completed RolledBack")
    assert course.again(name).matches("Pending Running Completed")


@pytest.mark.parametrize("name", ["damaged", "damaged, async"])
def test_a_damaged_result_is_not_reused(course: Course, name: str) -> None:
    """Prefect treats a damaged result as missing and runs the task again; intact ones are used."""
    assert course.history(name).matches("Pending Running Completed")
    assert course.again(name).matches("Pending Running Completed")
    assert course.again("whole").matches("Pending Running Cached")


def test_a_damaged_result_cannot_be_read(course: Course) -> None:
    """Reading a damaged result raises an error; the flow that ran the task gets none."""
    [outcome] = course.outcomes("damaged, unread")
    assert outcome.error is None
    assert course.history("damaged, unread").matches("Pending Running Completed")
    with get_client(sync_client=True) as client:
        state = client.read_task_run(outcome.run).state
    assert state is not None
    # Prefect does not say what is wrong: it mistakes half of its JSON for the pickle in it.
    with pytest.raises((binascii.Error, pickle.UnpicklingError)):
        state.result(retry_result_failure=False)


@pytest.mark.runners("sequential", "threads", "dask-threads", "dask-processes")
def test_after_completion(faults: Faults, run_tasks: RunTasks) -> None:
    """An error after completion reaches the caller that waits for the task."""
    faults.on("fetch", at="after completion").fail_times(9, ServiceDown("no answer"))
    state, outcomes = run_tasks((fetch, 1))
    # The sequential runner runs tasks where they are submitted, so the flow fails there.
    error = outcomes[0].error if outcomes else state.result(raise_on_failure=False)
    assert repr(error) == "ServiceDown('no answer')"


@pytest.mark.runners("processes")
def test_no_error_after_completion_in_a_pool(unchecked_faults: Faults, run_tasks: RunTasks) -> None:
    """In a process pool, where such an error would never arrive, the fault is refused."""
    unchecked_faults.on("fetch", at="after completion").fail_times(1)
    _, [outcome] = run_tasks((fetch, 1))
    assert outcome.value == 1
    [line] = unchecked_faults.refused()
    assert "hangs forever; use another task runner or another point" in line


def test_the_refusal_in_a_pool_is_still_needed() -> None:
    """Prefect's future stays pending after an error that ends a worker of the process pool.

    The wrapper of the engine in a worker turns every error into `SystemExit`. Once such a future
    is done, the refusal can be removed.
    """
    resolved: Future[Future[bytes]] = Future()
    in_worker: Future[bytes] = Future()
    waited_for = _ChainedFuture(resolved)
    resolved.set_result(in_worker)
    with pytest.raises(SystemExit):
        in_worker.set_exception(SystemExit(1))
    assert not waited_for.done()


def test_a_cached_task_run_reaches_no_fault_point(unchecked_faults: Faults) -> None:
    """A task run whose result is cached reaches no point at which a fault could strike."""
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


def test_a_transaction_stores_when_it_commits(faults: Faults) -> None:
    """A fault before storing strikes a task in a transaction when the transaction commits."""
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


def test_a_damaged_result_with_a_separate_key(faults: Faults, tmp_path: Path) -> None:
    """If keys are stored separately, Prefect trusts them, and reusing a damaged result fails.

    The copy of the result in the process's memory does not hide the damage.
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


def test_prefect_is_restored_after_the_test(tmp_path: Path) -> None:
    """In pytest's own process the engines are patched only during a test, and then restored."""

    def methods() -> list[Any]:
        engines = (SyncTaskRunEngine, AsyncTaskRunEngine)
        names = ("start", "transaction_context", "call_task_fn", "handle_success", "call_hooks")
        generators = [task_engine.run_generator_task_sync, task_engine.run_generator_task_async]
        return [*generators, *(getattr(engine, name) for engine in engines for name in names)]

    stock = methods()
    with hooks(FaultProcess(tmp_path, expendable=False)):
        assert not set(stock) & set(methods())
    assert methods() == stock
