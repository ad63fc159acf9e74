# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Book with several services, and undo the bookings if one refuses, even after a kill.

Problem:
    No transaction spans a hotel, an airline and a bank. Each step needs a compensation: another
    call that undoes it. Prefect's `on_rollback` hooks are such calls, but they are not retried, and
    if the process is killed, nobody calls them: the next run knows nothing of the hotel.

Guarantees:
    order: if a step fails after its retries, it and the steps before it are undone, the last one
        first, and `Undone` is raised. The failed one too: its answer may have been lost.
    repeated: a compensation that fails is retried as often as its task says.
    stuck: if a compensation fails for good, the others still run, `Undone` names the step, and each
        later run with this id tries it again.
    killed: if the process is killed, the next run with the same id goes on, forwards or backwards.
        Killed before a step: nothing is done twice. Between a step's effect and its record, or a
        compensation's: that call is made twice, with the same key. Nothing is lost.
    one-way: once it is recorded that a step has failed, no later run with this id goes forwards.
    finished: another run with the id of a finished saga calls no service; if it was undone, it
        raises `Undone`, too.
    changed: if the steps have changed since the run that was killed, it is a ValueError.

Prefect:
    unknown (3.8, 3.9): in a transaction, results are stored when all of it ends, so a later run
        does not see which of its tasks were done when the process was killed.
    not-retried (3.8, 3.9): an `on_rollback` hook that raises is not called again, however many
        retries its task has, and the error is only logged.
    repeated-steps (3.8, 3.9): a flow that is retried calls the steps that were done again.

Not for:
    Services that can't recognise a call by its key, nor undo what was never done. A call that
    arrives after its compensation, for instance from a killed process: the service must refuse it.
    Two runs with one id at the same time: give the deployment a concurrency limit. Workers whose
    disk doesn't outlive them: keep the journal in PostgreSQL. Async steps.

Costs:
    Two small writes to the journal for each step, and one more if it is undone.

Sources:
    - https://docs.prefect.io/v3/advanced/transactions
    - Prefect #17864 and PR 14721: hooks of a transaction
    - Garcia-Molina and Salem, "Sagas", 1987
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE


class Step(NamedTuple):
    """A task that calls a service, and one that undoes it; both receive the same key."""

    do: Task[..., None]
    undo: Task[..., None]


class Undone(RuntimeError):
    """A saga failed and was undone; the message names the steps for which that failed, too."""


class Journal:
    """The states of a saga's steps: begun, done, failed, undone or stuck."""

    def __init__(self, db: sqlite3.Connection, saga: str) -> None:
        """Open the journal of one saga.

        Args:
            db: A database that outlives the process.
            saga: The id of the saga.
        """
        self.db, self.saga = db, saga
        db.execute(
            "CREATE TABLE IF NOT EXISTS journal"
            " (saga TEXT, step TEXT, state TEXT, PRIMARY KEY (saga, step))"
        )

    def states(self) -> dict[str, str]:
        """Return the state of each step that was begun."""
        rows = "SELECT step, state FROM journal WHERE saga = ?"
        return dict(self.db.execute(rows, [self.saga]).fetchall())

    def record(self, step: str, state: str) -> None:
        """Record the state of a step before anything else happens."""
        with self.db:
            row = "INSERT OR REPLACE INTO journal VALUES (?, ?, ?)"
            self.db.execute(row, [self.saga, step, state])


