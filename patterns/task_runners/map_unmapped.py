# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Run a task for every item, and say which arguments are the same for all of them.

Problem:
    `map` treats every iterable as items, so a price list that is meant for all parcels is dealt out
    to them: a list is an error if its length differs and gives a wrong result if not, and from a
    dict each parcel gets one key. Then one bad item hides the results of all others.

Guarantees:
    order: the n-th label belongs to the n-th parcel; no parcels, no labels.
    unmapped: every parcel is priced with the whole price list, whatever its length.
    apart: a parcel that can't be sent does not affect the others, and its label says why.
    errors: every other error, such as a zone without a price, fails the flow.
    async: `label_parcels_async` gives the same labels without blocking the event loop while tasks
        run.

Prefect:
    ordered (3.8, 3.9): the n-th result belongs to the n-th item, whatever finishes first.
    lengths (3.8, 3.9): items of different lengths are an error, and no task is run.
    dealt (3.8, 3.9): strings, bytes and anything that is not iterable need no `unmapped`; a dict
        without it is dealt out key by key.
    items (3.8, 3.9): `map` without anything to deal out is an error.
    defaults (3.8, 3.9): a list that is a parameter's default is passed whole; the same list as an
        argument is dealt out.
    futures (3.8, 3.9): items may be futures, or a single future of a list, which is waited for.
    together (3.8, 3.9): asking for all results at once raises the error of one.
    allow-failure (3.8, 3.9): a task that takes items in `allow_failure` runs for all of them: it
        gets the error of those that failed, and None for those that were not run because something
        before them failed. This holds on some task runners only, so the flow here asks each future
        instead.

Not for:
    Very many tiny items: each is a separate task run. See `task_runners/chunked_map`.

Costs:
    Row `map` of the report, for one item; compare it with `submit`.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-work-concurrently
    - Prefect #9020: list defaults were dealt out
    - Prefect #22918: `allow_failure` and tasks that were not run
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prefect import flow, task, unmapped
from prefect.futures import PrefectFuture

Prices = dict[str, float]


class CannotBeSent(Exception):
    """A problem with a parcel; any other error is a problem of the program."""


@task
def weigh(parcel: str) -> float:
    """Return the weight of a parcel in kilograms."""
    if not parcel:
        raise CannotBeSent("there is nothing to weigh")
    return len(parcel) / 2


@task
def quote(
    kilograms: float, prices: Prices, zone: str, limits: tuple[float, ...] = (0.5, 30)
) -> float:
    """Return what it costs to send a weight to a zone."""
    lightest, heaviest = limits
    if kilograms > heaviest:
        raise CannotBeSent(f"{kilograms} kg is more than {heaviest} kg")
    return max(kilograms, lightest) * prices[zone]


def label(parcel: str, weight: PrefectFuture[float], quote: PrefectFuture[float]) -> str:
    """Wait for a parcel's tasks, and return a label with its price or the reason why it has none.

    Args:
        parcel: The parcel.
        weight: Its weight, checked first: if it fails, the quote is not run and doesn't know why.
        quote: Its price.

    Returns:
        The label.

    Raises:
        Exception: What a task raised, unless it is a `CannotBeSent`.
    """
    try:
        weight.result()
        return f"{parcel}: {quote.result():.2f}"
    except CannotBeSent as reason:
        return f"{parcel}: {reason}"


Futures = Iterable[PrefectFuture[float]]


def label_all(parcels: list[str], weights: Futures, quotes: Futures) -> list[str]:
    """Wait for all tasks, one parcel after the other, and return the labels."""
    return [label(*each) for each in zip(parcels, weights, quotes, strict=True)]


@flow
def label_parcels(parcels: list[str], prices: Prices, zone: str) -> list[str]:
    """Label all parcels, including those that can't be sent."""
    weights = weigh.map(parcels)
    quotes = quote.map(weights, unmapped(prices), zone)
    return label_all(parcels, weights, quotes)


@flow
async def label_parcels_async(parcels: list[str], prices: Prices, zone: str) -> list[str]:
    """Label all parcels, waiting in a thread because futures would block the event loop."""
    weights = weigh.map(parcels)
    quotes = quote.map(weights, unmapped(prices), zone)
    return await asyncio.to_thread(label_all, parcels, weights, quotes)


def main() -> None:
    """Show that parcels without a price don't hold up the others."""
    for line in label_parcels(["lamp", "", "piano" * 20, "book"], {"near": 2, "far": 5}, "far"):
        print(line)


if __name__ == "__main__":
    main()
