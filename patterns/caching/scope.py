# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Reuse a task's result within one run, in all runs of one flow, or everywhere.

Problem:
    Prefect's default reuses nothing: results are not persisted, and the default key holds the
    run's own id. Its `INPUTS` policy then reuses too much: arguments are compared as JSON, in
    which `(1, 2)` is `[1, 2]` and `{1: "a"}` is `{"1": "a"}`, and a task without arguments has
    no key.

Guarantees:
    run: with `WITHIN_RUN` a call is executed once in a flow run, and again in the next run.
    flow: with `WITHIN_FLOW` a call is executed once in all runs of a flow of that name.
    everywhere: with `EVERYWHERE` a call is executed once, whatever flow it is made in, also
        when the task takes no arguments.
    inputs: arguments that are equal and of the same types share a result; arguments that
        differ never do, not even where JSON takes them for the same.
    source: a task whose own text changes is executed again (but not when only a function
        that it calls changes).
    stock: without a policy every call is executed, also twice in one run: this file's reason.
    once: with `once(policy)` equal calls made at the same time by threads are executed once,
        where other policies execute them all.

Not for:
    Results that depend on more than the arguments, such as a table that changes: see
    `caching/expiry_and_refresh`. Arguments that can't be pickled,
    or pickle differently each time: their calls are never reused.

Costs:
    Rows `cache-miss`, `cache-hit` and `persisted-result` of the report.

Sources:
    - https://docs.prefect.io/v3/concepts/caching
    - Prefect #15559 and #18161: nothing is reused across runs
    - Prefect #18600 and #15503: isolation of concurrent runs
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from prefect import flow, task
from prefect.cache_policies import RUN_ID, TASK_SOURCE, CachePolicy
from prefect.context import TaskRunContext
from prefect.locking.memory import MemoryLockManager
from prefect.runtime import flow_run

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def faithful(value: object) -> str:
    """Write a value so that equal values of the same types, and only those, read the same.

    Args:
        value: Numbers, strings, bytes and built-in collections of them, to any depth. Anything
            else is pickled: two that differ read differently, two that are equal may do so too.

    Returns:
        The text.
    """
    kind = type(value)
    if kind in _PLAIN:
        return f"{kind.__name__} {value!r}"
    if isinstance(value, dict) and kind is dict:
        parts = sorted(f"{faithful(key)}: {faithful(item)}" for key, item in value.items())
    elif isinstance(value, set | frozenset) and kind in (set, frozenset):
        parts = sorted(map(faithful, value))
    elif isinstance(value, list | tuple) and kind in (list, tuple):
        parts = list(map(faithful, value))
    else:
        parts = [pickle.dumps(value).hex()]
    return f"{kind.__name__} [{', '.join(parts)}]"


@dataclass
class TypedInputs(CachePolicy):
    """A key from the arguments and their types; not an `Inputs`, which sums would replace."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return a key, also for a task without arguments."""
        return sha256(faithful(inputs or {}).encode()).hexdigest()


@dataclass
class FlowName(CachePolicy):
    """A key from the name of the flow that the task runs in, none outside flows."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key."""
        name: str | None = flow_run.flow_name
        return name


EVERYWHERE = TypedInputs() + TASK_SOURCE
WITHIN_FLOW = EVERYWHERE + FlowName()
WITHIN_RUN = EVERYWHERE + RUN_ID


def once(policy: CachePolicy) -> CachePolicy:
    """Return a policy like this one that lets equal calls of one process wait for the first."""
    locks = MemoryLockManager()  # type: ignore[no-untyped-call]
    return policy.configure(isolation_level="SERIALIZABLE", lock_manager=locks)


@task(cache_policy=WITHIN_RUN)
def count_words(text: str) -> int:
    """Count the words of a text."""
    print(f"counting {text!r}")
    return len(text.split())


@flow
def count_twice(text: str) -> list[int]:
    """Count the same words two times; the second time is free."""
    return [count_words.submit(text).result() for _ in range(2)]


def main() -> None:
    """Show that two calls in each of two runs count two times."""
    for _ in range(2):
        print(count_twice("no flow steps twice into the same run"))


if __name__ == "__main__":
    main()
