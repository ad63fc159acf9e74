# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Let cached results grow old, refresh them on demand, and follow a file's content.

Problem:
    A cached result is right until the world changes. There are three ways to notice: after a
    while, when somebody says so, and when the file that the result came from is another one.
    A path is not its content: a task that is given a path is reused after the file changed.

Guarantees:
    fresh: a rate less than an hour old is reused; an older one is fetched again, and reused then.
    refresh: `value_ledger(..., refresh=True)` fetches the rate whatever is cached, and later runs
        reuse it; without it the setting `PREFECT_TASKS_REFRESH_CACHE` decides.
    content: with `BY_CONTENT` a task runs again when the content of a file that it is given
        changes, or another argument, and not when a file is only touched, moved or copied.
    nested: files are found in lists, tuples, dicts and dataclasses, also in one another. A file
        is a `pathlib.Path`; a `str` is a text, whatever it names.
    unreadable: a call with a `Path` that is a folder or is missing is not reused.
    whose: with `BY_CONTENT` tasks of the same text share no results if a function made them from
        other values, or if they stand in modules of two names.

Prefect:
    written (3.8, 3.9): a result's age limit is fixed when it is written: a shorter
        `cache_expiration` set later doesn't make an existing result older.
    refreshed (3.8, 3.9): `refresh_cache=True` runs the task whatever is cached, and later runs
        reuse the new result.
    refusing (3.8, 3.9): `PREFECT_TASKS_REFRESH_CACHE` refreshes every task, but those that say
        `refresh_cache=False`, which is not the same as saying nothing.
    closures (3.8, 3.9): with `INPUTS + TASK_SOURCE` tasks that a function made from other values
        share results.
    shared (3.8, 3.9): in a run a reused result is the very object that the task had returned:
        who changes it changes it for all, unless the task has `cache_result_in_memory=False`.
    damaged (3.8, 3.9): a cached result whose file is gone or cut short is made again.

Not for:
    Tasks whose answer depends on a file's name, date or folder, or that write to a path. Files
    that change while a task reads them. What a task reads without being given it, such as
    globals and functions that it calls. Sets of strings, dicts in another order, and Pydantic
    models of which one was told a default, which are taken for other arguments. Arguments that
    can't be pickled, and tasks with another decorator below `@task`: their calls are not reused,
    and the log says so. Tasks of the same text and name in two scripts, which are both
    `__main__`, or in two modules of one name: they are taken for one, as are two lambdas of one
    line. Deleting old results: an expired one stays in the storage until it is written over, and
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

import inspect
import io
import pickle
import random
import tempfile
from datetime import timedelta
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CachePolicy
from prefect.context import TaskRunContext


class ContentPickler(pickle.Pickler):
    """Pickles values with a digest of its content in place of every file."""

    def persistent_id(self, value: object) -> str | None:
        """Return what stands for a value; pickle asks this for everything that it comes to."""
        return digest(value) if isinstance(value, Path) else None


class FileContent(CachePolicy):
    """A key from the task and its arguments, in which a path stands for its file's content."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return the key; if this raises, Prefect logs it and reuses nothing."""
        function = task_ctx.task.fn
        enclosed = inspect.getclosurevars(function).nonlocals, getattr(function, "__self__", None)
        pickled = io.BytesIO()
        pickler = ContentPickler(pickled, protocol=5)
        # Else a value that is there twice, and its copy, would have two keys.
        pickler.fast = True
        pickler.dump((function.__module__, function.__qualname__, enclosed, inputs))
        return sha256(pickled.getvalue()).hexdigest()


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
    # Never `refresh_cache=False`, which would overrule the setting that refreshes all tasks.
    fetch = fetch_rate.with_options(refresh_cache=True) if refresh else fetch_rate
    rate = fetch.submit(currency)
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
