# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Reuse a task's result within one run, in all runs of one flow, or everywhere.

Problem:
    By default a call never hits Prefect's cache: results are not persisted, and the key contains
    the run's own id. Prefect's `INPUTS` policy, on the other hand, reuses too much: it compares
    arguments as JSON, but not the tasks that receive them.

Guarantees:
    run: with `WITHIN_RUN` a call is executed once per flow run, and again in the next run.
    flow: with `WITHIN_FLOW` a call is executed once across all runs of flows with the same name,
        and every time outside flows.
    everywhere: with `EVERYWHERE` a call is executed once, whatever flow makes it, even if the task
        takes no arguments.
    inputs: arguments that pickle identically share a result, as equal ones of the same plain types
        do; arguments that differ don't. Dicts in another order count as different, as do 0.0 and
        -0.0, and Pydantic models if only one was explicitly given a value that is the default.
    source: a task whose own source changes is executed again (but not when only a function or a
        global that it uses changes).
    whose: tasks with the same source share no results if a function created them from different
        values, if they are in modules with different names, or if they are methods of objects that
        pickle differently.
    once: with `once(policy)` equal calls made at the same time by threads of one process are
        executed once, whereas other policies execute them all.

Prefect:
    default (3.8, 3.9): without a policy every call is executed, even a repeated one in the same
        run.
    json (3.8, 3.9): with `INPUTS`, `(1, 2)` gets the result of `[1, 2]`, and `{1: "a"}` that of
        `{"1": "a"}`.
    empty (3.8, 3.9): with `INPUTS` alone a task without arguments has no key.
    shared (3.8, 3.9): in a run a reused result is the same object that the task returned: changing
        it changes it for everyone, unless the task has `cache_result_in_memory=False`.
    self (3.8, 3.9): with `DEFAULT - "self"` a method gets the result of another object's. If an
        object can't be pickled, don't exclude it: leave out what can't in its `__getstate__`.
    replaced (3.8, 3.9): a sum of policies contains one `INPUTS` policy, created anew: a subclass of
        it is lost.

Not for:
    Results that depend on more than the arguments, such as a table that changes: see
    `caching/expiry_and_refresh`. Arguments, or values enclosed by a task's function, that can't be
    pickled or pickle differently each time: their calls are not reused, and the log says so; one
    such value is the function under another decorator below `@task`. Tasks with the same source and
    name in two scripts, which are both `__main__`, or in two modules with the same name: they count
    as one task, as do two lambdas on one line. Excluding an argument: with `EVERYWHERE - "name"` it
    still counts. `once` across processes or machines.

Costs:
    Rows `cache-miss`, `cache-hit` and `persisted-result` of the report.

Sources:
    - https://docs.prefect.io/v3/concepts/caching
    - Prefect #15559 and #18161: nothing is reused across runs
    - Prefect #18600 and #15503: isolation of concurrent runs
"""

from __future__ import annotations

import inspect
import io
import pickle
from hashlib import sha256
from typing import Any

from prefect import flow, task
from prefect.cache_policies import RUN_ID, TASK_SOURCE, CachePolicy
from prefect.context import TaskRunContext
from prefect.locking.memory import MemoryLockManager
from prefect.runtime import flow_run


class SetSorter(pickle.Pickler):
    """A pickler that sorts the items of sets, whose order differs from process to process."""

    def persistent_id(self, value: object) -> object:
        """Return the substitute for a value, if any; pickle calls this for each object it meets."""
        if isinstance(value, set | frozenset):
            return type(value), sorted(map(faithful, value))
        return None


def faithful(value: object) -> bytes:
    """Pickle a value so that equal values of the same types, and only those, give equal bytes."""
    pickled = io.BytesIO()
    pickler = SetSorter(pickled, protocol=5)
    # Otherwise one string twice in a list would pickle differently from the string and a copy.
    pickler.fast = True
    pickler.dump(value)
    return pickled.getvalue()


class TypedCall(CachePolicy):
    """A cache policy keyed on the task, its arguments and their types."""

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
        name = function.__module__, function.__qualname__
        return sha256(faithful((name, enclosed, inputs))).hexdigest()


class FlowName(CachePolicy):
    """A cache policy keyed on the name of the flow that the task runs in."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return the key, or raise if there is none: a sum of policies would go on without it."""
        if not flow_run.flow_name:
            raise LookupError("there is no flow around this call: its result is not reused")
        return str(flow_run.flow_name)


EVERYWHERE = TypedCall() + TASK_SOURCE
WITHIN_FLOW = EVERYWHERE + FlowName()
WITHIN_RUN = EVERYWHERE + RUN_ID


def once(policy: CachePolicy) -> CachePolicy:
    """Return a policy like this one that makes equal calls in one process wait for the first."""
    locks = MemoryLockManager()  # type: ignore[no-untyped-call]
    return policy.configure(isolation_level="SERIALIZABLE", lock_manager=locks)


@task(cache_policy=WITHIN_RUN)
def count_words(text: str) -> int:
    """Count the words of a text."""
    print(f"counting {text!r}")
    return len(text.split())


@flow
def count_twice(text: str) -> list[int]:
    """Count the same words twice; the second time is free."""
    return [count_words.submit(text).result() for _ in range(2)]


def main() -> None:
    """Show that two calls in each of two runs are counted only twice."""
    for _ in range(2):
        print(count_twice("no flow steps twice into the same run"))


if __name__ == "__main__":
    main()
