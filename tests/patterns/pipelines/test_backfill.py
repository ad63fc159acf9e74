# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/backfill.py`."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.schedules import Interval
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Failed, Scheduled
from prefect.task_runners import TaskRunner

from flowgauge.runners.process_pool import preloaded_context
from flowgauge.server.isolation import forget_user_settings
from flowgauge.waiting import patience
from patterns.pipelines import backfill as pattern
from patterns.pipelines.backfill import AT_ONCE, FIRST, ZONE, Partition, backfill, days, fill, hours
from tests.patterns.transactions.killed import kill_at_points

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/backfill"
MARCH = date(2026, 3, 28), date(2026, 3, 30)
DAYS = ["2026-03-28", "2026-03-29", "2026-03-30"]


def shop(folder: Path, *orders: tuple[str, str, object]) -> Path:
    """Return a database with orders: when, what, for how much.

    It logs each row that is written to the sales, and each mark.
    """
    database = folder / "shop.db"
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE TABLE orders (at REAL, product TEXT, cents)")
        db.executescript(pattern.SCHEMA)
        for table in ("sales", "done"):
            db.execute(f"CREATE TABLE log_{table} (partition TEXT)")
            db.execute(
                f"CREATE TRIGGER log_{table} AFTER INSERT ON {table}"
                f" BEGIN INSERT INTO log_{table} VALUES (new.partition); END"
            )
        add(db, *orders)
    return database


def add(db: sqlite3.Connection, *orders: tuple[str, str, object]) -> None:
    """Add orders."""
    rows = [(datetime.fromisoformat(at).timestamp(), *rest) for at, *rest in orders]
    db.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)


def rows(database: Path, query: str) -> list[Any]:
    """Return what is in the database; of a single column, the values."""
    with closing(sqlite3.connect(database)) as db:
        found = db.execute(query).fetchall()
    return [each[0] if len(each) == 1 else each for each in found]


def sales(database: Path) -> list[tuple[str, str, int]]:
    """Return the sales by partition and product."""
    return rows(database, "SELECT * FROM sales ORDER BY 1, 2, 3")


ZONES = sorted(available_timezones())
MICROSECOND = timedelta(microseconds=1)


def local(moment: datetime, zone: str) -> date:
    """Return the date that clocks in a zone show."""
    return moment.astimezone(ZoneInfo(zone)).date()


@pytest.mark.guarantee(NAME, "cover")
@given(
    zone=st.sampled_from(ZONES),
    since=st.dates(date(2012, 1, 1), date(2037, 12, 1)),
    length=st.integers(0, 40),
    share=st.floats(0, 1, exclude_max=True),
)
@example(zone="Europe/Berlin", since=date(2026, 3, 1), length=40, share=0.7)
@example(zone="Europe/Berlin", since=date(2026, 10, 25), length=0, share=0.99)
@example(zone="Africa/Cairo", since=date(2024, 4, 26), length=0, share=0.0)
@example(zone="America/Havana", since=date(2024, 11, 2), length=2, share=0.5)
@example(zone="America/Scoresbysund", since=date(2024, 10, 26), length=1, share=0.99)
@example(zone="Australia/Lord_Howe", since=date(2026, 4, 4), length=2, share=0.5)
@example(zone="Pacific/Apia", since=date(2011, 12, 29), length=2, share=0.5)
@example(zone="UTC", since=date(2028, 2, 28), length=2, share=0.5)
def test_days_cover_a_range_exactly(zone: str, since: date, length: int, share: float) -> None:
    """Each moment of a range is in the partition of its date, and in no other one."""
    until = since + timedelta(days=length)
    partitions = list(days(since, until, ZoneInfo(zone)))
    for before, after in pairwise(partitions):
        assert before.end == after.start
    for name, start, end in partitions:
        assert local(start, zone) == local(end - MICROSECOND, zone) == date.fromisoformat(name)
    first, last = partitions[0].start, partitions[-1].end
    assert local(first - MICROSECOND, zone) < since
    assert local(last, zone) > until
    moment = first + share * (last - first)
    (found,) = [name for name, start, end in partitions if start <= moment < end]
    assert found == local(moment, zone).isoformat()


