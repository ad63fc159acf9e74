# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/schedules.py`."""

from __future__ import annotations

import asyncio
import os
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.server.schemas import schedules as server
from prefect.types._datetime import now
from pydantic import TypeAdapter

from flowgauge.clock.shared_time import SharedTime
from flowgauge.waiting import patience, wait_until
from patterns.deployments import schedules as pattern
from patterns.deployments.schedules import checked, daily, every, is_odd, last_working_day, report
from patterns.deployments.self_hosted_server import prefect_server as run_prefect_server
from patterns.deployments.trigger_by_http import TriggerError, call, watch

NAME = "deployments/schedules"
BERLIN = "Europe/Berlin"
KINDS: TypeAdapter[Any] = TypeAdapter(server.SCHEDULE_TYPES)
ZONES = (
    BERLIN,
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Asia/Kolkata",
)
SPRING, AUTUMN = date(2027, 3, 28), date(2027, 10, 31)
"""When Berlin's clocks change in 2027: 02:00 becomes 03:00, and 03:00 becomes 02:00."""


@cache
def changes(zone: str) -> tuple[date, ...]:
    """Return the days in ten years on which a zone's clocks change, and an ordinary day."""
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(3652)]
    shifts = [datetime(d.year, d.month, d.day, tzinfo=ZoneInfo(zone)).utcoffset() for d in days]
    return (*(days[n] for n in range(len(days) - 1) if shifts[n] != shifts[n + 1]), days[0])


@st.composite
def looks(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draw a zone, and a moment within four days of a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(changes(zone)))
    seconds = draw(st.integers(-4 * 86400, 2 * 86400))
    return zone, datetime(change.year, change.month, change.day, tzinfo=UTC) + timedelta(
        seconds=seconds
    )


clock_times = st.builds(time, st.integers(0, 23), st.integers(0, 59))


def server_dates(schedule: Schedule, start: datetime, n: int) -> list[datetime]:
    """Return the next moments at which a server would schedule runs, in UTC."""
    sent = DeploymentScheduleCreate.from_schedule(schedule).schedule.model_dump(mode="json")
    received = KINDS.validate_python(sent)
    return [each.astimezone(UTC) for each in asyncio.run(received.get_dates(n=n, start=start))]


def days_from(start: datetime, zone: str) -> Any:
    """Return the days from the date that `start` has in a zone onwards, without end."""
    first = start.astimezone(ZoneInfo(zone)).date()
    return (first + timedelta(days=n) for n in count())


