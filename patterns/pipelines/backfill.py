# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Fill in the days that a daily pipeline has missed, each of them once.

Problem:
    A nightly flow computes "yesterday". A night in which no server or worker ran leaves a hole that
    nobody fills, and a run that starts a day late computes the wrong day. Whoever fills the hole by
    hand writes a day twice, or starts a second backfill while the first still runs. A single "done
    up to" date forgets a failed day as soon as the next one succeeds.

Guarantees:
    cover: the days of a range cover it without a gap or an overlap, in each time zone, also if its
        clocks change: each moment is in the day of its date there. `hours` cover these days.
    due: a run fills partitions that had ended when it was scheduled, and whatever is missing before
        them, so a late run fills what it would have filled in time.
    once: a partition that was filled, even if nothing happened in it, is not filled again: not by
        a repeated run, and not by one at the same time, in this process or in another one. The
        second one waits for the first.
    apart: a partition that fails does not stop the others. The flow fails with the error and the
        name of each, and the next run tries them again, although later ones are done.
    again: with `again=True` the partitions of a range are filled anew, late data with them: their
        rows are replaced.
    killed: if the process is killed at any time, a partition is written and marked as done, or
        neither; the next run fills what is missing.
    bounded: at most `AT_ONCE` partitions are filled at a time by a run.
    range: `since` after `until`, `since` before the first day, an `until` that has not ended, and
        `again` without both are a ValueError, before anything is written.

Prefect:
    no-catch-up (3.8, 3.9): a schedule creates no runs for times that have passed, whatever its
        anchor.
    scheduled (3.8, 3.9): `runtime.flow_run.scheduled_start_time` is the time for which a late run
        was scheduled, and stays so if the flow is retried.
    subflow (3.8, 3.9): a subflow is scheduled when it is called: give it `until`.
    key (3.8, 3.9): an idempotency key such as the date returns the run of the first attempt, even
        if that failed: with it, a failed day is never run again.

Not for:
    Data that is late by rule: let the schedule wait for it, or fill its days again. Other runs that
    write the same rows. More than one machine: `flock` and SQLite need one disk; use a database
    server and its locks. Windows. A partition that hangs: a run that waits for it does, too. Months
    in which clocks go back over midnight, as they did in St John's until 2010. Thousands of missing
    partitions: all are submitted at once, see `task_runners/bounded_fan_out`. A change of the time
    zone: what is done was cut by the old one.

Costs:
    A task run and an empty lock file for each partition that is filled. A run looks at the names of
    all partitions since the first day.

Sources:
    - https://docs.prefect.io/v3/concepts/runtime-context
    - https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/backfill.html
    - https://docs.dagster.io/guides/build/partitions-and-backfills
    - Prefect #1179: a schedule with a start in the past
