# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fastapi<0.151"]
# ///
"""Run a task for every item, and say which arguments are the same for all of them.

Problem:
    `map` takes every iterable for items, so a price list that was meant for all parcels is
    dealt out to them: a list is an error if its length differs and a wrong result if not, and
    of a dict each parcel gets one key. Then one bad item hides the results of all others.

Guarantees:
    order: the n-th result belongs to the n-th item, whatever finishes first; no items, no
        results.
    lengths: items of different lengths are an error, and no task is run.
    unmapped: every task gets the whole of a value in `unmapped`; a string, bytes and whatever
        is not iterable need none, and a dict without it is dealt out key by key.
    defaults: a list that is a parameter's default is given whole; the same list as an argument
        is dealt out.
    futures: items may be futures, or one future of a list, which is waited for.
    apart: an item that fails leaves the others alone, and their results can be had.
    allow-failure: a task that takes items in `allow_failure` runs for all: it gets the error
        of those that failed, and None for those that were not run because something before
        failed (on some task runners only, so the flow here asks each future instead).

Not for:
    Very many tiny items: each is a task run of its own. Put a batch of them in one item.

Costs:
    Row `map` of the report, one item; compare `submit`.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-work-concurrently
    - Prefect #9020: list defaults were dealt out
    - Prefect #22918: `allow_failure` and tasks that were not run
"""

from __future__ import annotations

from prefect import flow, task, unmapped
from prefect.futures import PrefectFuture

Prices = dict[str, float]


@task
def weigh(parcel: str) -> float:
    """Return the weight of a parcel in kilograms."""
    if not parcel:
        raise ValueError("there is nothing to weigh")
    return len(parcel) / 2


@task
def quote(
    kilograms: float, prices: Prices, zone: str, limits: tuple[float, ...] = (0.5, 30)
) -> float:
    """Return what it costs to send a weight to a zone."""
    lightest, heaviest = limits
    if kilograms > heaviest:
        raise OverflowError(f"{kilograms} kg is more than {heaviest} kg")
    return max(kilograms, lightest) * prices[zone]


def price_of(quote: PrefectFuture[float]) -> float | None:
    """Return a price, None if anything that it needs has failed."""
    try:
        return quote.result()
    except Exception:
        return None


@flow
def label_parcels(parcels: list[str], prices: Prices, zone: str) -> list[str]:
    """Label all parcels, also those that can't be sent."""
    weights = weigh.map(parcels)
    quotes = quote.map(weights, unmapped(prices), zone)
    found = [price_of(quote) for quote in quotes]
    return [
        f"{parcel}: no price" if price is None else f"{parcel}: {price:.2f}"
        for parcel, price in zip(parcels, found, strict=True)
    ]


def main() -> None:
    """Show that one parcel without a price doesn't keep the others back."""
    for line in label_parcels(["lamp", "", "piano" * 20, "book"], {"near": 2, "far": 5}, "far"):
        print(line)


if __name__ == "__main__":
    main()
