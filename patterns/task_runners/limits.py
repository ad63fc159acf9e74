# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Let no more than a few tasks use a thing at once, in all flows and processes together.

Problem:
    A database takes ten connections, and an API ten calls a second, from all flows together; a task
    runner's workers limit one flow run only. Prefect's server counts slots for that, but a limit
    that nobody has created limits nothing, a task that asks twice waits for itself, and the slot of
    a killed process stays taken for five minutes or more.

Guarantees:
    limited: at most `limit` bodies of `with slot(name)` run at once, in the flow runs and processes
        of one server together.
    tagged: at most `limit` tasks with a tag run at once after `ensure_limit("tag:<tag>", limit)`.
    missing: `slot` of a limit that does not exist raises an error; the body does not run.
    returned: the slot is free again after the body or its task has failed.
    killed: the slot of a killed process is free again when its lease, of at most a minute, is over
        and the server has looked for such leases, which it does every 15 seconds by default.
    timeout: with `timeout_seconds`, `slot` raises a TimeoutError if none gets free in that time,
        and takes none.
    rate: with `per_second`, `rate_limit(name)` lets `limit` calls through at once, and then one
        whenever a slot has decayed.
    ensured: `ensure_limit` creates a limit, or changes its size and rate and leaves the taken slots
        taken; several may do so at once.
    async: `slot_async` does what `slot` does, without blocking the event loop.

Prefect:
    unlimited (3.8, 3.9): `concurrency` without `strict`, or a tag, limits nothing if the limit does
        not exist; `concurrency` says so in the log.
    nested (3.8, 3.9): code that holds the only slot and asks for one more waits for itself.
    wait-for (3.8, 3.9): a task takes the slot of its tag when the tasks it waits for have ended: a
        chain of tasks under a limit of 1 runs through.
    retry (3.8, 3.9): a task keeps the slot of its tag while it waits for its retry; a slot taken in
        its body is free meanwhile.
    forgotten (3.8, 3.9): if the server restarts, it has forgotten who holds slots, and they stay
        taken for good.

Not for:
    Fairness: whoever waits asks again every few seconds, up to 30 and more, and may be overtaken.
    A server that restarts while slots are taken: set it to keep them in files
    (`PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem`)
    or free them by `prefect gcl update <name> --active-slots 0`. A server that can't be reached for
    a minute: the slot goes to somebody else, and the body is ended, unless it blocks. A limit that
    somebody has switched off (`prefect gcl disable`): it limits nothing. Two limits taken one
    inside the other, in different orders: take both at once, `concurrency([first, second])`.
    Numbers of flow runs: give the deployment or the work pool a `concurrency_limit`. Tags whose
    limit was created after a task had run with them: a process remembers for 5 seconds that there
    was none.

Costs:
    Three requests for each slot, one more for each further try to get it, and one every 45 seconds.
    A task with tags makes one request even if there is no limit.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/global-concurrency-limits
    - https://docs.prefect.io/v3/how-to-guides/workflows/tag-based-concurrency-limits
    - Prefect #17415, #8566 and #12035: slots that stay taken after a crash
    - Prefect #17686: tasks that took slots while they waited for others
    - Prefect #19367: requests for tags without a limit
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager

from prefect import flow, get_client, task
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.concurrency.asyncio import concurrency as concurrency_async
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.exceptions import ObjectAlreadyExists

LEASE_SECONDS = 60.0  # the shortest that the server accepts; by default it is 300


def ensure_limit(name: str, limit: int, *, per_second: float = 0.0) -> None:
    """Create a limit, or change it and leave its taken slots taken.

    On the command line: `prefect gcl create <name> --limit <limit>`.

    Args:
        name: Its name; `tag:<tag>` limits all tasks with a tag.
        limit: How many slots it has.
        per_second: How many slots are freed per second, for a rate limit.

    Raises:
        ValueError: If there are no slots: whoever asks for one would wait forever, or be refused.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: {name!r} needs a slot or more")
    with get_client(sync_client=True) as client:
        try:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(
                    name=name, limit=limit, slot_decay_per_second=per_second
                )
            )
        except ObjectAlreadyExists:
            # What is not named here stays as it is, such as the number of slots that are taken.
            client.update_global_concurrency_limit(
                name, GlobalConcurrencyLimitUpdate(limit=limit, slot_decay_per_second=per_second)
            )


def slot(name: str, *, timeout_seconds: float | None = None) -> AbstractContextManager[None]:
    """Hold one slot of a limit in a `with` block.

    Args:
        name: A limit that exists.
        timeout_seconds: How long to wait for the slot; forever if it is None.

    Returns:
        What is used in `with`. It raises an error if there is no such limit, or no slot in time.
    """
    return concurrency(
        name, strict=True, lease_duration=LEASE_SECONDS, timeout_seconds=timeout_seconds
    )


def slot_async(
    name: str, *, timeout_seconds: float | None = None
) -> AbstractAsyncContextManager[None]:
    """Hold one slot of a limit in an `async with` block.

    Args:
        name: A limit that exists.
        timeout_seconds: How long to wait for the slot; forever if it is None.

    Returns:
        What is used in `async with`; see `slot`.
    """
    return concurrency_async(
        name, strict=True, lease_duration=LEASE_SECONDS, timeout_seconds=timeout_seconds
    )


@task
def count_rows(table: str) -> int:
    """Stand in for a query; no more run at once than the database has connections."""
    with slot("database"):
        return len(table)


@task(tags=["printer"])
def print_report(table: str, rows: int) -> str:
    """Stand in for a printer, which all tasks with this tag share."""
    return f"{table}: {rows} rows"


@task
def send(report: str) -> str:
    """Stand in for an API that takes a few calls at once, and then some per second."""
    rate_limit("mail", strict=True)
    return f"sent {report}"


@flow
def report_tables(tables: list[str]) -> list[str]:
    """Count the rows of tables, print and send reports, each within its limit."""
    ensure_limit("database", 2)
    ensure_limit("tag:printer", 1)
    ensure_limit("mail", 10, per_second=5)
    reports = print_report.map(tables, count_rows.map(tables))
    return send.map(reports).result()


def main() -> None:
    """Report three tables."""
    print(report_tables(["guests", "rooms", "bookings"]))


if __name__ == "__main__":
    main()