@pytest.mark.guarantee(NAME, "cover")
@given(zone=st.sampled_from(ZONES), since=st.dates(date(2012, 1, 1), date(2037, 12, 1)))
@example(zone="Europe/Berlin", since=date(2026, 10, 24))
@example(zone="Europe/Berlin", since=date(2026, 3, 28))
@example(zone="Australia/Lord_Howe", since=date(2026, 4, 4))
@example(zone="Asia/Kolkata", since=date(2026, 4, 4))
def test_hours_cover_the_days(zone: str, since: date) -> None:
    """The hours of a range begin and end with its days, and each has a name of its own."""
    until = since + timedelta(days=2)
    of_days = list(days(since, until, ZoneInfo(zone)))
    of_hours = list(hours(since, until, ZoneInfo(zone)))
    for before, after in pairwise(of_hours):
        assert before.end == after.start
    assert {each.start for each in of_days} < {each.start for each in of_hours}
    assert (of_hours[0].start, of_hours[-1].end) == (of_days[0].start, of_days[-1].end)
    assert len({each.name for each in of_hours}) == len(of_hours)
    assert all(datetime.fromisoformat(name) == start for name, start, _ in of_hours)
    assert all(timedelta() < end - start <= timedelta(hours=1) for _, start, end in of_hours)
    assert (
        len(of_hours) - sum((end - start).total_seconds() / 3600 for _, start, end in of_days) < 1
    )


def test_hours_of_a_day_on_which_clocks_change() -> None:
    """A day has 23 hours in spring and 25 in autumn; the repeated hour has two names."""
    spring, autumn = [[each.name for each in hours(day, day, ZONE)] for day in CHANGES]
    assert (len(spring), len(autumn)) == (23, 25)
    assert spring[1:3] == ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"]
    assert autumn[2:4] == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]


