# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/transactions/saga.py`."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.transactions import transaction

from patterns.transactions.saga import TRIP, Journal, Step, Undone, book_trip, main, run_saga
from tests.patterns.transactions.killed import kill_at_points

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "transactions/saga"
KEYS = ("trip/0 book hotel", "trip/1 book flight", "trip/2 charge_card")


class Services:
    """Services that note each call, and refuse some."""

    def __init__(self, folder: Path, length: int) -> None:
        """Begin without any bookings.

        Args:
            folder: Where the journal is.
            length: How many services there are.
        """
        self.folder, self.calls = folder, list[str]()
        self.booked: set[str] = set()
        self.refused: dict[str, int] = {}
        self.keys: set[str] = set()
        self.steps = [self.step(f"do {number}", f"undo {number}") for number in range(length)]

    def step(self, do: str, undo: str, retries: int = 0) -> Step:
        """Return a step of a saga."""

        def book(key: str) -> None:
            self.note(do, key)
            self.booked.add(key)

        def cancel(key: str) -> None:
            self.note(undo, key)
            self.booked.discard(key)

        options: Any = {"cache_policy": NO_CACHE}
        return Step(
            task(name=do, **options)(book), task(name=undo, retries=retries, **options)(cancel)
        )

    def note(self, call: str, key: str) -> None:
        """Note a call, and refuse it if a test says so."""
        self.calls.append(call)
        self.keys.add(key)
        if self.refused.get(call, 0) > 0:
            self.refused[call] -= 1
            raise ConnectionError(f"{call} is refused")

    def run(self, saga: str = "trip") -> Any:
        """Run the saga, and return the error or None."""

        @flow
        def book_all() -> None:
            run_saga(self.folder / "journal", saga, self.steps)

        self.calls.clear()
        state: Any = book_all(return_state=True)
        return state.result(raise_on_failure=False)


def booked(folder: Path, table: str = "booked") -> list[str]:
    """Return the keys of what is booked in the folder's services."""
    with closing(sqlite3.connect(folder / "services.db")) as db:
        return [key for (key,) in db.execute(f"SELECT key FROM {table} ORDER BY rowid")]


@pytest.mark.guarantee(NAME, "order")
@pytest.mark.guarantee(NAME, "finished")
@settings(max_examples=2)
@given(length=st.integers(1, 4), fails=st.integers(0, 4))
@example(length=3, fails=1)
def test_a_failed_step_and_those_before_it_are_undone_the_last_first(
    tmp_path_factory: pytest.TempPathFactory, length: int, fails: int
) -> None:
    """With a failing step all begun ones are undone in reverse; a later run calls no service."""
    services = Services(tmp_path_factory.mktemp("saga"), length)
    services.refused = {f"do {fails}": 1}
    error = services.run()
    done = [f"do {number}" for number in range(min(fails + 1, length))]
    if fails >= length:
        assert (error, services.calls, len(services.booked)) == (None, done, length)
    else:
        undone = [f"undo {number}" for number in reversed(range(fails + 1))]
        assert (services.calls, services.booked) == (done + undone, set())
        assert isinstance(error, Undone)
        assert str(error) == "trip failed, and is undone"
        assert str(error.__cause__) == f"do {fails} is refused"
    again = services.run()
    assert (type(again), services.calls) == (type(error), [])


@pytest.mark.guarantee(NAME, "finished")
def test_another_id_is_another_saga(tmp_path: Path) -> None:
    """A saga that was undone does not keep one with another id from its bookings."""
    services = Services(tmp_path, 2)
    services.refused = {"do 1": 1}
    assert isinstance(services.run("trip 1"), Undone)
    assert services.run("trip 2") is None
    assert services.booked == {"trip 2/0 do 0", "trip 2/1 do 1"}


@pytest.mark.guarantee(NAME, "repeated")
def test_a_compensation_is_retried(tmp_path: Path) -> None:
    """A compensation with two retries that fails twice succeeds at its third attempt."""
    services = Services(tmp_path, 0)
    services.steps = [services.step("do", "undo", retries=2), services.step("fail", "undo 1")]
    services.refused = {"fail": 1, "undo": 2}
    assert str(services.run()) == "trip failed, and is undone"
    assert services.calls == ["do", "fail", "undo 1", "undo", "undo", "undo"]
    assert services.booked == set()