def run_saga(journal_file: Path, saga: str, steps: Sequence[Step], *args: Any) -> None:
    """Do all steps, or undo those that were begun; continue if an earlier run was killed.

    Args:
        journal_file: A SQLite file that outlives the process.
        saga: What identifies the work: not the flow run, which is another one after a kill.
        steps: What to do, in this order.
        *args: Passed to each task, after the key.

    Raises:
        Undone: If a step failed, in this run or an earlier one.
        ValueError: If an earlier run began steps that are not, or no longer, in `steps`.
    """
    # Two steps may have the same task. The key must be the same after a kill.
    named = {f"{number} {step.do.name}": step for number, step in enumerate(steps)}
    with closing(sqlite3.connect(journal_file)) as db:
        journal = Journal(db, saga)
        if unknown := journal.states().keys() - named.keys():
            raise ValueError(f"{saga} has begun other steps: {', '.join(sorted(unknown))}")
        error = None
        if not {"failed", "undone", "stuck"} & set(journal.states().values()):
            error = go_forward(journal, named, args)
            if error is None:
                return
        stuck = go_back(journal, named, args)
    if stuck:
        raise Undone(f"{saga} failed, and these are not undone: {', '.join(stuck)}") from error
    raise Undone(f"{saga} failed, and is undone") from error


def go_forward(journal: Journal, steps: dict[str, Step], args: Any) -> Exception | None:
    """Do the steps that are not done; return the error of the one that failed."""
    for name, step in steps.items():
        if journal.states().get(name) == "done":
            continue
        journal.record(name, "begun")
        try:
            step.do(f"{journal.saga}/{name}", *args)
        except Exception as error:
            journal.record(name, "failed")
            return error
        journal.record(name, "done")
    return None


def go_back(journal: Journal, steps: dict[str, Step], args: Any) -> list[str]:
    """Undo the steps that were begun, the last first; return those that could not be undone."""
    states = journal.states()
    for name, step in reversed(steps.items()):
        if states.get(name, "undone") == "undone":
            continue
        try:
            step.undo(f"{journal.saga}/{name}", *args)
        except Exception:  # Prefect has logged it; the others must be undone, too.
            journal.record(name, "stuck")
        else:
            journal.record(name, "undone")
    return [name for name, state in journal.states().items() if state == "stuck"]


def call(services: Path, sql: str, *values: str) -> None:
    """Stand in for a service on the network."""
    with closing(sqlite3.connect(services)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS booked (key TEXT PRIMARY KEY, name TEXT)")
        db.execute(sql, values)


# A cached booking would not be made, and an answer from a cache is no answer of the service.
@task(retries=1, cache_policy=NO_CACHE)
def book(key: str, services: Path, name: str) -> None:
    """Book a seat or a bed; a repeated call with the same key changes nothing."""
    call(services, "INSERT OR IGNORE INTO booked VALUES (?, ?)", key, name)


@task(retries=3, cache_policy=NO_CACHE)
def cancel(key: str, services: Path, name: str) -> None:
    """Cancel a booking; that there is none is no error."""
    call(services, "DELETE FROM booked WHERE key = ?", key)


@task(retries=1, cache_policy=NO_CACHE)
def charge_card(key: str, services: Path, name: str) -> None:
    """Charge the price."""
    if name == "Eve":
        raise PermissionError(f"the bank refuses the card of {name}")
    call(services, "INSERT OR IGNORE INTO booked VALUES (?, ?)", key, name)


TRIP = [
    Step(book.with_options(name="book hotel"), cancel.with_options(name="cancel hotel")),
    Step(book.with_options(name="book flight"), cancel.with_options(name="cancel flight")),
    Step(charge_card, cancel.with_options(name="refund")),
]


@flow
def book_trip(folder: Path, trip: str, name: str) -> None:
    """Book all parts of a trip, or none."""
    run_saga(folder / "journal.db", trip, TRIP, folder / "services.db", name)


def main() -> None:
    """Book two trips, one of which the bank refuses, and print what is booked then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book_trip(folder, "trip 1", "Ali")
        print(book_trip(folder, "trip 2", "Eve", return_state=True).message)
        with closing(sqlite3.connect(folder / "services.db")) as db:
            for key, name in db.execute("SELECT key, name FROM booked ORDER BY key"):
                print(f"{key}: {name}")


if __name__ == "__main__":
    main()
