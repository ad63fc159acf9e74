# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Set bad records aside with the reason, and publish nothing if the data as a whole is bad.

Problem:
    One record that can't be read ends a nightly import, although a thousand others are fine. With
    `raise_on_failure=False` the import goes on, but then errors stand among its results; and an
    import that skips bad records in silence publishes an almost empty table on the day on which the
    shop renames a column.

Guarantees:
    apart: a record that fails its check is written to the quarantine, with its line number, its
        text as it arrived and the reason; all other records of the delivery are published, in the
        order in which they arrived.
    gate: nothing is published if no record is good, if more than the allowed share is bad, or if
        two records have the same id. The flow ends Failed with what is wrong, and what an earlier
        run published stays. The share is a number from 0 to 1: a flow run with 5 is refused.
    bugs: an error in the code of the check is no bad record: the flow fails, and neither the
        quarantine nor what is published changes.
    mended: a run that is given corrected lines imports them in their places and empties the
        quarantine of them; a run with the same arguments leaves the same files.
    whole: files are replaced, not written in place: a reader has the old one or the new one, and
        the same users as for other new files may read it.

Prefect:
    first (3.8, 3.9): one failed task of a map makes `.result()` raise; the results of the others
        are not returned.
    mixed (3.8, 3.9): with `raise_on_failure=False` the error stands in the list of results, and the
        flow that returns this list is Completed.

Not for:
    Records that hang or kill the process that reads them: check them in `tasks/timeout`. Two runs
    at once for one delivery: the last to finish wins. A run that is killed leaves a file `.*.part`,
    which no later run reads; killed between two files, it leaves a quarantine that is newer than
    what is published. The whole delivery is held in memory.

Costs:
    A task run for each 500 records, a constant of the file; and two files for each delivery.

Sources:
    - https://docs.prefect.io/v3/concepts/states
    - https://docs.pydantic.dev/latest/concepts/json/
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field, PositiveInt, ValidationError

BATCH = 500
"""Records per task run: a task run for each record would cost more than its check."""


class BadDeliveryError(Exception):
    """The delivery as a whole must not be published."""


class Order(BaseModel):
    """An order as it is published."""

    id: str
    cents: PositiveInt
    currency: Literal["EUR", "USD"] = "EUR"


class Rejected(NamedTuple):
    """A record that failed its check: which line it was, its text, and why."""

    line: int
    text: str
    reason: str


@task(cache_policy=NO_CACHE)
def check(batch: list[tuple[int, str]]) -> tuple[list[Order], list[Rejected]]:
    """Tell good records from bad ones.

    Args:
        batch: Line numbers and texts.

    Returns:
        The orders, and what failed its check.
    """
    orders, rejected = [], []
    for line, text in batch:
        try:
            orders.append(Order.model_validate_json(text))
        except ValidationError as error:  # and nothing else: a bug is no bad record
            reasons = (f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
            rejected.append(Rejected(line, text, "; ".join(reasons).strip()))
    return orders, rejected


def gate(orders: list[Order], rejected: list[Rejected], most_rejected: float) -> None:
    """Refuse a delivery that is bad as a whole.

    Args:
        orders: The good records.
        rejected: The bad ones.
        most_rejected: The share of bad records that is allowed, from 0 to 1.

    Raises:
        BadDeliveryError: If nothing may be published.
    """
    share = len(rejected) / max(len(orders) + len(rejected), 1)
    if share > most_rejected:
        first = f"line {rejected[0].line}: {rejected[0].reason}"
        raise BadDeliveryError(f"{share:.1%} of the records are bad, the first in {first}")
    if not orders:
        raise BadDeliveryError("there is no good record in it")
    ids = Counter(order.id for order in orders)
    if twice := [id_ for id_, count in ids.items() if count > 1]:
        raise BadDeliveryError(f"{len(twice)} ids are there more than once, the first: {twice[0]}")


def replace(path: Path, lines: Iterable[str]) -> None:
    """Put a new file in the place of one that others may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a temporary file of `tempfile`, which only its owner may read.
    part = path.with_name(f".{path.name}.{uuid4()}.part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(part, path)


@flow
def import_orders(
    delivery: Path,
    folder: Path,
    most_rejected: Annotated[float, Field(ge=0, le=1)] = 0.05,
    mended: dict[int, str] | None = None,
) -> int:
    """Publish the good records of a delivery, and set the bad ones aside.

    Args:
        delivery: A file with a record, as JSON, in each line.
        folder: Gets `published/` and `quarantine/`, each with a file named like the delivery.
        most_rejected: The share of bad records that is allowed, from 0 to 1.
        mended: Corrected texts, by the number of the line that they replace.

    Returns:
        How many records are published.

    Raises:
        BadDeliveryError: If nothing may be published.
        ValueError: If a line to mend does not exist.
    """
    # What is not UTF-8 is kept as it is, and fails its check.
    texts = delivery.read_bytes().decode(errors="surrogateescape").split("\n")
    if texts[-1] == "":
        texts.pop()
    lines = dict(enumerate(texts, 1))
    if unknown := sorted(set(mended or ()) - set(lines)):
        raise ValueError(f"{delivery.name} has no line {unknown[0]} to mend")
    records = list((lines | (mended or {})).items())
    batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
    checked = check.map(batches).result()
    orders = [order for good, _ in checked for order in good]
    rejected = [record for _, bad in checked for record in bad]

    # Before the gate: who mends a refused delivery needs to see what is wrong with it.
    quarantine = (json.dumps(record._asdict()) for record in rejected)
    replace(folder / "quarantine" / delivery.name, quarantine)
    gate(orders, rejected, most_rejected)
    replace(folder / "published" / delivery.name, (order.model_dump_json() for order in orders))
    return len(orders)


def main() -> None:
    """Import a delivery with a bad record, then with that record mended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        delivery = folder / "monday.jsonl"
        delivery.write_text('{"id": "a", "cents": 990}\n{"id": "b", "cents": "free"}\n')
        print(f"published: {import_orders(delivery, folder, most_rejected=0.5)}")
        print(f"set aside: {(folder / 'quarantine' / 'monday.jsonl').read_text().strip()}")
        mended = {2: '{"id": "b", "cents": 100}'}
        print(f"published once mended: {import_orders(delivery, folder, mended=mended)}")


if __name__ == "__main__":
    main()
