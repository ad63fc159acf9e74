# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "prefect-dask>=0.3.6,<0.4", "distributed>=2025.1,<2027"
# ]
# ///
"""Write a flow once and choose its task runner when it runs.

Problem:
    A flow written for threads breaks on processes: it changes a global that other processes don't
    see, returns results in the order in which they come in, waits for a future inside a task, or
    starts its pool while the script is still being imported.

Guarantees:
    values: a flow whose tasks only take arguments, which they don't modify, and return results
        gives the same values on every task runner. Futures may be arguments, or be in lists,
        tuples, sets and values of dicts, also when these are nested in one another.
    states: it ends in the same states: a failed task fails, tasks that need its result are not run,
        and everything else completes.
    order: results come in the order of the calls, not in the order of finishing.
    chosen: `task_runner_for` returns the task runner that is named by its argument, or else by the
        environment variable `TASK_RUNNER`; a wrong name gives one clear line, and so does an
        address of a kind that Dask does not know, once the flow starts.

Prefect:
    stateless (3.8, 3.9): on a process pool the future of a task that is not run has no state:
        waiting for it raises `UpstreamTaskError`.
    unresolved (3.8, 3.9): on Dask a future in a dataclass, in a Pydantic model or as a key of a
        dict reaches the task as a Dask future, and is not waited for; elsewhere the task gets its
        result. Pass a dict of the fields instead, and make the object in the task.
    globals (3.8, 3.9): on threads, tasks see what the flow puts in a global; in other processes
        they don't.

Not for:
    Getting the last bit of speed out of one task runner: passing a large array from task to task
    costs nothing on threads and a copy on processes. Async flows, where asking a future for its
    result blocks the event loop: see `task_runners/map_unmapped`.

Costs:
    Rows `submit` and `map` of the report, for each task runner.

Sources:
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #17060: waiting for a future inside a task
    - Prefect #21117: failed inputs on a process pool
"""

from __future__ import annotations

import os
from typing import Any

from prefect import flow, task
from prefect.exceptions import UpstreamTaskError
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

Bill = dict[str, tuple[int, list[str]]]
"""A bill of materials, such as `{"rim": (20, []), "wheel": (15, ["rim"])}`: what each part costs
to assemble, and the parts that go into it, which are listed before it."""


def task_runner_for(name: str | None = None, workers: int = 2) -> TaskRunner[Any]:
    """Return a new task runner by name.

    Args:
        name: `one-thread`, `threads`, `processes`, `dask`, or the address of a Dask scheduler
            such as `tcp://10.0.0.5:8786` or `tls://10.0.0.5:8786`; by default the value of
            `TASK_RUNNER`, or else `threads`.
        workers: How many tasks may run side by side on `threads`, `processes` and `dask`;
            a scheduler that is already running keeps the workers it has.

    Returns:
        A task runner for `a_flow.with_options(task_runner=...)`.

    Raises:
        ValueError: If there is no task runner of that name.
    """
    name = name or os.environ.get("TASK_RUNNER", "threads")
    if name == "one-thread":
        return ThreadPoolTaskRunner(max_workers=1)
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=workers)
    if name == "dask" or "://" in name:
        # Slow to import, so imported only if it is used.
        from prefect_dask.task_runners import DaskTaskRunner

        if "://" in name:
            return DaskTaskRunner(address=name)
        return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1})
    raise ValueError(
        f"no task runner {name!r}: choose one-thread, threads, processes, dask or tcp://host:port"
    )


@task
def assemble(cost: int, parts: list[int]) -> int:
    """Return what a part costs with everything in it."""
    if cost < 0:
        raise ValueError(f"an assembly can't cost {cost}")
    return cost + sum(parts)


def submit_all(bill: Bill) -> dict[str, PrefectFuture[int]]:
    """Submit the assembly of every part, with futures as arguments and without waiting for them."""
    futures: dict[str, PrefectFuture[int]] = {}
    for part, (cost, parts) in bill.items():
        # The engine replaces futures by their results; the task sees numbers.
        inputs: Any = [futures[needed] for needed in parts]
        futures[part] = assemble.submit(cost, inputs)
    return futures


@flow
def price_parts(bill: Bill) -> dict[str, int]:
    """Return the price of every part, in the order of the bill."""
    return {part: future.result() for part, future in submit_all(bill).items()}


@flow
def check_parts(bill: Bill) -> dict[str, str]:
    """Return how the assembly of every part ended, in the order of the bill."""
    return {part: ended(future) for part, future in submit_all(bill).items()}


def ended(future: PrefectFuture[int]) -> str:
    """Wait for a task run, and return the name of its final state."""
    try:
        future.wait()
        return str(future.state.name)
    except UpstreamTaskError:
        return "NotReady"


def main() -> None:
    """Price a bicycle on the task runner that the environment names."""
    bicycle: Bill = {
        "spoke": (1, []),
        "rim": (20, []),
        "wheel": (15, ["rim", "spoke", "spoke"]),
        "bicycle": (60, ["wheel", "wheel"]),
    }
    print(price_parts.with_options(task_runner=task_runner_for())(bicycle))


if __name__ == "__main__":  # a process pool imports this file again in every worker
    main()