def moment(day: date, at: time, zone: str) -> datetime:
    """Return when the clocks of a zone first show a time on a day, in UTC."""
    return datetime.combine(day, at, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def berlin(*moments: str) -> list[datetime]:
    """Return, in UTC, moments that are written with Berlin's offset."""
    return [datetime.fromisoformat(each).astimezone(UTC) for each in moments]


@pytest.mark.guarantee(NAME, "cron")
@settings(max_examples=100, deadline=None)
@given(look=looks(), at=clock_times)
@example(look=(BERLIN, datetime(2027, 3, 27, 12, tzinfo=UTC)), at=time(3))
@example(look=(BERLIN, datetime(2027, 3, 28, 0, 59, 59, tzinfo=UTC)), at=time(3))
@example(look=(BERLIN, datetime(2027, 10, 31, 0, 30, tzinfo=UTC)), at=time(3))
def test_a_daily_run_keeps_its_clock_time(look: tuple[str, datetime], at: time) -> None:
    """Whenever a server looks, the runs are at that clock time each day, as `zoneinfo` sees it."""
    zone, start = look
    days = list(islice(days_from(start, zone), 7))
    assume(not any(is_odd(datetime.combine(day, at), zone) for day in days))
    expected = [each for day in days if (each := moment(day, at, zone)) >= start][:5]
    cron = Cron(f"{at.minute} {at.hour} * * *", timezone=zone)
    assert server_dates(cron, start, 5) == expected


@pytest.mark.guarantee(NAME, "cron")
def test_daily_is_a_cron_schedule() -> None:
    """`daily` returns the cron schedule for its time and zone."""
    schedule = daily(time(9, 5), BERLIN)
    assert (schedule.cron, schedule.timezone) == ("5 9 * * *", BERLIN)


@pytest.mark.guarantee(NAME, "interval")
@settings(max_examples=60, deadline=None)
@given(
    look=looks(),
    minutes=st.integers(1, 3 * 24 * 60),
    back=st.integers(-(10**7), 10**7),
)
@example(look=(BERLIN, datetime(2027, 10, 30, 22, tzinfo=UTC)), minutes=60, back=0)
@example(look=(BERLIN, datetime(2027, 3, 27, 22, tzinfo=UTC)), minutes=1440, back=10**7)
@example(look=(BERLIN, datetime(2027, 3, 27, 22, tzinfo=UTC)), minutes=1440, back=-(10**7))
def test_every_has_equal_intervals(look: tuple[str, datetime], minutes: int, back: int) -> None:
    """Whenever a server looks, the runs are a whole number of intervals from the anchor.

    This also holds for runs before the anchor.
    """
    zone, start = look
    interval = timedelta(minutes=minutes)
    anchor = (start - timedelta(seconds=back)).astimezone(ZoneInfo(zone))
    passed = -(-timedelta(seconds=back) // interval)
    first = anchor.astimezone(UTC) + passed * interval
    expected = [first + n * interval for n in range(5)]
    assert server_dates(every(interval, anchor=anchor), start, 5) == expected


@pytest.mark.guarantee(NAME, "rrule")
@settings(max_examples=40, deadline=None)
@given(look=looks(), at=st.sampled_from([time(9), time(18, 45), time(22, 59)]))
def test_the_last_working_day(look: tuple[str, datetime], at: time) -> None:
    """The runs are at that clock time on the last day from Monday to Friday of each month."""
    zone, start = look
    expected = []
    for month in range(start.year * 12 + start.month - 2, start.year * 12 + start.month + 4):
        year, number = month // 12, month % 12 + 1
        days = (date(year, number, d) for d in range(monthrange(year, number)[1], 0, -1))
        expected.append(moment(next(d for d in days if d.weekday() < 5), at, zone))
    expected = [each for each in expected if each >= start][:3]
    assert server_dates(last_working_day(at, zone), start, 3) == expected


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("at", [time(2), time(2, 59)])
def test_a_time_that_clock_changes_skip_or_repeat_is_refused(at: time) -> None:
    """A time from 02:00 to 02:59 in Berlin is refused in an error that gives the reason and a day.

    The times just before and after are accepted, and so is such a time in a zone without changes.
    """
    for kind in (daily, last_working_day):
        with pytest.raises(ValueError, match=rf"^{at:%H:%M} in {BERLIN} is skipped or repeated on"):
            kind(at, BERLIN)
        for safe in (time(1, 59), time(3)):
            assert kind(safe, BERLIN).timezone == BERLIN
        assert kind(at, "Asia/Kolkata").timezone == "Asia/Kolkata"


@pytest.mark.guarantee(NAME, "refused")
def test_a_repeated_time_is_refused_in_its_second_pass() -> None:
    """A time with `fold=1`, the second of two equal clock times, is refused like the first."""
    for kind in (daily, last_working_day):
        with pytest.raises(ValueError, match="is skipped or repeated on"):
            kind(time(2, 30, fold=1), BERLIN)


@pytest.mark.guarantee(NAME, "bad")
@pytest.mark.parametrize(
    "at",
    [time(9, 0, 1), time(9, 0, 0, 1), time(9, tzinfo=UTC), time(9, tzinfo=ZoneInfo(BERLIN))],
    ids=["second", "microsecond", "offset", "zone"],
)
def test_a_time_that_would_be_cut_short_is_refused(at: time) -> None:
    """A time with seconds, microseconds or a zone, which a schedule can't keep, is an error."""
    for kind in (daily, last_working_day):
        with pytest.raises(ValueError, match=r"is not just an hour and a minute") as caught:
            kind(at, BERLIN)
        assert "\n" not in str(caught.value)


@pytest.mark.guarantee(NAME, "bad")
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: checked(Cron("0 25 * * *")), r'Invalid cron string: "0 25 \* \* \*"'),
        (lambda: daily(time(9), "Mars/Olympus"), 'Invalid timezone: "Mars/Olympus"'),
        (lambda: daily(time(9), ""), "invalid schedule: it has no time zone"),
        (lambda: every(timedelta(0), now("UTC")), "greater than 0 seconds"),
        (lambda: every(timedelta(days=1), datetime(2027, 1, 1)), "00:00:00 has no time zone"),
        (lambda: checked(RRule("FREQ=NEVER")), 'Invalid RRule string "FREQ=NEVER"'),
        (lambda: checked(Schedule()), "it has no cron string, interval or rule"),
    ],
    ids=["cron", "zone", "no-zone", "interval", "moment", "rrule", "none"],
)
def test_an_invalid_schedule_is_refused(build: Any, reason: str) -> None:
    """The error is a ValueError of one line that says what is wrong."""
    with pytest.raises(ValueError, match=reason) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.fact(NAME, "skipped")