@pytest.mark.guarantee(NAME, "stuck")
@pytest.mark.guarantee(NAME, "one-way")
def test_a_stuck_compensation_is_named_and_tried_again_by_later_runs(tmp_path: Path) -> None:
    """The compensations around a stuck one run; the next runs try that one, and no step."""
    services = Services(tmp_path, 4)
    services.refused = {"do 3": 1, "undo 1": 2}
    for expected in (["undo 3", "undo 2", "undo 1", "undo 0"], ["undo 1"]):
        error = services.run()
        assert str(error) == "trip failed, and these are not undone: 1 do 1"
        assert [each for each in services.calls if each.startswith("undo")] == expected
        assert services.booked == {"trip/1 do 1"}
    assert str(services.run()) == "trip failed, and is undone"
    assert (services.calls, services.booked) == (["undo 1"], set())


@pytest.mark.guarantee(NAME, "order")
@pytest.mark.parametrize("persisted", [False, True])
def test_equal_steps_are_told_apart(tmp_path: Path, persisted: bool) -> None:
    """Two steps with the same task have different keys, and both are done and undone."""
    services = Services(tmp_path, 0)
    services.steps = [services.step("do", "undo")] * 2 + [services.step("fail", "undo fail")]
    services.refused = {"fail": 1}
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: persisted}):
        services.run()
    assert services.calls == ["do", "do", "fail", "undo fail", "undo", "undo"]
    assert services.keys == {"trip/0 do", "trip/1 do", "trip/2 fail"}


@pytest.mark.guarantee(NAME, "changed")
def test_changed_steps_are_refused(tmp_path: Path) -> None:
    """A saga that was begun with other steps does nothing but raise a ValueError."""
    services = Services(tmp_path, 2)
    services.run()
    services.steps = [services.step("do other", "undo other"), services.steps[1]]
    assert str(services.run()) == "trip has begun other steps: 0 do 0"
    assert services.calls == []


@pytest.mark.guarantee(NAME, "changed")
def test_a_step_is_recorded_before_its_service_is_called(tmp_path: Path) -> None:
    """While a service is called its step has begun, so that a later run with others is refused."""
    services = Services(tmp_path, 1)
    (first,) = services.steps
    states: list[dict[str, str]] = []

    def look(key: str) -> None:
        with closing(sqlite3.connect(tmp_path / "journal")) as db:
            states.append(Journal(db, "trip").states())

    services.steps = [first, Step(task(look), first.undo)]
    assert services.run() is None
    assert states == [{"0 do 0": "done", "1 look": "begun"}]


