# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Ask Prefect what each file was made from, find those out of date, and make only these anew.

Problem:
    A report is made from totals, which are made from orders. Somebody corrects an order: which
    files are wrong now? `@materialize` records that a file was made, and from which others, but not
    from which contents of these: nobody can tell whether it still fits them, and so every run makes
    everything.

Guarantees:
    recorded: for each file that a run makes, Prefect has an event with its sources, hashes of what
        was read and written, the time, the flow run and the task run; also for a step that fails.
        `last_made` returns the last of these events.
    current: a file that `out_of_date` does not list has the content that its last making wrote,
        which succeeded; its sources have the contents that were read then, and are not listed
        either; its step has the same sources, and a function with the same code.
    reason: `out_of_date` says of each file that it lists why.
    only: `rebuild` makes the files that are out of date, each after its sources. If a source is
        made again with the same content as before, what is made from it is left alone.
    apart: a step that fails leaves its file as it was, and what is made from that file is not made;
        all others are. Then `rebuild` raises the errors, with the names of what it did not make.
    seen: when `rebuild` returns, its events can be read. If one does not arrive, that is an error.
    whole: a file is replaced, not written in place; what a step is given is what was hashed.
    checked: a circle, or a key that Prefect does not accept, is a ValueError before anything is
        made.

Prefect:
    events (3.8, 3.9): a task with `@materialize` that completes sends
        `prefect.asset.materialization.succeeded` for each asset and `prefect.asset.referenced` for
        each source; one that fails sends `….failed`, once, after its last retry.
    silent (3.8, 3.9): a cached result sends nothing, nor does a task that crashes.
    inferred (3.8, 3.9): assets of earlier tasks are sources, too, if their futures are passed on,
        through other tasks and `map` as well.
    lost (3.8, 3.9): not so on `ProcessPoolTaskRunner`, nor if a task is called, not submitted, and
        returns None: there only `asset_deps` are sources.
    keys (3.8, 3.9): a key is a URI such as `file://shop/orders.csv`, with a scheme of lower-case
        letters and digits, without blanks, quotes, brackets and `#?&%|^`, up to 512 characters.
    many (3.8, 3.9): an asset with more than 100 sources sends no event, and one with 100 sends one
        that does not name its run. The task is Completed.
    kept (3.8, 3.9): `PREFECT_SERVER_EVENTS_RETENTION_PERIOD`, after which a server deletes events,
        is 7 days by default. A file whose event is gone counts as out of date.
    graph (3.8, 3.9): the open-source server has the events, but no API for assets; the list and
        the graph of assets are in Prefect Cloud.

Not for:
    Tables and objects in a store, until `path_of`, `make` and `reason` are written for them. Files
    that don't fit in memory. Code that a step's function calls: if it changes, nothing is out of
    date. Functions without source code. Steps that call `sys.exit`. More than 90 sources of one
    file. Two rebuilds at a time: both make the same files. One server for several folders with the
    same keys: each file is compared with the last making in any of them. Async flows, whose event
    loop `rebuild` blocks. Events older than 180 days, which are not looked for. Prefect Cloud,
    where this was not tried.

Costs:
    A task run for each file that is made, a request for each file that is looked at, and up to
    five seconds until the server shows the events. All sources are read and hashed.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/assets
    - https://docs.prefect.io/v3/concepts/assets
    - Prefect #18230 and #18252: what is sent; #19634: assets that are named at run time
    - Prefect #13160: how long events are kept
"""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from prefect import flow, get_client
from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.futures import PrefectFuture

ARRIVES = 60.0
"""Seconds within which the event of a task reaches a server that works."""


class Step(NamedTuple):
    """How a file is made: a function that gets the contents of the sources, in this order."""

    function: Callable[..., bytes]
    sources: tuple[str, ...]


Steps = Mapping[str, Step]
"""How each file is made, by its key."""


def path_of(folder: Path, key: str) -> Path:
    """Return where the file with a key is."""
    return folder / key.partition("://")[2]


def sha256(content: bytes) -> str:
    """Return the hash by which contents are compared."""
    return hashlib.sha256(content).hexdigest()


def code(step: Step) -> str:
    """Return the hash of the code of a step's function."""
    return sha256(inspect.getsource(step.function).encode())


def make(folder: Path, key: str, step: Step) -> None:
    """Make a file, and record what it was made from."""
    contents = [path_of(folder, source).read_bytes() for source in step.sources]
    sources = list(zip(step.sources, map(sha256, contents), strict=True))
    add_asset_metadata(key, {"sources": sources, "code": code(step)})
    made = step.function(*contents)
    add_asset_metadata(key, {"content": sha256(made)})
    path = path_of(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4()}.part")
    part.write_bytes(made)
    os.replace(part, path)  # whoever reads the file has the old one or the new one


def last_made(key: str) -> Event | None:
    """Return the event of the last making of a file, or None if the server has none."""
    wanted = EventFilter(
        event=EventNameFilter(prefix=["prefect.asset.materialization."]),
        resource=EventResourceFilter(id=[key]),
        order=EventOrder.DESC,
    )
    with get_client(sync_client=True) as client:
        return next(iter(client.read_events(wanted, limit=1).events), None)


