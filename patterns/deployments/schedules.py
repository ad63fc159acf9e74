# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Schedule by cron, interval and rrule so that summer time moves no run, doubles or drops none.

Problem:
    Twice a year a clock skips an hour or shows it twice. What a schedule does that night, and
    on the days after, depends on its kind, on the time zone and on when the server looks at it;
    it is noticed when the report was an hour late, came twice or did not come.

Guarantees:
    cron: a `daily` run comes once on every day at the time that a clock in that zone shows,
        also on the days of both changes.
    interval: runs of `every` are equal stretches of time apart, across both changes; they are not
        only after its anchor, but before it, too.
    rrule: a run of `last_working_day` comes at its clock time on the last day of each month
        that is no Saturday or Sunday.
    refused: `daily` and `last_working_day` take no time that a change of the clocks skips or
        repeats.
    bad: a cron string, an interval, a rule or a zone that Prefect can't read, a schedule without
        any, an anchor without a zone, and a time with seconds or a zone of its own, are refused in
        one line before anything is sent to a server.
    fires: a server makes the runs of these schedules for those times, and a process that serves
        the flow starts them then, also in the night of the change.

Prefect:
    skipped (3.8, 3.9): a cron time that is skipped runs all the same, an hour off, and one that
        is repeated runs the first time only.
    hourly (3.8, 3.9): an hourly cron does not run in the second pass of a repeated hour.
    never (3.8, 3.9): a cron string that never comes, such as one for February 30, is taken, and
        then the deployment's other schedules make no run either; only the server's log says so.
    drift (3.8): an interval of a day in a zone with summer time moves by an hour at a change, and
        what was scheduled before stays: those days have two runs. Use `daily`.
    clock-time (3.9): such an interval keeps its clock time: it is no interval of 24 hours then.

Not for:
    Holidays: a schedule knows no calendar of them; let the flow look and end early.

Costs:
    None at run time. The server makes runs up to a hundred ahead, which wait in its database.

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
    """Return a schedule if a server would take it.

    Raises:
        ValueError: If it would not; the message is one line.
    """
    if schedule.timezone == "":
        raise ValueError("no such schedule: it has no time zone")
    if (schedule.cron, schedule.interval, schedule.rrule) == (None, None, None):
        raise ValueError("no such schedule: it has no cron string, interval or rule")
    try:
        DeploymentScheduleCreate.from_schedule(schedule)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"no such schedule: {reason}") from None
    return schedule


def daily(at: time, zone: str) -> Schedule:
    """Run once a day when the clocks of a zone show a time.

    Args:
        at: The time, to the minute.
        zone: Such as `Europe/Berlin`.

    Raises:
        ValueError: If there is a day, this year or in the next two, when no clock there shows
            that time, or shows it twice; if the time has seconds or a zone of its own.
    """
    return steady(checked(Cron(f"{at.minute} {at.hour} * * *", timezone=zone)), at, zone)


def steady(schedule: Schedule, at: time, zone: str) -> Schedule:
    """Return a schedule if clocks in a zone show its time once on each of the coming days."""
    if at.tzinfo or at.second or at.microsecond:
        raise ValueError(f"{at!r} is not an hour and a minute alone; the zone is given beside it")
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
    """Say whether clocks in a zone skip or repeat this date and time."""
    local = clock.replace(tzinfo=ZoneInfo(zone))
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def every(interval: timedelta, anchor: datetime) -> Schedule:
    """Run after equal stretches of time.

    Args:
        interval: The stretch.
        anchor: When one of the runs is, with its zone; runs before it are as far apart.

    Raises:
        ValueError: If the interval is not longer than zero, or the anchor has no zone.
    """
    if anchor.tzinfo is None:
        raise ValueError(f"{anchor} has no time zone")
    # In UTC, which has no changes; in another zone the server would follow the clocks there.
    anchor = anchor.astimezone(UTC)
    return checked(Schedule(interval=interval, anchor_date=anchor, timezone="UTC"))


def last_working_day(at: time, zone: str) -> Schedule:
    """Run when the clocks of a zone show a time on the last weekday of each month.

    Raises:
        ValueError: As `daily` does, though the day may be no working day.
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
