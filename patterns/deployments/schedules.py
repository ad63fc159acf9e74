# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Schedule by cron, interval and rrule so that summer time moves no run, doubles or drops none.

Problem:
    Twice a year clocks skip an hour or show it twice. What a schedule does that night, and on the
    days after, depends on its kind, on the time zone and on when the server evaluates it; people
    notice when the report was an hour late, came twice or did not come.

Guarantees:
    cron: a `daily` run comes once on every day at its local time in that zone, including the days
        of both clock changes.
    interval: runs of `every` are the same amount of time apart, across both changes, and before
        its anchor as well as after it.
    rrule: a run of `last_working_day` comes at its local time on the last day of each month
        that is not a Saturday or Sunday.
    refused: `daily` and `last_working_day` accept no time that a clock change skips or repeats.
    bad: a cron string, an interval, a rule or a zone that Prefect can't parse, a schedule without
        any of them, an anchor without a zone, and a time with seconds or its own zone, are refused
        with a one-line message before anything is sent to a server.
    fires: a server creates the runs of these schedules for those times, and a process that serves
        the flow starts them then, including on the night of the change.

Prefect:
    skipped (3.8, 3.9): a cron time that is skipped runs all the same, an hour off, and one that
        is repeated runs the first time only.
    hourly (3.8, 3.9): an hourly cron does not run in the second pass of a repeated hour.
    never (3.8, 3.9): a cron string that never matches, such as one for February 30, is accepted,
        and then the deployment's other schedules create no runs either; only the server's log says
        so.
    drift (3.8): an interval of a day in a zone with summer time shifts by an hour at a change, and
        the runs scheduled before it stay: those days have two runs. Use `daily`.
    clock-time (3.9): such an interval keeps its local time: it is not 24 hours long then.

Not for:
    Holidays: a schedule has no calendar of them; let the flow check and end early.

Costs:
    None at run time. The server creates up to a hundred runs ahead, which wait in its database.

Sources:
    - https://docs.prefect.io/v3/concepts/schedules
    - https://docs.prefect.io/v3/how-to-guides/deployments/create-schedules
    - Prefect #10678: cron schedules and summer time
    - Prefect #9763: the anchor of an interval and its time zone
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from prefect import flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, RRule, Schedule
from pydantic import ValidationError


def checked(schedule: Schedule) -> Schedule:
    """Return a schedule if a server would accept it.

    Args:
        schedule: The schedule to check.

    Returns:
        The same schedule.

    Raises:
        ValueError: If a server would refuse it; the message is one line.
    """
    if schedule.timezone == "":
        raise ValueError("invalid schedule: it has no time zone")
    if (schedule.cron, schedule.interval, schedule.rrule) == (None, None, None):
        raise ValueError("invalid schedule: it has no cron string, interval or rule")
    try:
        DeploymentScheduleCreate.from_schedule(schedule)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"invalid schedule: {reason}") from None
    return schedule


def daily(at: time, zone: str) -> Schedule:
    """Return a schedule that runs once a day, at a local time of a zone.

    Args:
        at: The local time, to the minute.
        zone: The time zone, such as `Europe/Berlin`.

    Returns:
        The schedule, checked.

    Raises:
        ValueError: If there is a day, this year or in the next two, when clocks there never show
            that time, or show it twice; if the time has seconds or its own zone.
    """
    return steady(checked(Cron(f"{at.minute} {at.hour} * * *", timezone=zone)), at, zone)


def steady(schedule: Schedule, at: time, zone: str) -> Schedule:
    """Return a schedule if clocks in a zone show its time just once on each of the coming days."""
    if at.tzinfo or at.second or at.microsecond:
        raise ValueError(f"{at!r} is not just an hour and a minute; pass the zone separately")
    if odd := next((day for day in coming_days() if is_odd(datetime.combine(day, at), zone)), None):
        raise ValueError(
            f"{at:%H:%M} in {zone} is skipped or repeated on {odd}: "
            "choose a time when the clocks do not change"
        )
    return schedule


def coming_days() -> list[date]:
    """Return the days of this year and of the next two."""
    first = date(datetime.now(UTC).year, 1, 1)
    return [first + timedelta(days=n) for n in range(3 * 366)]


def is_odd(clock: datetime, zone: str) -> bool:
    """Return whether clocks in a zone skip or repeat this date and time."""
    local = clock.replace(tzinfo=ZoneInfo(zone))
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def every(interval: timedelta, anchor: datetime) -> Schedule:
    """Return a schedule whose runs are equally far apart in elapsed time.

    Args:
        interval: The time from one run to the next.
        anchor: The time of one of the runs, with its zone; runs before it are as far apart.

    Returns:
        The schedule, checked.

    Raises:
        ValueError: If the interval is not longer than zero, or the anchor has no zone.
    """
    if anchor.tzinfo is None:
        raise ValueError(f"{anchor} has no time zone")
    # UTC has no clock changes; in another zone the server would follow the clocks there.
    anchor = anchor.astimezone(UTC)
    return checked(Schedule(interval=interval, anchor_date=anchor, timezone="UTC"))


def last_working_day(at: time, zone: str) -> Schedule:
    """Return a schedule that runs on the last weekday of each month, at a local time of a zone.

    Args:
        at: The local time, to the minute.
        zone: The time zone, such as `Europe/Berlin`.

    Returns:
        The schedule, checked.

    Raises:
        ValueError: As for `daily`, even if the day of the clock change is not a working day.
    """
    rule = (
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;"
        f"BYHOUR={at.hour};BYMINUTE={at.minute};BYSECOND=0"
    )
    return steady(checked(RRule(rule, timezone=zone)), at, zone)


@flow
def report() -> str:
    """Write the report of the day."""
    return "written"


def main() -> None:
    """Deploy the flow with three schedules, and show a time that is refused."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    schedules = [
        replace(daily(time(9), "Europe/Berlin"), slug="daily"),
        replace(every(timedelta(hours=6), noon), slug="every-six-hours"),
        replace(last_working_day(time(18), "Europe/Berlin"), slug="closing"),
    ]
    RunnerDeployment.from_flow(report, "scheduled", schedules=schedules).apply()
    print("scheduled:", ", ".join(str(schedule.slug) for schedule in schedules))
    try:
        daily(time(2, 30), "Europe/Berlin")
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