CHANGES = date(2026, 3, 29), date(2026, 10, 25)


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.guarantee(NAME, "again")
def test_each_partition_is_filled_once_and_failed_ones_again(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Equal tasks at once and a second run write a partition once, but the failed one again.

    With `again=True` its rows are replaced, late orders with them; other partitions stay.
    """
    database = shop(
        tmp_path,
        ("2026-03-28T22:59:59+00:00", "tea", 5),
        ("2026-03-28T23:00:00+00:00", "tea", "a price"),
        ("2026-03-29T21:59:59.999+00:00", "tea", 70),
    )

    @flow(task_runner=task_runner)
    def fill_twice() -> list[bool]:
        partitions = list(days(*MARCH, ZONE))
        futures = [fill.submit(database, partitions[number]) for number in (0, 0, 2, 2)]
        return [future.result() for future in futures]

    filling = fill_twice()
    assert [sum(filling[:2]), sum(filling[2:])] == [1, 1]
    run: Any = backfill.with_options(task_runner=task_runner)
    state = run(database, *MARCH, return_state=True)
    assert state.is_failed()
    with pytest.raises(ExceptionGroup, match=f"failed partitions: {DAYS[1]}") as caught:
        state.result()
    (error,) = caught.value.exceptions
    assert isinstance(error, ValueError)
    assert "invalid literal for int" in str(error)
    assert error.__notes__ == [f"in partition {DAYS[1]}"]
    assert sales(database) == [(DAYS[0], "tea", 5)]
    assert rows(database, "SELECT * FROM log_done ORDER BY 1") == [DAYS[0], DAYS[2]]

    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE orders SET cents = 60 WHERE cents = 'a price'")
        add(db, ("2026-03-28T12:00:00+01:00", "milk", 90))
    assert [run(database, *MARCH) for _ in range(2)] == [[DAYS[1]], []]
    assert sales(database) == [(DAYS[0], "tea", 5), (DAYS[1], "tea", 130)]
    for _ in range(2):
        assert run(database, MARCH[0], MARCH[0], again=True) == DAYS[:1]
        assert sales(database) == [
            (DAYS[0], "milk", 90),
            (DAYS[0], "tea", 5),
            (DAYS[1], "tea", 130),
        ]
    assert rows(database, "SELECT * FROM log_done ORDER BY 1") == DAYS


@pytest.mark.guarantee(NAME, "apart")
def test_partitions_fail_apart_with_odd_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that takes a keyword only, and a group, do not stop another partition."""

    class OddError(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(code)

    odd: dict[str, BaseException] = {
        DAYS[0]: OddError(code=5),
        DAYS[1]: ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    }
    database = shop(tmp_path, ("2026-03-30T12:00:00+00:00", "tea", 70))
    sum_up = pattern.sum_up

    def broken(file: Path, partition: Partition) -> dict[str, int]:
        if partition.name in odd:
            raise odd[partition.name]
        return sum_up(file, partition)

    monkeypatch.setattr(pattern, "sum_up", broken)
    with pytest.raises(ExceptionGroup, match=", ".join(DAYS[:2])) as caught:
        backfill(database, *MARCH)
    assert [type(each) for each in caught.value.exceptions] == [OddError, ExceptionGroup]
    assert sales(database) == [(DAYS[2], "tea", 70)]


@pytest.mark.guarantee(NAME, "again")
@pytest.mark.guarantee(NAME, "killed")
def test_rows_that_can_not_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    """If the second row of a forced partition is refused, its old rows stay."""
    database = shop(tmp_path, ("2026-03-30T12:00:00+00:00", "tea", 70))
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE UNIQUE INDEX cheap ON sales (cents)")
    backfill(database, *MARCH)
    with closing(sqlite3.connect(database)) as db, db:
        add(db, ("2026-03-30T12:00:00+00:00", "milk", 70))
    with pytest.raises(ExceptionGroup):
        backfill(database, *MARCH, again=True)
    assert sales(database) == [(DAYS[2], "tea", 70)]


@pytest.mark.guarantee(NAME, "once")
def test_a_second_run_waits_for_a_partition_that_is_being_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs at once only one computes the day; the other one ends after it, with nothing."""
    database = shop(tmp_path, ("2026-03-30T12:00:00+00:00", "tea", 70))
    inside, second_came = threading.Event(), threading.Event()
    computed: list[str] = []
    sum_up, lock = pattern.sum_up, fcntl.flock

    def slow(file: Path, partition: Partition) -> dict[str, int]:
        computed.append(partition.name)
        if inside.is_set():
            second_came.set()
        inside.set()
        assert second_came.wait(patience())
        return sum_up(file, partition)

    def traced(file: Any, operation: int) -> None:
        if inside.is_set() and str(getattr(file, "name", "")).endswith(DAYS[2]):
            second_came.set()
        lock(file, operation)

    monkeypatch.setattr(pattern, "sum_up", slow)
    monkeypatch.setattr(fcntl, "flock", traced)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(copy_context().run, backfill, database, MARCH[1], MARCH[1])
        assert inside.wait(patience())
        second = pool.submit(copy_context().run, backfill, database, MARCH[1], MARCH[1])
        assert (first.result(), second.result()) == (DAYS[2:], [])
    assert computed == DAYS[2:]


@pytest.mark.guarantee(NAME, "bounded")
def test_a_few_partitions_are_filled_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as `AT_ONCE` are filled at a time, and never more."""
    database = shop(tmp_path)
    full, lock = threading.Barrier(AT_ONCE, timeout=patience()), threading.Lock()
    now, most = 0, 0

    def slow(file: Path, partition: Partition) -> dict[str, int]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        full.wait()
        with lock:
            now -= 1
        full.wait()
        return {}

    monkeypatch.setattr(pattern, "sum_up", slow)
    assert len(backfill(database, FIRST, FIRST + timedelta(days=3 * AT_ONCE - 1))) == 3 * AT_ONCE
    assert most == AT_ONCE


def scheduled_run(client: SyncPrefectClient, when: datetime, database: Path, **given: Any) -> Any:
    """Return a run of the flow that was scheduled for some time, and has not started."""
    state: Any = Scheduled(scheduled_time=when)
    parameters = {"database": str(database), **given}
    return client.create_flow_run(backfill, parameters=parameters, state=state)


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Yield a client of the server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.mark.guarantee(NAME, "due")
@pytest.mark.parametrize("partitions", [days, hours])
def test_a_late_run_fills_what_had_ended_when_it_was_scheduled(
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    partitions: Callable[..., Iterator[Partition]],
) -> None:
    """A run scheduled for a moment in spring fills what had ended then, gaps included.

    That is the day that ended in that moment, but not the one that did so a second later.
    """
    monkeypatch.setattr(pattern, "FIRST", date(2026, 3, 27))
    monkeypatch.setattr(pattern, "PARTITIONS", partitions)
    database = shop(tmp_path, ("2026-03-30T21:00:00+00:00", "tea", 70))
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT INTO done VALUES (?)", [DAYS[0]])
    midnight = datetime(2026, 3, 30, 22, tzinfo=UTC)  # the one that ends March 30
    too_early = scheduled_run(client, midnight - timedelta(seconds=1), database)
    in_time = scheduled_run(client, midnight, database)
    runs: list[Any] = [run_flow(backfill, flow_run=each) for each in (too_early, in_time)]
    if partitions is days:
        assert runs == [["2026-03-27", DAYS[1]], [DAYS[2]]]
    else:
        assert [len(each) for each in runs] == [24 + 24 + 23 + 23, 1]
        assert runs[1] == ["2026-03-30T23:00+02:00"]


@pytest.mark.guarantee(NAME, "due")
@pytest.mark.fact(NAME, "scheduled")
def test_a_retried_run_keeps_its_scheduled_time(client: SyncPrefectClient) -> None:
    """A late run, its retry, and not the clock: each attempt sees the time it was scheduled for."""
    seen: list[datetime] = []

    @flow(retries=1)
    def note_time() -> None:
        seen.append(flow_run.scheduled_start_time)
        if len(seen) == 1:
            raise ConnectionError("try again")

    when = datetime(2026, 3, 30, 22, 5, tzinfo=UTC)
    run_flow(
        note_time, flow_run=client.create_flow_run(note_time, state=Scheduled(scheduled_time=when))
    )
    assert seen == [when, when]


@pytest.mark.fact(NAME, "subflow")
def test_a_subflow_is_scheduled_when_it_is_called(client: SyncPrefectClient) -> None:
    """A subflow of a late run sees the time at which it was called."""

    @flow
    def child() -> Any:
        return flow_run.scheduled_start_time

    @flow
    def parent() -> Any:
        return child()

    when = datetime(2026, 3, 30, 22, 5, tzinfo=UTC)
    run = client.create_flow_run(parent, state=Scheduled(scheduled_time=when))
    called: Any = run_flow(parent, flow_run=run)
    assert called > datetime(2026, 11, 1, tzinfo=UTC) > when


@pytest.mark.guarantee(NAME, "range")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"since": "2026-03-30", "until": "2026-03-29"}, "since 2026-03-30 is after 2026-03-29"),
        ({"since": "2025-12-31"}, "since 2025-12-31: there is nothing before 2026-01-01"),
        ({"until": "2025-12-31"}, "since 2026-01-01 is after 2025-12-31"),
        (
            {"until": "2026-03-31"},
            "until 2026-03-31: this day has not ended at 2026-03-31 00:00:00",
        ),
        ({"until": "9999-12-31"}, "until 9999-12-31: this day has not ended"),
        ({"since": "2026-04-01"}, "since 2026-04-01 is after 2026-03-31"),
        ({"since": "2026-03-01", "again": True}, "again=True needs since and until"),
        ({"until": "2026-03-01", "again": True}, "again=True needs since and until"),
    ],
)
def test_a_wrong_range_is_refused(
    client: SyncPrefectClient, tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    """A range that is none, or not all of which has ended, is a ValueError and writes nothing."""
    when = datetime(2026, 3, 30, 22, tzinfo=UTC)
    run = scheduled_run(client, when, tmp_path / "no.db", **arguments)
    with pytest.raises(ValueError, match=told):
        run_flow(backfill, flow_run=run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.guarantee(NAME, "range")
@given(now=st.datetimes(datetime(2026, 1, 2), datetime(2027, 1, 1), timezones=st.just(UTC)))
@example(now=datetime(2026, 3, 29, 22, tzinfo=UTC))
@example(now=datetime(2026, 3, 29, 21, 59, 59, 999999, tzinfo=UTC))
def test_the_last_day_that_may_be_given_is_the_last_that_is_due(now: datetime) -> None:
    """Without `until` the range ends with the last day that may be given for it."""
    partitions = pattern.due(FIRST, None, now)
    last = date.fromisoformat(partitions[-1].name)
    assert pattern.due(FIRST, last, now) == partitions
    with pytest.raises(ValueError, match="has not ended"):
        pattern.due(FIRST, last + timedelta(days=1), now)


def test_a_mistyped_database_marks_nothing(tmp_path: Path) -> None:
    """A database without orders fails each partition, instead of marking all as done."""
    with pytest.raises(ExceptionGroup) as caught:
        backfill(tmp_path / "typo.db", *MARCH)
    assert {str(each) for each in caught.value.exceptions} == {"no such table: orders"}
    assert pattern.filled(tmp_path / "typo.db") == set()


def fill_march(folder: Path) -> None:
    """Fill three days, of which the first is there, with other rows."""
    backfill(folder / "shop.db", *MARCH, again=True)


def fill_march_again(folder: Path) -> list[Any]:
    """Return the partitions that are marked and the sales; then fill, and return them again."""
    database = folder / "shop.db"
    return [
        marked_and_sold(database),
        backfill(database, *MARCH),
        marked_and_sold(database),
    ]


def marked_and_sold(database: Path) -> Any:
    """Return the partitions that are marked as done, and the sales."""
    return sorted(pattern.filled(database)), sales(database)


@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.e2e), pytest.param(1, marks=pytest.mark.nightly)]
)
@pytest.mark.guarantee(NAME, "killed")
def test_the_next_run_fills_what_a_killed_one_did_not(tmp_path: Path, step: int) -> None:
    """Killed before any of its writes, each day has its rows and its mark, or is as before."""
    (tmp_path / "start").mkdir()
    orders = [(f"{day}T12:00:00+00:00", product, 5) for day in DAYS for product in ("milk", "tea")]
    database = shop(tmp_path / "start", *orders)
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT INTO done VALUES (?)", [DAYS[0]])
        db.execute("INSERT INTO sales VALUES (?, 'tea', 1)", [DAYS[0]])
    outcomes = kill_at_points(
        "tests.patterns.pipelines.test_backfill:fill_march", tmp_path / "start", (None, None, -step)
    )
    assert outcomes
    old = [[DAYS[0], "tea", 1]]
    new = {day: [[day, "milk", 5], [day, "tea", 5]] for day in DAYS}
    for (marked, sold), filled, (marked_then, sold_then) in outcomes.values():
        sold_first = [row for row in sold if row[0] == DAYS[0]]
        assert sold_first in (old, new[DAYS[0]])
        assert sold == sold_first + [row for day in marked if day != DAYS[0] for row in new[day]]
        assert (filled, marked_then) == (sorted(set(DAYS) - set(marked)), DAYS)
        assert sold_then == sold_first + new[DAYS[1]] + new[DAYS[2]]


