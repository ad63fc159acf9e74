# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/map_unmapped.py`."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import allow_failure, flow, task, unmapped
from prefect.client.schemas.objects import State
from prefect.exceptions import MappingLengthMismatch, MappingMissingIterable
from prefect.task_runners import TaskRunner

from flowgauge.waiting import wait_until
from patterns.task_runners import map_unmapped
from patterns.task_runners.map_unmapped import (
    CannotBeSent,
    label_parcels,
    label_parcels_async,
    quote,
    weigh,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/map_unmapped"

weights = st.lists(st.integers(1, 60).map(float), max_size=6)
prices = st.fixed_dictionaries({"near": st.floats(1, 9), "far": st.floats(1, 9)})


@pytest.mark.guarantee(NAME, "order")
@settings(max_examples=2)
@given(parcels=st.lists(st.text(min_size=1, max_size=9), max_size=6))
@example(parcels=["a", "bcd", "a"])
@example(parcels=[])
def test_labels_are_in_the_order_of_the_parcels(
    task_runner: TaskRunner[Any], parcels: list[str]
) -> None:
    """The n-th label belongs to the n-th parcel, and no parcels give no labels."""
    labelled = label_parcels.with_options(task_runner=task_runner)
    assert labelled(parcels, {"far": 2}, "far") == [
        f"{parcel}: {len(parcel):.2f}" for parcel in parcels
    ]


@pytest.mark.fact(NAME, "ordered")
def test_results_keep_their_order_when_the_first_item_finishes_last(
    task_runner: TaskRunner[Any], runner_name: str, tmp_path: Path
) -> None:
    """Results are in the order of the items, even if the first item finishes last.

    Where one task runs at a time, the first item is also the first to finish.
    """
    waits = runner_name != "sequential"

    @task
    def finish(item: int) -> int:
        wait_until(lambda: item > 0 or not waits or (tmp_path / "1").exists())
        (tmp_path / str(item)).touch()
        return item

    @flow(task_runner=task_runner)
    def finished() -> list[int]:
        return list(finish.map(range(3)).result())

    assert finished() == [0, 1, 2]


@pytest.mark.fact(NAME, "lengths")
def test_different_lengths_are_an_error_before_any_task_runs(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Items of different lengths are an error, and no task is run."""

    @task
    def note(left: int, right: int) -> None:
        (tmp_path / "ran").touch()

    @flow(task_runner=task_runner)
    def notes() -> None:
        note.map([1, 2], [1, 2, 3])

    with pytest.raises(MappingLengthMismatch):
        notes()
    assert not (tmp_path / "ran").exists()


@task
def repeat(item: int, value: Any) -> Any:
    """Return the value that is passed along with an item."""
    return value


@pytest.mark.fact(NAME, "dealt")
@pytest.mark.runners("sequential", "threads")
def test_strings_bytes_and_numbers_need_no_unmapped(task_runner: TaskRunner[Any]) -> None:
    """A string, bytes and anything that is not iterable are the same for every item."""
    values: list[Any] = ["ab", b"ab", 5, None]

    @flow(task_runner=task_runner)
    def repeated() -> list[Any]:
        return [repeat.map([1, 2], value).result() for value in values]

    assert repeated() == [[value, value] for value in values]


@pytest.mark.fact(NAME, "dealt")
@pytest.mark.runners("sequential", "threads")
def test_a_dict_is_dealt_out_key_by_key(task_runner: TaskRunner[Any]) -> None:
    """A dict without `unmapped` is dealt out key by key, as long as its length fits."""

    @flow(task_runner=task_runner)
    def repeated() -> list[Any]:
        return list(repeat.map([1, 2], {"near": 2.0, "far": 5.0}).result())

    assert repeated() == ["near", "far"]


@pytest.mark.guarantee(NAME, "unmapped")
@settings(max_examples=2)
@given(kilograms=st.lists(st.integers(1, 30).map(float), min_size=1, max_size=4), prices=prices)
@example(kilograms=[1.0, 30.0, 2.0], prices={"near": 1.5, "far": 4.0})
@example(kilograms=[1.0, 30.0], prices={"near": 1.5, "far": 4.0})
def test_every_parcel_is_quoted_from_the_whole_price_list(
    task_runner: TaskRunner[Any], kilograms: list[float], prices: dict[str, float]
) -> None:
    """The pattern's flow prices every parcel from the whole list, even if their numbers differ."""
    parcels = ["x" * int(2 * weight) for weight in kilograms]
    labels = label_parcels.with_options(task_runner=task_runner)(parcels, prices, "far")
    assert labels == [
        f"{parcel}: {weight * prices['far']:.2f}"
        for parcel, weight in zip(parcels, kilograms, strict=True)
    ]


@pytest.mark.fact(NAME, "items")
def test_nothing_to_deal_out_is_an_error() -> None:
    """`map` without any items to deal out is an error."""
    with pytest.raises(MappingMissingIterable):
        flow(lambda: repeat.map(1, unmapped([1, 2])))()


@pytest.mark.fact(NAME, "defaults")
def test_a_default_is_passed_whole(task_runner: TaskRunner[Any]) -> None:
    """A sequence that is a parameter's default is passed whole to any number of items (#9020)."""

    @flow(task_runner=task_runner)
    def quoted() -> list[float]:
        return list(quote.map([0.1, 1.0, 2.0], unmapped({"far": 2.0}), "far").result())

    assert quoted() == [1.0, 2.0, 4.0]


@pytest.mark.fact(NAME, "defaults")
@pytest.mark.runners("sequential", "threads")
def test_the_default_as_an_argument_is_dealt_out(task_runner: TaskRunner[Any]) -> None:
    """Passed as an argument, the same sequence as the default is dealt out: its length must fit."""

    @flow(task_runner=task_runner)
    def quoted() -> None:
        quote.map([0.1, 1.0, 2.0], unmapped({"far": 2.0}), "far", (0.5, 30))

    with pytest.raises(MappingLengthMismatch, match="'limits': 2"):
        quoted()


@pytest.mark.fact(NAME, "futures")
def test_items_may_be_futures(task_runner: TaskRunner[Any]) -> None:
    """A list of futures is dealt out, and a future of a list is waited for and dealt out."""

    @task
    def list_parcels() -> list[str]:
        return ["a", "bcd"]

    @flow(task_runner=task_runner)
    def quoted() -> list[list[float]]:
        kilograms = weigh.map(list_parcels.submit())
        listed = [weigh.submit("a"), weigh.submit("bcd")]
        cheap = unmapped({"far": 2.0})
        futures: Any = [quote.map(items, cheap, "far") for items in (kilograms, listed)]
        return [future.result() for future in futures]

    assert quoted() == [[1.0, 3.0], [1.0, 3.0]]


@pytest.mark.guarantee(NAME, "apart")
@settings(max_examples=2)
@given(parcels=st.lists(st.sampled_from(["", "a", "bcd"]), min_size=1, max_size=5))
@example(parcels=["", "bcd", "", "a"])
def test_a_failed_item_does_not_affect_the_others(
    task_runner: TaskRunner[Any], parcels: list[str]
) -> None:
    """An item that fails does not affect the others, and their results are available."""

    @flow(task_runner=task_runner)
    def weighed() -> list[Any]:
        futures: Any = weigh.map(parcels)
        return [future.result(raise_on_failure=False) for future in futures]

    for parcel, outcome in zip(parcels, weighed(), strict=True):
        if parcel:
            assert outcome == len(parcel) / 2
        else:
            assert isinstance(outcome, CannotBeSent)


@pytest.mark.fact(NAME, "together")
def test_the_results_together_raise_the_error_of_one(task_runner: TaskRunner[Any]) -> None:
    """Asking for all results at once raises the error of the item that failed."""

    @flow(task_runner=task_runner)
    def weighed() -> list[Any]:
        return list(weigh.map(["a", ""]).result())

    with pytest.raises(CannotBeSent, match="nothing to weigh"):
        weighed()


@pytest.mark.guarantee(NAME, "apart")
def test_every_parcel_gets_a_label(task_runner: TaskRunner[Any]) -> None:
    """The pattern's flow labels all parcels, even those whose weight or price failed."""
    labelled = label_parcels.with_options(task_runner=task_runner)
    too_heavy = "x" * 100
    labels = labelled(["a", "", too_heavy], {"far": 2}, "far")
    assert labels == [
        "a: 1.00",
        ": there is nothing to weigh",
        f"{too_heavy}: 50.0 kg is more than 30 kg",
    ]


@pytest.mark.guarantee(NAME, "errors")
def test_an_error_that_is_not_the_parcels_fails_the_flow(task_runner: TaskRunner[Any]) -> None:
    """A zone without a price fails the flow with the error of the task."""
    labelled = label_parcels.with_options(task_runner=task_runner)
    state: State[list[str]] = labelled(["", "lamp", "book"], {"near": 2}, "fra", return_state=True)
    assert state.is_failed()
    with pytest.raises(KeyError, match="fra"):
        state.result()


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads", "processes")
def test_the_async_flow_gives_the_same_labels(task_runner: TaskRunner[Any]) -> None:
    """The async flow gives the same labels as the sync one, and fails if a zone has no price."""
    labelled = label_parcels_async.with_options(task_runner=task_runner)

    async def twice() -> tuple[list[str], State[list[str]]]:
        labels = await labelled(["a", "", "bcd"], {"far": 2}, "far")
        return labels, await labelled(["a"], {"far": 2}, "fra", return_state=True)

    labels, failed = asyncio.run(twice())
    assert labels == ["a: 1.00", ": there is nothing to weigh", "bcd: 3.00"]
    assert failed.is_failed()


@pytest.mark.guarantee(NAME, "async")
@pytest.mark.runners("threads")
def test_the_event_loop_is_not_blocked(
    task_runner: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The async flow waits for its tasks in a different thread from that of the event loop."""
    waited_in: list[int] = []
    label = map_unmapped.label

    def noted(*of_a_parcel: Any) -> str:
        waited_in.append(threading.get_ident())
        return label(*of_a_parcel)

    monkeypatch.setattr(map_unmapped, "label", noted)
    labelled = label_parcels_async.with_options(task_runner=task_runner)

    async def main() -> int:
        assert await labelled(["a"], {"far": 2}, "far") == ["a: 1.00"]
        return threading.get_ident()

    loops_own = asyncio.run(main())
    assert len(waited_in) == 1
    assert loops_own not in waited_in


@task
def name_kind(value: Any) -> str:
    """Return the name of a value's type."""
    return type(value).__name__


ON_DASK = "on Dask a future in `allow_failure` reaches the task as it is, whatever its result"


@pytest.mark.fact(
    NAME, "allow-failure", runners=("sequential", "threads", "processes"), reason=ON_DASK
)
def test_an_allowed_failure_arrives_as_its_error(task_runner: TaskRunner[Any]) -> None:
    """A task that takes items in `allow_failure` gets the error of those that failed."""

    @flow(task_runner=task_runner)
    def kinds() -> list[str]:
        return list(name_kind.map(allow_failure(weigh.map(["a", ""]))).result())

    state: State[list[str]] = kinds(return_state=True)
    assert state.is_completed(), state.message
    assert state.result() == ["float", "CannotBeSent"]


@pytest.mark.fact(
    NAME,
    "allow-failure",
    runners=("sequential", "threads"),
    reason=f"{ON_DASK}; on a process pool the future of a task that was not run raises",
    issue=22918,
)
def test_an_allowed_item_that_was_not_run_arrives_as_none(task_runner: TaskRunner[Any]) -> None:
    """A task that takes items in `allow_failure` gets None for those that were not run."""

    @flow(task_runner=task_runner)
    def kinds() -> list[str]:
        quotes = quote.map(weigh.map(["a", ""]), unmapped({"far": 2.0}), "far")
        return list(name_kind.map(allow_failure(quotes)).result())

    state: State[list[str]] = kinds(return_state=True)
    assert state.is_completed(), state.message
    assert state.result() == ["float", "NoneType"]
