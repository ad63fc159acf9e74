# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Let cached results grow old, refresh them on demand, and follow a file's content.

Problem:
    A cached result is right until the world changes. There are three ways to notice: after a
    while, when somebody says so, and when the file that the result came from is another one.
    A path is not its content: a task that is given a path is reused after the file changed.

Guarantees:
    fresh: a result younger than `cache_expiration` is reused.
    expired: an older one is not; the task runs again, and the new result is reused.
    written: a result's age limit is fixed when it is written: a shorter `cache_expiration`
        set later doesn't make an existing result older.
    refresh: `with_options(refresh_cache=True)` runs the task whatever is cached, and later
        runs reuse the new result.
    refresh-all: `PREFECT_TASKS_REFRESH_CACHE` refreshes every task, except those that say
        `refresh_cache=False`.
    content: with `BY_CONTENT` a task that is given a file runs again when its content or
        another argument changes, and not when the file is only touched, moved or copied.
    damaged: a cached result whose file is gone or cut short is made again.

Not for:
    Deleting old results: an expired result stays in the storage until it is written over, and
    one with another key stays for ever.

Costs:
    Rows `cache-miss` and `cache-hit` of the report. `BY_CONTENT` reads the whole file for
    every call.

Sources:
    - https://docs.prefect.io/v3/concepts/caching
    - Prefect #10344, #13865 and #15470: how an expiration is kept
    - Prefect #7315: refreshing on demand
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from hashlib import file_digest
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CachePolicy
from prefect.context import TaskRunContext
from prefect.utilities.hashing import hash_objects


@dataclass
class FileContent(CachePolicy):
    """A key from the arguments in which a path stands for the content of its file."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key."""
        contents = {
            name: f"file {digest(value)}" if isinstance(value, Path) else value
            for name, value in inputs.items()
        }
        return hash_objects(contents, raise_on_failure=True)


def digest(file: Path) -> str:
    """Return a digest of a file's content."""
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


BY_CONTENT = FileContent() + TASK_SOURCE


@task(cache_policy=INPUTS + TASK_SOURCE, cache_expiration=timedelta(hours=1))
def fetch_rate(currency: str) -> float:
    """Fetch an exchange rate, which is good for an hour."""
    print(f"fetching the rate of {currency}")
    return round(random.uniform(0.5, 1.5), 4)


@task(cache_policy=BY_CONTENT)
def sum_ledger(ledger: Path) -> float:
    """Add up a ledger, which changes now and then."""
    print(f"adding up {ledger.name}")
    return sum(map(float, ledger.read_text().split()))


@flow
def value_ledger(ledger: Path, currency: str, refresh: bool = False) -> float:
    """Say what a ledger is worth in dollars."""
    rate = fetch_rate.with_options(refresh_cache=refresh).submit(currency)
    return sum_ledger.submit(ledger).result() * rate.result()


def main() -> None:
    """Show that a second run fetches and adds nothing, until the ledger or the rate changes."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder, "ledger.txt")
        ledger.write_text("10 20")
        print(value_ledger(ledger, "EUR"))
        print(value_ledger(ledger, "EUR"))
        ledger.write_text("10 20 30")
        print(value_ledger(ledger, "EUR"))
        print(value_ledger(ledger, "EUR", refresh=True))


if __name__ == "__main__":
    main()
