# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Let cached results expire, refresh them on demand, and follow a file's content.

Problem:
    A cached result is right until the world changes. There are three ways to notice: after some
    time, on request, and when the file that the result came from has changed. A path is not the
    file's content: the result of a task that takes a path is reused even after the file changed.

Guarantees:
    fresh: a rate less than an hour old is reused; an older one is fetched again, and then reused.
    refresh: `value_ledger(..., refresh=True)` fetches the rate whatever is cached, and later runs
        reuse it; without it the setting `PREFECT_TASKS_REFRESH_CACHE` decides.
    content: with `BY_CONTENT` a task runs again when the content of a file that it is given, or
        another argument, changes, but not when a file is only touched, moved or copied.
    nested: files are found in lists, tuples, dicts and dataclasses, also when nested in one
        another. A file is a `pathlib.Path`; a `str` is plain text, even if it names a file.
    unreadable: a call with a `Path` that is a folder or does not exist is not reused.
    whose: with `BY_CONTENT` tasks with the same source share no results if a function created them
        from different values, or if they are in modules with different names.

Prefect:
    written (3.8, 3.9): a result's age limit is fixed when it is written: a shorter
        `cache_expiration` set later doesn't make an existing result expire sooner.
    refreshed (3.8, 3.9): `refresh_cache=True` runs the task whatever is cached, and later runs
        reuse the new result.
    refusing (3.8, 3.9): `PREFECT_TASKS_REFRESH_CACHE` refreshes every task except those with
        `refresh_cache=False`, which is not the same as leaving it out.
    closures (3.8, 3.9): with `INPUTS + TASK_SOURCE` tasks that a function created from different
        values share results.
    shared (3.8, 3.9): in a run a reused result is the same object that the task returned: changing
        it changes it for everyone, unless the task has `cache_result_in_memory=False`.
    damaged (3.8, 3.9): a cached result whose file is missing or truncated is computed again.

Not for:
    Tasks whose result depends on a file's name, date or folder, or that write to a path. Files that
    change while a task reads them. Inputs that are not arguments, such as globals and functions
    that the task calls. Sets of strings, dicts in another order, and Pydantic models of which one
    was given a default explicitly: these count as different arguments. Arguments that can't be
    pickled, and tasks with another decorator below `@task`: their calls are not reused, and the log
    says so. Tasks with the same source and name in two scripts, which are both `__main__`, or in
    two modules with the same name: they count as one task, as do two lambdas on one line. Deleting
    old results: an expired one stays in the storage until it is overwritten, and one with another
    key stays forever.

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
    """A pickler that replaces each file by a digest of its content."""

    def persistent_id(self, value: object) -> str | None:
        """Return the substitute for a value, if any; pickle calls this for each object it meets."""
        return digest(value) if isinstance(value, Path) else None


class FileContent(CachePolicy):
    """A cache policy keyed on the task and its arguments, with paths as their files' content."""

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
        # Otherwise one object used twice would have another key than the object and its copy.
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
    """Fetch an exchange rate, which is valid for an hour."""
    print(f"fetching the rate of {currency}")
    return round(random.uniform(0.5, 1.5), 4)


@task(cache_policy=BY_CONTENT)
def sum_ledger(ledger: Path) -> float:
    """Add up a ledger, which changes now and then."""
    print(f"adding up {ledger.name}")
    return sum(map(float, ledger.read_text().split()))


@flow
def value_ledger(ledger: Path, currency: str, refresh: bool = False) -> float:
    """Return the value of a ledger in dollars."""
    # Never `refresh_cache=False`, which would overrule the setting that refreshes all tasks.
    fetch = fetch_rate.with_options(refresh_cache=True) if refresh else fetch_rate
    rate = fetch.submit(currency)
    return sum_ledger.submit(ledger).result() * rate.result()


def main() -> None:
    """Show that a second run fetches and adds up nothing until the ledger or the rate changes."""
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
