# SPDX-License-Identifier: Apache-2.0
"""The cost of each pattern of the catalogue relative to the simplest code that does the same.

The same bodies run without Prefect: as function calls, on concurrent.futures, or on bare Dask.
A round is a whole flow run. On runners with workers of their own, the start of these and the cost
of each task, which are measured apart, would hide what the pattern costs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.task_runners import TaskRunner

from flowgauge.measure.baselines import Baseline
from flowgauge.plugin.paired import Paired
from flowgauge.results.rows import Group
from flowgauge.runners.table import INLINE, RUNNERS, STOCK
from flowgauge.waiting import patience
from patterns.caching import expiry_and_refresh, scope
from patterns.flows import basics as flow_basics
from patterns.flows import final_state
from patterns.retries import backoff, only_on
from patterns.subflows import nested, side_by_side
from patterns.task_runners import map_unmapped, runner_agnostic, sequential, shared_dask_cluster
from patterns.tasks import basics as task_basics
from patterns.tasks import timeout

Measure = Callable[..., None]
PARCELS = ["book", "lamp", "piano", "vase"]

everywhere = pytest.mark.runners(*INLINE, *(name for name in STOCK if RUNNERS[name].in_process))
inline = pytest.mark.runners(*INLINE)


@pytest.fixture
def measure(
    paired: Paired, task_runner: TaskRunner[Any], baseline: Baseline, runner_name: str
) -> Measure:
    """Measure a flow relative to plain code; both must return `expected`."""

    def measure(pattern: str, prefect_flow: Any, plain: Callable[[], Any], expected: Any) -> None:
        paired(
            prefect_flow,
            plain,
            check=lambda answer: answer == expected,
            id=pattern,
            group=Group.PATTERNS,
            figure="time per flow run",
            runner=runner_name,
            against=baseline.name,
        )

    return measure


@everywhere
def test_task_basics(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """Four tasks side by side, and one that receives their results."""
    post = task_basics.post.with_options(task_runner=task_runner)
    weigh, price = task_basics.weigh.fn, task_basics.price.fn
    measure(
        "tasks/basics",
        lambda: post(PARCELS),
        lambda: price(baseline.map(weigh, PARCELS)),
        price([weigh(parcel) for parcel in PARCELS]),
    )


@flow
def read_all(names: list[str]) -> list[str]:
    """Read sensors side by side, each with a deadline."""
    return list(timeout.read_sensor.map(names).result())


def read_in_process(name: str) -> str:
    """Read a sensor in a process with a timeout of ten seconds."""
    code = f"print({name!r} + ': 21 degrees')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=patience(10), check=True
    )
    return done.stdout.decode().strip()


@everywhere
def test_task_timeout(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """Two tasks with an enforceable deadline, each in its own process."""
    names = ["roof", "cellar"]
    measure(
        "tasks/timeout",
        lambda: read_all.with_options(task_runner=task_runner)(names),
        lambda: baseline.map(read_in_process, names),
        ["roof: 21 degrees", "cellar: 21 degrees"],
    )


@inline
def test_flow_basics(measure: Measure) -> None:
    """A flow with checked parameters and no task."""
    order: Any = {"article": "lamp", "pieces": "3"}
    measure(
        "flows/basics",
        lambda: flow_basics.ship(order),
        lambda: (
            f"{flow_basics.Order.model_validate(order).pieces} x {order['article']} shipped to Lyon"
        ),
        "3 x lamp shipped to Lyon",
    )


@everywhere
def test_flow_final_state(
    measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline
) -> None:
    """Nested futures that decide how the flow ends."""
    shelves = {"cellar": ["wine", "tools"], "attic": ["toys"]}
    take_stock = final_state.take_stock.with_options(task_runner=task_runner)
    count = final_state.count_stock.fn
    measure(
        "flows/final_state",
        lambda: take_stock(shelves),
        lambda: {room: baseline.map(count, names) for room, names in shelves.items()},
        {room: [len(name) for name in names] for room, names in shelves.items()},
    )


def book_at_second_attempt(bus: str) -> str:
    """Do what `plan_trip` does: book, fail, and keep the booking for the second attempt."""
    bookings: dict[str, str] = {}
    for attempt in (1, 2):
        if bus not in bookings:
            bookings[bus] = f"10 seats in bus {bus!r}"
        try:
            if attempt == 1:
                raise ConnectionError("no answer from the hotel")
        except ConnectionError:
            continue
    return bookings[bus]


@everywhere
def test_subflow_nested(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """A parent that is retried, and a subflow that isn't."""
    plan_trip = nested.plan_trip.with_options(task_runner=task_runner)
    measure(
        "subflows/nested",
        lambda: plan_trip(["42"])[0].partition(",")[0],
        lambda: baseline.map(book_at_second_attempt, ["42"])[0],
        "10 seats in bus '42'",
    )


