# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Retry a flaky call with growing, capped and randomised delays.

Problem:
    A service that is down gets worse when every caller comes back at once, so retries wait
    longer each time, up to a limit, and each caller a little differently. Prefect's
    `exponential_backoff` has no upper limit, its jitter goes past any limit put on the delays,
    and more than 50 delays are an error.

Guarantees:
    attempts: a call that fails k times, sync or async, is tried min(k, retries) + 1 times, and
        succeeds if k <= retries.
    every-call: equal calls in one flow run are all made, as when a service is polled until a job is
        done: `backoff` sets retries, and does not persist results.
    delays: the n-th delay is `first * growth**n`, up to a limit that leaves room for the jitter:
        with jitter no delay is longer than `cap`, and without it delays never shrink if the growth
        is 1 or more. By default they double from one second up to a minute.
    waits: a retry starts no sooner after the failure than its delay minus the jitter.
    many: more than 50 retries are allowed; from the 50th on the last delay is repeated.

Prefect:
    list (3.8, 3.9): a list of more than 50 delays is an error.
    run-count (3.8, 3.9): inside the call, `task_run.run_count` is the number of the attempt,
        starting at 1.
    last-error (3.8, 3.9): when retries run out, the error of the last attempt is raised.
    flow-retry (3.8, 3.9): when the flow itself is retried, tasks that had finished run again,
        unless their results are persisted.
    persisted (3.8, 3.9): with persisted results (`persist_result=True` on the task or its flow, or
        a setting for all) equal calls in one flow run are made only once, unless the task has
        `cache_policy=NO_CACHE`.
    jitter (3.8, 3.9): with a jitter of 0.3 the actual delay is between 0.7 and 1.3 times the
        nominal one, sometimes shorter and sometimes longer.
    no-key (3.8, 3.9): a persisted task runs again in a retried flow if no cache key can be made of
        an argument, such as a client with a lock.

Not for:
    Errors that recur whatever you do (a missing page, a wrong password): name those worth a retry
    with `retries/only_on`. Calls that must not be made twice, such as a payment: a call that failed
    may still have taken effect.

Costs:
    Row `retries/backoff` of the report: one retry without its delay.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/retries
    - https://docs.prefect.io/v3/concepts/caching
    - Prefect #16059, #15751 and #15658: a flow retry starts from the first task again
"""

from __future__ import annotations

from typing import TypedDict

from prefect import flow, task
from prefect.runtime import task_run

MOST_DELAYS = 50
"""The longest list that Prefect accepts; it repeats the last delay for retries beyond it."""


class Backoff(TypedDict):
    """Options of a task with retries."""

    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float


def exponential_delays(retries: int, first: float, growth: float, cap: float) -> list[float]:
    """List the delays before each retry.

    Args:
        retries: The number of retries.
        first: The first delay, in seconds.
        growth: How many times longer each delay is than the one before; at least 1.
        cap: The longest delay, in seconds.

    Returns:
        One delay in seconds for each retry, for the first 50 of them.
    """
    delays: list[float] = []
    delay = min(first, cap)
    for _ in range(min(retries, MOST_DELAYS)):
        delays.append(delay)
        delay = min(delay * growth, cap)
    return delays


def backoff(
    retries: int, first: float = 1.0, growth: float = 2.0, cap: float = 60.0, jitter: float = 0.3
) -> Backoff:
    """Return options for `@task(**backoff(...))` or `a_task.with_options(**backoff(...))`.

    Args:
        retries: How often to try again.
        first: The first delay, in seconds.
        growth: How many times longer each delay is than the one before; at least 1.
        cap: The longest delay with its jitter, in seconds.
        jitter: The largest fraction of a delay that is randomly added to or subtracted from it.
            Prefect draws it for every retry; in a list made here it would be the same for all
            runs of the task.

    Returns:
        The options.
    """
    return {
        "retries": retries,
        "retry_delay_seconds": exponential_delays(retries, first, growth, cap / (1 + jitter)),
        "retry_jitter_factor": jitter,
    }


@task(**backoff(retries=3, first=0.05, cap=0.5))
def fetch_page(url: str, outage: int) -> str:
    """Fetch a page from a site that answers after some failed attempts."""
    if task_run.run_count <= outage:
        raise ConnectionError(f"{url} did not answer attempt {task_run.run_count}")
    return f"{url}, read at attempt {task_run.run_count}"


@flow
def fetch_site(outages: dict[str, int]) -> list[str]:
    """Fetch the pages of a site; `outages` says how many attempts fail for each page."""
    pages = fetch_page.map(list(outages), list(outages.values()))
    return list(pages.result())


def main() -> None:
    """Show that pages arrive although the first attempts fail."""
    for page in fetch_site({"/home": 0, "/news": 1, "/shop": 3}):
        print(page)


if __name__ == "__main__":
    main()