def fill_at_once(database: Path, api: str, together: Any, said: Any) -> None:
    """Fill some days in a new process, together with another one, and say which."""
    os.environ["PREFECT_API_URL"] = api
    forget_user_settings()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        together.wait(patience())
        said.put(backfill(database, date(2026, 3, 1), date(2026, 3, 9)))


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "once")
def test_two_processes_at_once_fill_each_partition_once(
    tmp_path: Path, prefect_server: str
) -> None:
    """Of two processes that fill the same days, each day is filled by one of them."""
    expected = [f"2026-03-0{day}" for day in range(1, 10)]
    database = shop(tmp_path, *((f"{day}T12:00:00+00:00", "tea", 5) for day in expected))
    context = preloaded_context()
    together, said = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=fill_at_once, args=(database, prefect_server, together, said))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    filled = [said.get(timeout=patience()) for _ in processes]
    for process in processes:
        process.join(patience())
    assert sorted(filled[0] + filled[1]) == expected
    assert rows(database, "SELECT * FROM log_sales ORDER BY 1") == expected
    assert rows(database, "SELECT * FROM log_done ORDER BY 1") == expected


def deployed(what: Any, **given: Any) -> Any:
    """Deploy a flow and return the id of its deployment."""
    return what.to_deployment(str(uuid4()), **given).apply()