def test_a_skipped_time_runs_an_hour_off() -> None:
    """On the day without 02:30 a cron schedule at 02:30 runs once, at 01:30 or at 03:30."""
    start = moment(SPRING, time(0), BERLIN)
    first, second = server_dates(Cron("30 2 * * *", timezone=BERLIN), start, 2)
    # Prefect uses Python's own dates from Python 3.13 on, pendulum's before.
    assert first in berlin("2027-03-28T01:30+01:00", "2027-03-28T03:30+02:00")
    assert second == moment(SPRING + timedelta(days=1), time(2, 30), BERLIN)


@pytest.mark.fact(NAME, "skipped")
def test_a_repeated_time_runs_the_first_time() -> None:
    """On the day with two 02:30 a cron schedule at 02:30 runs at the first one only."""
    start = moment(AUTUMN, time(0), BERLIN)
    assert server_dates(Cron("30 2 * * *", timezone=BERLIN), start, 2) == berlin(
        "2027-10-31T02:30+02:00", "2027-11-01T02:30+01:00"
    )


@pytest.mark.fact(NAME, "hourly")
def test_an_hourly_cron_pauses_for_two_hours() -> None:
    """On the day with two 02:00 an hourly cron schedule runs at the first, then two hours later."""
    start = moment(AUTUMN, time(1), BERLIN)
    assert server_dates(Cron("0 * * * *", timezone=BERLIN), start, 3) == berlin(
        "2027-10-31T01:00+02:00", "2027-10-31T02:00+02:00", "2027-10-31T03:00+01:00"
    )


@pytest.mark.fact(NAME, "never")
def test_a_cron_that_never_comes_stops_the_other_schedules(prefect_server: str) -> None:
    """A server accepts a cron string for February 30, but makes no run of the other schedule."""
    start = datetime(2027, 1, 1, tzinfo=UTC)
    end = start + timedelta(days=3)
    deployment_id = deployed("never", checked(Cron("0 0 30 2 *")), daily(time(9), BERLIN))
    with pytest.raises(TriggerError, match="500"):
        scheduled(prefect_server, deployment_id, start, end)
    wanted = {"deployments": {"id": {"any_": [deployment_id]}}}
    assert call(prefect_server, "/flow_runs/filter", wanted) == []


def deployed(name: str, *schedules: Schedule) -> str:
    """Deploy the flow with schedules, and return the id."""
    deployment: Any = report.to_deployment(name, schedules=list(schedules))
    return str(deployment.apply())


def scheduled(api: str, deployment_id: str, start: datetime, end: datetime) -> list[datetime]:
    """Let a server schedule a span as its scheduler would, and return the times of all its runs."""
    span = {"start_time": start.isoformat(), "end_time": end.isoformat(), "min_runs": 100}
    call(api, f"/deployments/{deployment_id}/schedule", span)
    wanted = {"deployments": {"id": {"any_": [deployment_id]}}}
    runs = call(api, "/flow_runs/filter", wanted)
    return sorted(datetime.fromisoformat(run["expected_start_time"]) for run in runs)


def looked_at_before_and_after(api: str, name: str) -> tuple[list[datetime], list[datetime]]:
    """Let a server schedule a daily interval at nine, on the eve of a clock change and after it."""
    anchor = datetime(2027, 1, 1, 9, tzinfo=ZoneInfo(BERLIN))
    deployment_id = deployed(name, Interval(86400, anchor_date=anchor, timezone=BERLIN))
    before, after, end = (datetime(2027, 3, day, 12, tzinfo=UTC) for day in (27, 28, 30))
    first = scheduled(api, deployment_id, before, end)
    return first, scheduled(api, deployment_id, after, end)


