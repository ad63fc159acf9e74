# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Map Python code over parts in processes, and combine the results two by two, as they come.

Problem:
    Python code that computes holds the interpreter's lock, so that threads take turns. In processes
    the parts run side by side, but then `combine(count.map(parts))` sends all results to one task
    at once, which may not fit into its memory, and keeps them in the flow as well. One part that
    fails, and that task is never run, for a reason that does not name the part.

Guarantees:
    same: the answer is the one of `functools.reduce` over the results in the order of the parts,
        for each `combine` that is associative; it need not be commutative.
    fixed: which results are combined depends on the number of parts only, not on which ends first.
        So the answer is the same each time, even where it depends on the grouping, as in sums of
        floats.
    once: each part is one task run, and each result is combined once: n parts, n - 1 combinations.
    few: at most `at_most` tasks are submitted at a time. Of n parts the flow never keeps more than
        (at_most + 1) * (log2(n) + 2) results, and a task is given two.
    named: if a part or a combination fails, nothing else is submitted, the tasks in flight are
        waited for, and the error names the parts and has what they raised. This holds if the
        process of a part is killed, too.
    side-by-side: on the flow's own task runner the parts run in other processes than the flow, and
        several at a time.
    ends: without parts the answer is `empty`, and no task is run; of a single part it is its
        result, and nothing is combined.
    checked: an `at_most` below 1 is refused before a task is submitted.

Prefect:
    all-at-once (3.8, 3.9): a task that is given the futures of a `map` gets the results of all.
    not-run (3.8, 3.9): if one of these has failed, that task ends as `NotReady`, without the error.
    through-the-flow (3.8, 3.9): on `ProcessPoolTaskRunner` a result is pickled to the flow's
        process, and again to the task that is given its future.

Not for:
    Functions that are not associative, such as a mean: combine sums and counts instead. Parts
    shorter than a few tenths of a second, for which a task run in a process costs too much: make
    larger parts. Results that can't be pickled. Answers that outgrow one process. Tasks that call
    `sys.exit`. Async flows, whose event loop is blocked. Flows without a running server: each
    process of the pool would start a temporary one of its own. To see each result: use
    `task_runners/bounded_fan_out`.

Costs:
    Row `submit` of the report, twice for each part. Choose the task runner by the length of a part:
    `flowgauge advise --kernel python --task-ms 2000 --tasks 64` recommends processes.

Sources:
    - https://docs.prefect.io/v3/concepts/task-runners
    - Prefect #12028: a failed task among those that are reduced
    - Prefect #18883 and #12252, prefect-ray #76: many tasks at once
    - Prefect #14241: `as_completed`
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.tasks import Task

R = TypeVar("R")
Span = tuple[int, int]
"""Some adjacent parts: the number of the first, and of the first behind them."""


def map_reduce(
    part: Task[..., R], combine: Task[..., R], items: Iterable[Any], *, at_most: int, empty: R
) -> R:
    """Run a task for each item, and combine the results of neighbours until one is left.

    Args:
        part: Is given an item, and returns what `combine` takes.
        combine: Is given two results, the one of the earlier parts first; associative.
        items: What each part needs, which is little: a range, a path.
        at_most: How many tasks are submitted at a time.
        empty: The answer if there are no items.

    Returns:
        The combined result.

    Raises:
        ValueError: If `at_most` is below 1.
        ExceptionGroup: If any task fails.
    """
    if at_most < 1:
        raise ValueError(f"at_most={at_most}: at least one task has to be submitted at a time")
    todo = deque(enumerate(items))
    if not todo:
        return empty
    whole = (0, len(todo))
    neighbour = dict(neighbours(whole))
    ended: SimpleQueue[PrefectFuture[R]] = SimpleQueue()
    running: dict[PrefectFuture[R], Span] = {}
    complete: dict[Span, PrefectFuture[R]] = {}
    failed: dict[Span, Exception] = {}

    def submit(span: Span, task: Task[..., R], *given: Any) -> None:
        future = task.submit(*given)
        running[future] = span
        future.add_done_callback(ended.put)

    def take() -> None:
        future = ended.get()
        span = running.pop(future)
        try:
            future.result()
            complete[span] = future
        except Exception as error:
            failed[span] = error

    try:
        while not failed and whole not in complete:
            pair = next((each for each in complete if neighbour[each] in complete), None)
            if len(running) == at_most or not (pair or todo):
                take()
            elif pair:  # before the next part, to keep few results
                left, right = sorted((pair, neighbour[pair]))
                submit((left[0], right[1]), combine, complete.pop(left), complete.pop(right))
            else:
                number, item = todo.popleft()
                submit((number, number + 1), part, item)
    finally:
        while running:
            take()
    if failed:
        names = ", ".join(name(span) for span in sorted(failed))
        raise ExceptionGroup(f"failed: {names}", [failed[span] for span in sorted(failed)])
    return complete[whole].result()


def neighbours(span: Span) -> Iterator[tuple[Span, Span]]:
    """Yield each half of a span with the other half, and so on for the halves."""
    first, behind = span
    if behind - first > 1:
        middle = (first + behind) // 2
        left, right = (first, middle), (middle, behind)
        yield from ((left, right), (right, left))
        yield from neighbours(left)
        yield from neighbours(right)


def name(span: Span) -> str:
    """Return what to call some parts; the first is part 0."""
    first, last = span[0], span[1] - 1
    return f"part {first}" if first == last else f"the combination of parts {first} to {last}"


@task(cache_policy=NO_CACHE)
def count_steps(numbers: range) -> Counter[int]:
    """Count how many numbers take how many steps of the Collatz sequence to reach 1."""
    counts: Counter[int] = Counter()
    for number in numbers:
        steps = 0
        while number > 1:
            number = 3 * number + 1 if number % 2 else number // 2
            steps += 1
        counts[steps] += 1
    return counts


# A cache key would be a hash of both results.
@task(cache_policy=NO_CACHE)
def add(left: Counter[int], right: Counter[int]) -> Counter[int]:
    """Add up two counts."""
    return left + right


WORKERS = min(4, os.cpu_count() or 1)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=WORKERS))  # type: ignore[arg-type]
def count_all_steps(numbers: int, size: int = 50_000) -> Counter[int]:
    """Count the steps of all numbers from 1 up."""
    parts = (range(n, min(n + size, numbers + 1)) for n in range(1, numbers + 1, size))
    return map_reduce(count_steps, add, parts, at_most=2 * WORKERS, empty=Counter())


def main() -> None:
    """Count the steps of the first numbers."""
    counts = count_all_steps(200_000)
    print(f"{counts.total()} numbers, the longest takes {max(counts)} steps")


if __name__ == "__main__":
    main()
