# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Write something once, however often the task that writes it is repeated.

Problem:
    A task pays a salary, and its answer is lost: the retry pays again. So does a second run, or
    another process at the same time. A cached result doesn't help: it is stored after the payment,
    and a process that is killed in between has paid without it.

Guarantees:
    once: a salary is paid once, although the task is retried after its answer was lost, called
        again, or run again.
    at-once: the same holds if several tasks pay it at the same time, in one process or in several.
    killed: if the process is killed at any time, a salary is paid and recorded, or neither; the
        next run pays what is missing.
    answer: a repeated call returns what the first one returned.
    other: a call with the key of a payment, but another amount, is a ValueError and pays nothing.
    file: a reader of the report sees the old or the new one, and never a part of it; a process that
        is killed leaves at most a hidden temporary file beside it.

Prefect:
    retried (3.8, 3.9): a task that paid and then failed is retried and pays again.
    run-again (3.8, 3.9): another flow run pays again, even if results are persisted, because the
        default cache key contains the flow run's id.
    race (3.8, 3.9): with `cache_policy=INPUTS` two equal calls at the same time both pay.
    unstored (3.8, 3.9): with `cache_policy=INPUTS`, a run that paid but could not store its result
        is followed by one that pays again.

Not for:
    Effects outside the database with the keys, such as a call to a bank: send the key along, and
    let the bank do this; see `transactions/saga`. A key that may stand for two intended payments:
    it must contain what tells them apart, but nothing of the flow run. More than one machine: use
    a database server instead of SQLite. Power cuts may lose a report, but not a payment.

Costs:
    One more row for each write, which must be kept as long as the write may be repeated.

Sources:
    - https://docs.prefect.io/v3/advanced/transactions
    - https://docs.prefect.io/v3/concepts/caching
    - https://www.sqlite.org/lang_upsert.html
    - Prefect #15503 and #18600: equal calls at the same time
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, cents INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payment (
    name TEXT, month TEXT, cents INTEGER NOT NULL, balance INTEGER, PRIMARY KEY (name, month)
);
"""


def open_bank(bank: Path) -> sqlite3.Connection:
    """Return a connection that waits a minute for other writers."""
    db = sqlite3.connect(bank, timeout=60)
    db.executescript(SCHEMA)
    return db


# The table says what was paid. A cache beside it could only disagree.
@task(retries=2, cache_policy=NO_CACHE)
def pay(bank: Path, name: str, month: str, cents: int) -> int:
    """Pay a salary, once for each person and month.

    Args:
        bank: The database of the accounts, which also has the keys.
        name: Who is paid; with the month, this identifies the payment.
        month: For which month.
        cents: How much.

    Returns:
        What was in the account after this payment.

    Raises:
        ValueError: If another amount was paid for this month.
    """
    # `with db` ends the transaction: the key and the effect are written together or not at all.
    with closing(open_bank(bank)) as db, db:
        key = (name, month)
        # First of all: this takes the lock, so whoever comes second sees the payment.
        inserted = db.execute(
            "INSERT INTO payment (name, month, cents) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (*key, cents),
        )
        if inserted.rowcount:
            db.execute(
                "INSERT INTO account VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET cents = cents + excluded.cents",
                (name, cents),
            )
            db.execute(
                "UPDATE payment SET balance = (SELECT cents FROM account WHERE name = ?)"
                " WHERE name = ? AND month = ?",
                (name, *key),
            )
        paid, balance = db.execute(
            "SELECT cents, balance FROM payment WHERE name = ? AND month = ?", key
        ).fetchone()
    if paid != cents:
        raise ValueError(f"{name} was paid {paid} for {month}, which is not {cents}")
    return int(balance)


def write_file(file: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one."""
    # In the same folder: elsewhere it could be another disk. Another name for each writer.
    fresh = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        with fresh.open("x") as lines:
            lines.write(text)
        os.replace(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


@task(cache_policy=NO_CACHE)
def write_report(bank: Path, month: str, report: Path) -> None:
    """Write who was paid; the same payments give the same report."""
    with closing(open_bank(bank)) as db:
        rows = db.execute("SELECT name, cents FROM payment WHERE month = ? ORDER BY 1", [month])
        write_file(report, "".join(f"{name}: {cents}\n" for name, cents in rows))


@flow
def pay_all(folder: Path, month: str, salaries: dict[str, int]) -> list[int]:
    """Pay the salaries of a month, and report them."""
    bank = folder / "bank.db"
    paid = [pay.submit(bank, name, month, cents) for name, cents in salaries.items()]
    balances = [each.result() for each in paid]
    write_report(bank, month, folder / f"{month}.txt")
    return balances


def main() -> None:
    """Pay the salaries of a month twice, and print the balances and the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(2):
            print("balances:", pay_all(folder, "2026-11", {"Ali": 300_000, "Eve": 320_000}))
        print((folder / "2026-11.txt").read_text(), end="")


if __name__ == "__main__":
    main()