AT_NINE = berlin(*(f"2027-03-{day}T09:00+02:00" for day in (28, 29, 30)))
AT_TEN = berlin(*(f"2027-03-{day}T10:00+02:00" for day in (29, 30)))


@pytest.mark.fact(NAME, "drift")
def test_a_daily_interval_in_a_zone_runs_twice_after_a_change(prefect_server: str) -> None:
    """When the server looks again it also schedules runs at ten, and the runs at nine stay."""
    before, after = looked_at_before_and_after(prefect_server, "drift")
    assert before == AT_NINE
    assert after == sorted(AT_NINE + AT_TEN)


@pytest.mark.fact(NAME, "clock-time")
def test_a_daily_interval_in_a_zone_keeps_its_clock_time(prefect_server: str) -> None:
    """The runs are at nine, before and after the change, each once."""
    before, after = looked_at_before_and_after(prefect_server, "clock-time")
    assert before == after == AT_NINE


@pytest.mark.guarantee(NAME, "fires")
@pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_a_server_schedules_across_a_change(prefect_server: str, change: date) -> None:
    """A server that looks before and after a clock change makes each due run exactly once."""
    eve = change - timedelta(days=1)
    start, end = (moment(eve + timedelta(days=n), time(12), BERLIN) for n in (0, 3))
    between = start + timedelta(days=1)
    anchor = moment(eve, time(12), BERLIN)
    deployment_id = deployed(
        f"across-{change}",
        daily(time(9), BERLIN),
        every(timedelta(hours=6), anchor),
        last_working_day(time(18), BERLIN),
    )
    scheduled(prefect_server, deployment_id, start, end)
    found = scheduled(prefect_server, deployment_id, between, end)
    days = [change + timedelta(days=n) for n in range(3)]
    at_nine = [moment(day, time(9), BERLIN) for day in days]
    six_hours = timedelta(hours=6)
    intervals = [anchor + n * six_hours for n in range(12 + 1) if anchor + n * six_hours <= end]
    # 2027-03-31 and 2027-10-29 are the last working days: neither lies in the span.
    assert found == sorted(at_nine + intervals)


MOVED = """
from pathlib import Path
from flowgauge.clock.prefect_time import move_now
from flowgauge.clock.shared_time import SharedTime

move_now(SharedTime(Path(__file__).parent))
"""
"""Sets the clock that Prefect reads, in every process that finds this as `sitecustomize`."""

SERVING = """
from datetime import time
from prefect import serve
from schedules import daily, report

if __name__ == "__main__":
    schedules = [daily(time(3), "Europe/Berlin")]
    serve(report.to_deployment("by-night", schedules=schedules))
"""


def first_run(api: str) -> dict[str, Any]:
    """Wait until a server has a scheduled run, and return the first."""
    wanted = {"sort": "EXPECTED_START_TIME_ASC"}
    runs = wait_until(lambda: call(api, "/flow_runs/filter", wanted), "a scheduled run")
    run: dict[str, Any] = runs[0]
    return run


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "fires")
def test_a_served_flow_starts_in_the_night_of_the_change(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """A server schedules the run for 03:00, which follows 01:59 that night, and it starts then."""
    (tmp_path / "sitecustomize.py").write_text(MOVED)
    (tmp_path / "schedules.py").write_text(Path(pattern.__file__).read_text())
    (tmp_path / "serving.py").write_text(SERVING)
    path = (str(tmp_path), str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", ""))
    moved = {"PYTHONPATH": os.pathsep.join(path), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    shared = SharedTime(tmp_path)
    three = datetime(2027, 3, 28, 1, tzinfo=UTC)  # in Berlin 03:00, an hour after 01:00
    shared.ahead = (three - timedelta(hours=9) - datetime.now(UTC)).total_seconds()
    with run_prefect_server(tmp_path / "server", settings=moved) as api:
        start("serving.py", **moved, PREFECT_API_URL=api)
        run = first_run(api)
        assert datetime.fromisoformat(run["expected_start_time"]) == three
        shared.ahead = (three - timedelta(seconds=5) - datetime.now(UTC)).total_seconds()
        assert watch(api, run["id"], patience=patience())["type"] == "COMPLETED"
        started = call(api, f"/flow_runs/{run['id']}")["start_time"]
    # The server rounds a wait to whole seconds, so a run may start half of one early.
    assert datetime.fromisoformat(started) - three >= timedelta(seconds=-0.5)