def reason(folder: Path, key: str, step: Step, made: Event | None) -> str | None:
    """Return why a file is out of date, given its last making; None if it is not."""

    def content(key: str) -> str | None:
        path = path_of(folder, key)
        return sha256(path.read_bytes()) if path.is_file() else None

    if made is None or "code" not in made.payload:
        return "no record of how it was made"
    if not made.event.endswith(".succeeded"):
        return "its last making failed"
    sources = made.payload["sources"]
    if made.payload["code"] != code(step) or [key for key, _ in sources] != list(step.sources):
        return "its step has changed"
    for source, read in sources:
        if content(source) != read:
            return f"{source} has changed"
    return None if content(key) == made.payload["content"] else "changed since it was made"


def order(steps: Steps) -> TopologicalSorter[str]:
    """Return what sorts keys so that the sources of each come before it."""
    return TopologicalSorter({key: step.sources for key, step in steps.items()})


def out_of_date(folder: Path, steps: Steps) -> dict[str, str]:
    """Return the keys of the files that are out of date, sources first, each with the reason."""
    found: dict[str, str] = {}
    for key in order(steps).static_order():
        if step := steps.get(key):
            why = reason(folder, key, step, last_made(key))
            stale = (f"{source} is out of date" for source in step.sources if source in found)
            if why := why or next(stale, None):
                found[key] = why
    return found


def rebuild(folder: Path, steps: Steps) -> dict[str, str]:
    """Make the files that are out of date, on the task runner of the enclosing flow.

    Args:
        folder: Where the files are.
        steps: How each file is made, by its key.

    Returns:
        The keys of the files that were made, each with the reason.

    Raises:
        ExceptionGroup: If some were not made, or Prefect has no event of that; the others were.
    """
    tasks: dict[str, Any] = {
        key: materialize(
            key,
            asset_deps=list(step.sources),  # a process pool would lose those that are inferred
            name=step.function.__name__,
            cache_policy=NO_CACHE,
        )(make)
        for key, step in steps.items()
    }
    made: dict[str, str] = {}
    futures: dict[str, PrefectFuture[None]] = {}
    errors: dict[str, Exception] = {}
    sorter = order(steps)
    sorter.prepare()
    while ready := sorter.get_ready():
        for key in sorted(set(ready) & set(steps)):
            step = steps[key]
            if lost := [source for source in step.sources if source in errors]:
                errors[key] = RuntimeError(f"{key} was not tried, because of {lost[0]}")
            elif why := reason(folder, key, step, last_made(key)):
                made[key] = why
                futures[key] = tasks[key].submit(folder, key, step)
        for key in futures.keys() & set(ready):
            try:
                futures[key].result()
            except Exception as error:
                error.add_note(f"{key} was not made")
                errors[key] = error
        sorter.done(*ready)
    for key, future in futures.items():
        try:
            wait_for_event(key, future)
        except TimeoutError as error:
            errors.setdefault(key, error)
    if errors:
        raise ExceptionGroup(
            f"not made or not recorded: {', '.join(sorted(errors))}", list(errors.values())
        )
    return made


def wait_for_event(key: str, future: PrefectFuture[None]) -> None:
    """Wait until the server shows the event of a task that has ended."""
    deadline = time.monotonic() + ARRIVES
    # A task that crashed has sent none.
    while future.state.is_completed() or future.state.is_failed():
        made = last_made(key)
        if made and f"prefect.task-run.{future.task_run_id}" in [each.id for each in made.related]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{key} was made, but Prefect has no event of that run")
        time.sleep(0.2)


ORDERS, TOTALS, REPORT = (f"file://shop/{name}" for name in ("orders.csv", "totals.csv", "report"))


def add_up(orders: bytes) -> bytes:
    """Return what each customer has to pay."""
    totals: dict[str, int] = {}
    for line in orders.decode().splitlines():
        customer, _, euros = line.partition(",")
        totals[customer] = totals.get(customer, 0) + int(euros)
    return "".join(f"{customer},{totals[customer]}\n" for customer in sorted(totals)).encode()


def write_report(totals: bytes) -> bytes:
    """Return a sentence."""
    return f"{len(totals.splitlines())} customers have ordered\n".encode()


SHOP = {TOTALS: Step(add_up, (ORDERS,)), REPORT: Step(write_report, (TOTALS,))}


@flow
def update_shop(folder: Path) -> dict[str, str]:
    """Make what is out of date."""
    return rebuild(folder, SHOP)


def main() -> None:
    """Make two files, correct an order, make again what that changes, and show the record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orders = path_of(folder, ORDERS)
        orders.parent.mkdir()
        for text in ("Ali,3\nEve,4\nAli,5\n", "Ali,3\nEve,4\nAli,6\n"):
            orders.write_text(text)
            print("out of date:", out_of_date(folder, SHOP))
            print("made:", list(update_shop(folder)))
        if made := last_made(TOTALS):
            runs = [each.id for each in made.related if each.role == "flow-run"]
            print(f"{TOTALS}, {made.occurred:%c}, {runs[0]}: {made.payload}")


if __name__ == "__main__":
    main()