@pytest.mark.guarantee(NAME, "order")
def test_the_trip_of_the_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trip with the refused card is undone, and the other is booked."""
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}):
        main()
    said = [line for line in capsys.readouterr().out.splitlines() if "trip" in line]
    assert "trip 2 failed, and is undone" in said[0]
    assert said[1:] == [f"trip 1/{number} {what}: Ali" for number, what in enumerate(DONE)]


DONE = ("book hotel", "book flight", "charge_card")
NOTE_CALLS = """
CREATE TABLE booked (key TEXT PRIMARY KEY, name TEXT);
CREATE TABLE calls (key TEXT);
CREATE TRIGGER ins BEFORE INSERT ON booked BEGIN INSERT INTO calls VALUES ('+' || new.key); END;
CREATE TRIGGER del AFTER DELETE ON booked BEGIN INSERT INTO calls VALUES ('-' || old.key); END;
"""


def book_ali(folder: Path) -> None:
    """Book a trip that all services accept."""
    book_trip(folder, "trip", "Ali")


def book_eve(folder: Path) -> None:
    """Book a trip that the bank refuses."""
    book_trip(folder, "trip", "Eve", return_state=True)


def book_ali_again(folder: Path) -> list[Any]:
    """Continue after a kill; return what is booked and was called."""
    name = "Eve" if folder.name.startswith("eve") else "Ali"
    state: Any = book_trip(folder, "trip", name, return_state=True)
    return [state.type.value, booked(folder), booked(folder, "calls")]


book_eve_again = book_ali_again


@pytest.mark.parametrize(
    ("name", "points"),
    [
        # After each step's effect and after each record.
        pytest.param("ali", "after commit", marks=pytest.mark.e2e),
        pytest.param("eve", "", marks=pytest.mark.nightly),
        pytest.param("ali", "", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.guarantee(NAME, "killed")
@pytest.mark.guarantee(NAME, "one-way")
def test_the_next_run_continues_wherever_the_first_was_killed(
    tmp_path: Path, name: str, points: str
) -> None:
    """Killed before any of its writes, the next run books all or undoes all.

    Only the call whose record is missing is made twice.
    """
    (tmp_path / name).mkdir()
    with closing(sqlite3.connect(tmp_path / name / "services.db")) as db:
        db.executescript(NOTE_CALLS)
    outcomes = kill_at_points(f"test_saga:book_{name}", tmp_path / name, named=points)
    twice = set()
    for point, (state, keys, calls) in outcomes.items():
        if name == "ali":
            assert (point, state, keys) == (point, "COMPLETED", list(KEYS))
        else:
            assert (point, state, keys) == (point, "FAILED", [])
        repeated = {call for call in calls if calls.count(call) > 1}
        assert len(calls) <= len(set(calls)) + 1
        twice |= repeated
        removed = [call for call in calls if call.startswith("-")]
        assert name == "ali" or removed == [f"-{KEYS[1]}", f"-{KEYS[0]}"]
    # A compensation that is repeated finds nothing left to remove.
    assert twice == {f"+{key}" for key in (KEYS if name == "ali" else KEYS[:2])}
    assert len(outcomes) >= (9 if points else 30)


@pytest.mark.fact(NAME, "unknown")
def test_results_in_a_transaction_are_stored_when_it_ends(tmp_path: Path) -> None:
    """In the last task of a transaction no result of the first is stored; afterwards it is."""
    stored: list[bool] = []

    @task(persist_result=True, result_storage_key="hotel")
    def book_hotel() -> str:
        return "bed"

    @task(cache_policy=NO_CACHE, persist_result=False)
    def look() -> None:
        stored.append((tmp_path / "hotel").exists())

    @flow
    def book_in_one_transaction() -> None:
        with transaction():
            book_hotel()
            look()
        look()

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        book_in_one_transaction()
    assert stored == [False, True]


@pytest.mark.fact(NAME, "not-retried")
def test_a_rollback_hook_is_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is called once, and the flow's error is not the hook's."""
    calls: list[int] = []

    @task(retries=3)
    def book_hotel() -> None:
        pass

    @book_hotel.on_rollback
    def cancel(txn: Any) -> None:
        calls.append(1)
        raise ConnectionError("no answer")

    @flow
    def book_in_one_transaction() -> None:
        with transaction():
            book_hotel()
            raise PermissionError("the card is refused")

    with pytest.raises(PermissionError):
        book_in_one_transaction()
    assert len(calls) == 1
    assert re.search("encountered while running rollback hook 'cancel'", caplog.text)


@pytest.mark.fact(NAME, "repeated-steps")
def test_a_retried_flow_books_again() -> None:
    """Without a journal, a flow with a retry books the hotel again."""
    calls: list[str] = []

    @task
    def book_hotel() -> None:
        calls.append("hotel")

    @flow(retries=1)
    def book_without_a_journal() -> None:
        book_hotel()
        calls.append("card")
        if calls.count("card") == 1:
            raise ConnectionError

    book_without_a_journal()
    assert calls == ["hotel", "card"] * 2


@pytest.mark.guarantee(NAME, "finished")
def test_a_retry_of_the_flow_does_not_book_again(tmp_path: Path) -> None:
    """A flow that fails after the saga and is retried calls no service again."""
    services = Services(tmp_path, 2)
    attempts: list[int] = []

    @flow(retries=1)
    def book_and_mail() -> None:
        run_saga(tmp_path / "journal", "trip", services.steps)
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("no mail")

    book_and_mail()
    assert services.calls == ["do 0", "do 1"]
    assert len(TRIP) == len(KEYS)