"""

from __future__ import annotations

import fcntl
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

ZONE = ZoneInfo("Europe/Berlin")
FIRST = date(2026, 1, 1)
AT_ONCE = 4

SCHEMA = """
CREATE TABLE IF NOT EXISTS sales (partition TEXT, product TEXT, cents INTEGER);
CREATE TABLE IF NOT EXISTS done (partition TEXT PRIMARY KEY);
"""


class Partition(NamedTuple):
    """What is filled as a whole: its name, and the moments from `start` to before `end`."""

    name: str
    start: datetime
    end: datetime


def days(since: date, until: date, zone: ZoneInfo) -> Iterator[Partition]:
    """Yield each day from the first to the last; if clocks change, it has 23 or 25 hours."""
    for number in range((until - since).days + 1):
        day = since + timedelta(days=number)
        midnights = [datetime.combine(each, time(), zone) for each in (day, day + timedelta(1))]
        # In UTC: times of one zone are compared as clocks show them, without their changes.
        start, end = [midnight.astimezone(UTC) for midnight in midnights]
        if start < end:  # Samoa skipped a day
            yield Partition(day.isoformat(), start, end)


def hours(since: date, until: date, zone: ZoneInfo) -> Iterator[Partition]:
    """Yield each hour of these days; the offset in its name tells repeated hours apart."""
    for day in days(since, until, zone):
        start = day.start
        while start < day.end:
            end = min(start + timedelta(hours=1), day.end)
            yield Partition(start.astimezone(zone).isoformat(timespec="minutes"), start, end)
            start = end


PARTITIONS = days


def due(since: date, until: date | None, now: datetime) -> list[Partition]:
    """Return the partitions of a range that have ended.

    Args:
        since: The first day.
        until: The last day; if it is None, the last that has ended.
        now: What counts as now.

    Returns:
        The partitions, the oldest first.

    Raises:
        ValueError: If the range is none, or not all of it has ended.
    """
    today = now.astimezone(ZONE).date()
    if since < FIRST:
        raise ValueError(f"since {since}: there is nothing before {FIRST}")
    if since > (until or today):
        raise ValueError(f"since {since} is after {until or today}")
    if until and until >= today:
        raise ValueError(f"until {until}: this day has not ended at {now.astimezone(ZONE)}")
    return [each for each in PARTITIONS(since, until or today, ZONE) if each.end <= now]


@contextmanager
def alone(database: Path, partition: str) -> Iterator[None]:
    """Wait until nobody else fills a partition; the lock ends with the process that holds it."""
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(exist_ok=True)
    with (folder / partition).open("a") as file:  # closed at the end, which unlocks it
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def filled(database: Path) -> set[str]:
    """Return the names of all partitions that are done."""
    with closing(sqlite3.connect(database, timeout=60)) as db:
        db.executescript(SCHEMA)
        return {name for (name,) in db.execute("SELECT partition FROM done")}


def sum_up(database: Path, partition: Partition) -> dict[str, int]:
    """Return the sales of each product; stands in for what takes long."""
    sums: dict[str, int] = {}
    with closing(sqlite3.connect(database, timeout=60)) as db:
        for product, cents in db.execute(
            "SELECT product, cents FROM orders WHERE at >= ? AND at < ?",
            (partition.start.timestamp(), partition.end.timestamp()),
        ):
            sums[product] = sums.get(product, 0) + int(cents)
    return sums


@task(cache_policy=NO_CACHE, task_run_name="fill {partition.name}")
def fill(database: Path, partition: Partition, again: bool = False) -> bool:
    """Write the sales of a partition.

    Args:
        database: Has the orders, and gets the sales.
        partition: Which orders.
        again: Whether to replace what is there.

    Returns:
        Whether it was this call that filled it.
    """
    with alone(database, partition.name):
        if not again and partition.name in filled(database):
            return False
        sums = sum_up(database, partition)
        rows = [(partition.name, product, cents) for product, cents in sums.items()]
        # `with db` ends the transaction: the rows and the mark are written together or not at all.
        with closing(sqlite3.connect(database, timeout=60)) as db, db:
            db.execute("DELETE FROM sales WHERE partition = ?", [partition.name])
            db.executemany("INSERT INTO sales VALUES (?, ?, ?)", rows)
            db.execute("INSERT OR IGNORE INTO done VALUES (?)", [partition.name])
    return True


FEW: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)


@flow(task_runner=FEW)
def backfill(
    database: Path, since: date | None = None, until: date | None = None, again: bool = False
) -> list[str]:
    """Fill the partitions that are missing.

    Args:
        database: Has the orders, and gets the sales.
        since: The first day; if it is None, that of the pipeline.
        until: The last day; if it is None, the last that had ended when this run was scheduled.
        again: Whether to fill what is done, too; then both days must be given.

    Returns:
        The names of the partitions that this run filled.

    Raises:
        ValueError: If the range is none, or not all of it has ended.
        ExceptionGroup: With the errors of the partitions that failed.
    """
    if again and not (since and until):
        raise ValueError("again=True needs since and until: it fills all partitions between them")
    # Not the clock: a late run shall fill what it would have filled in time.
    partitions = due(since or FIRST, until, flow_run.scheduled_start_time)
    done = set() if again else filled(database)
    missing = [each for each in partitions if each.name not in done]
    futures = [fill.submit(database, each, again) for each in missing]
    wait(futures)
    failed: dict[str, Any] = {
        partition.name: future.result(raise_on_failure=False)
        for partition, future in zip(missing, futures, strict=True)
        if not future.state.is_completed()
    }
    for name, error in failed.items():
        error.add_note(f"in partition {name}")
    if failed:
        raise ExceptionGroup(f"failed partitions: {', '.join(failed)}", list(failed.values()))
    return [each.name for each, future in zip(missing, futures, strict=True) if future.result()]


def main() -> None:
    """Fill days of which one fails, then what is missing, then that day with late data."""
    with tempfile.TemporaryDirectory() as name:
        shop = Path(name) / "shop.db"
        since, until = date(2026, 3, 28), date(2026, 3, 31)
        with closing(sqlite3.connect(shop, isolation_level=None)) as db:
            db.execute("CREATE TABLE orders (at REAL, product TEXT, cents)")
            late = datetime(2026, 3, 28, 23, 30, tzinfo=UTC).timestamp()
            db.execute("INSERT INTO orders VALUES (?, 'tea', 'five')", [late])
            print(backfill(shop, since, until, return_state=True).message)
            db.execute("UPDATE orders SET cents = 500")
            print("filled:", backfill(shop, since, until))
            db.execute("INSERT INTO orders SELECT at, 'milk', 90 FROM orders")
            print("again:", backfill(shop, date(2026, 3, 29), date(2026, 3, 29), again=True))
            print(db.execute("SELECT * FROM sales").fetchall())


if __name__ == "__main__":
    main()