@everywhere
def test_subflows_side_by_side(
    measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline
) -> None:
    """Three subflows, started from tasks."""
    islands = ["Skye", "Mull", "Iona"]
    survey_all = side_by_side.survey_all.with_options(task_runner=task_runner)
    measure(
        "subflows/side_by_side",
        lambda: survey_all(islands),
        lambda: baseline.map(side_by_side.survey.fn, islands),
        [f"map of {island}" for island in islands],
    )


@flow
def fetch_pages(urls: list[str]) -> list[str]:
    """Fetch pages that each fail once, without the delay, which is not a cost of Prefect."""
    fetch = backoff.fetch_page.with_options(retry_delay_seconds=0)
    return list(fetch.map(urls, [1] * len(urls)).result())


def at_second_attempt(answer: str) -> str:
    """Fail at the first attempt, and answer at the second."""
    for attempt in (1, 2):
        try:
            if attempt == 1:
                raise ConnectionError(f"no answer at attempt {attempt}")
        except ConnectionError:
            continue
    return f"{answer} at attempt {attempt}"


@everywhere
def test_retry_backoff(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """Two tasks that succeed at their second attempt."""
    urls = ["/home", "/news"]
    measure(
        "retries/backoff",
        lambda: fetch_pages.with_options(task_runner=task_runner)(urls),
        lambda: baseline.map(at_second_attempt, [f"{url}, read" for url in urls]),
        [f"{url}, read at attempt 2" for url in urls],
    )


@flow
def log_in_all(users: list[str]) -> list[str]:
    """Log in users at a service that drops each one's first connection."""
    return list(only_on.log_in.map(users, ["open sesame"] * len(users)).result())


@everywhere
def test_retry_only_on(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """Two tasks whose first error is one that is retried."""
    users = ["ali", "eve"]
    measure(
        "retries/only_on",
        lambda: log_in_all.with_options(task_runner=task_runner)(users),
        lambda: baseline.map(at_second_attempt, [f"{user} is in" for user in users]),
        [f"{user} is in at attempt 2" for user in users],
    )


@everywhere
def test_caching_scope(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """A call that is made twice in a flow run and executed once."""
    text = "no flow steps twice into the same run"

    def plain() -> list[int]:
        count = functools.cache(lambda text: baseline.map(scope.count_words.fn, [text])[0])
        return [count(text), count(text)]

    measure(
        "caching/scope",
        lambda: scope.count_twice.with_options(task_runner=task_runner)(text),
        plain,
        [8, 8],
    )


@everywhere
def test_caching_expiry_and_refresh(
    measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline, tmp_path: Path
) -> None:
    """Two results found in the cache, one of them by the content of a file."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("10 20 30")
    value = expiry_and_refresh.value_ledger.with_options(task_runner=task_runner)
    worth = value(ledger, "EUR")
    known = {hashlib.sha256(ledger.read_bytes()).hexdigest(): worth}
    measure(
        "caching/expiry_and_refresh",
        lambda: value(ledger, "EUR"),
        lambda: known[baseline.map(expiry_and_refresh.digest, [ledger])[0]],
        worth,
    )


@inline
def test_sequential(measure: Measure, baseline: Baseline) -> None:
    """Four tasks one after the other."""
    measure(
        "task_runners/sequential",
        lambda: sequential.load_van(PARCELS),
        lambda: sum(baseline.map(sequential.weigh.fn, PARCELS)),
        17,
    )


def price_in_waves(bill: runner_agnostic.Bill, baseline: Baseline) -> dict[str, int]:
    """Price parts in waves; each wave has the parts whose own parts have a price."""
    prices: dict[str, int] = {}
    while len(prices) < len(bill):
        wave = [
            part
            for part, (_, parts) in bill.items()
            if part not in prices and all(needed in prices for needed in parts)
        ]
        calls = [(bill[part][0], [prices[needed] for needed in bill[part][1]]) for part in wave]
        prices.update(zip(wave, baseline.map(assemble_call, calls), strict=True))
    return prices


def assemble_call(call: tuple[int, list[int]]) -> int:
    """Assemble from a single argument, as pools pass it."""
    return runner_agnostic.assemble.fn(*call)


@everywhere
def test_runner_agnostic(
    measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline
) -> None:
    """Four tasks that depend on each other."""
    bicycle: runner_agnostic.Bill = {
        "spoke": (1, []),
        "rim": (20, []),
        "wheel": (15, ["rim", "spoke", "spoke"]),
        "bicycle": (60, ["wheel", "wheel"]),
    }
    price_parts = runner_agnostic.price_parts.with_options(task_runner=task_runner)
    measure(
        "task_runners/runner_agnostic",
        lambda: price_parts(bicycle),
        lambda: price_in_waves(bicycle, baseline),
        {"spoke": 1, "rim": 20, "wheel": 37, "bicycle": 134},
    )


def price_parcel(parcel: str, prices: map_unmapped.Prices) -> str:
    """Weigh and quote one parcel."""
    price = map_unmapped.quote.fn(map_unmapped.weigh.fn(parcel), prices, "far")
    return f"{parcel}: {price:.2f}"


@everywhere
def test_noise(paired: Paired, task_runner: TaskRunner[Any], runner_name: str) -> None:
    """The noise: a pattern compared with itself."""
    post = task_basics.post.with_options(task_runner=task_runner)
    cost = task_basics.price.fn([task_basics.weigh.fn(parcel) for parcel in PARCELS])
    paired.against_itself(
        lambda: post(PARCELS),
        of=Group.PATTERNS,
        check=lambda answer: answer == cost,
        id="tasks/basics",
        figure="time per flow run",
        runner=runner_name,
    )


@everywhere
def test_map_unmapped(measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline) -> None:
    """Two mapped tasks for each of two parcels."""
    prices = {"near": 2.0, "far": 5.0}
    parcels = PARCELS[:2]
    label_parcels = map_unmapped.label_parcels.with_options(task_runner=task_runner)
    measure(
        "task_runners/map_unmapped",
        lambda: label_parcels(parcels, prices, "far"),
        lambda: baseline.map(functools.partial(price_parcel, prices=prices), parcels),
        ["book: 10.00", "lamp: 10.00"],
    )


def by_workers(processes: Iterable[int]) -> bool:
    """Return whether work was done, and only by other processes than this one."""
    process_ids = set(processes)
    return bool(process_ids) and os.getpid() not in process_ids


@pytest.mark.runners(*(name for name in STOCK if RUNNERS[name].cluster))
def test_shared_dask_cluster(
    measure: Measure, task_runner: TaskRunner[Any], baseline: Baseline
) -> None:
    """Four tasks on a cluster that is up."""
    develop_film = shared_dask_cluster.develop_film.with_options(task_runner=task_runner)
    measure(
        "task_runners/shared_dask_cluster",
        lambda: by_workers(develop_film(PARCELS)),
        lambda: by_workers(baseline.map(shared_dask_cluster.develop.fn, PARCELS)),
        True,
    )