@pytest.mark.fact(NAME, "no-catch-up")
def test_a_schedule_makes_no_runs_for_times_that_have_passed(client: SyncPrefectClient) -> None:
    """A daily schedule with an anchor in the past makes runs for the future only."""

    @flow
    def report() -> None:
        """Report."""

    before = datetime.now(UTC)
    deployment = deployed(
        report, schedule=Interval(timedelta(days=1), anchor_date=datetime(2026, 1, 1, 4))
    )
    response = client._client.post(f"/deployments/{deployment}/schedule", json={})
    response.raise_for_status()
    own = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})
    times = [each.expected_start_time for each in client.read_flow_runs(deployment_filter=own)]
    client.delete_deployment(deployment)
    assert times
    assert min(filter(None, times)) >= before


@pytest.mark.fact(NAME, "key")
def test_an_idempotency_key_returns_a_run_that_failed(client: SyncPrefectClient) -> None:
    """A second run with the key of the first is the first, although that failed."""
    deployment = deployed(backfill)
    ids = []
    for _ in range(2):
        run = client.create_flow_run_from_deployment(
            deployment, parameters={"database": "shop.db"}, idempotency_key="2026-03-29"
        )
        client.set_flow_run_state(run.id, Failed(), force=True)
        ids.append(run.id)
    client.delete_deployment(deployment)
    assert ids[0] == ids[1]
