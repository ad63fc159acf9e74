# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/expiry_and_refresh.py`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from patterns.caching.expiry_and_refresh import (
    FileContent,
    fetch_rate,
    sum_ledger,
    value_ledger,
)

NAME = "caching/expiry_and_refresh"

Rate = Task[..., float]
aged: Rate = fetch_rate.with_options(cache_expiration=timedelta(seconds=-1))
"""The same task, whose results are too old as soon as they are written."""


@pytest.fixture
def currency() -> str:
    """Give an argument that no other test has cached a result for."""
    return uuid.uuid4().hex


def fetched(
    task_runner: TaskRunner[Any], currency: str, *rates: Rate
) -> list[tuple[str | None, float]]:
    """Return the final state's name and the value of each call, one call after the other."""

    @flow(task_runner=task_runner)
    def fetches() -> list[tuple[str | None, float]]:
        outcomes = []
        for rate in rates:
            future = rate.submit(currency)
            outcomes.append((future.result(), future.state.name))
        return [(name, value) for value, name in outcomes]

    return fetches()


@pytest.mark.guarantee(NAME, "fresh")
def test_a_fresh_result_is_reused(task_runner: TaskRunner[Any], currency: str) -> None:
    """A result younger than `cache_expiration` is reused, in this run and the next."""
    (first, value), again = fetched(task_runner, currency, fetch_rate, fetch_rate)
    assert first == "Completed"
    assert again == ("Cached", value)
    assert fetched(task_runner, currency, fetch_rate) == [("Cached", value)]


@pytest.mark.guarantee(NAME, "fresh")
def test_the_rate_of_the_pattern_is_good_for_an_hour() -> None:
    """The pattern's task carries the expiration that its docstring names."""
    assert fetch_rate.cache_expiration == timedelta(hours=1)


@pytest.mark.guarantee(NAME, "expired")
def test_an_expired_result_is_made_again(task_runner: TaskRunner[Any], currency: str) -> None:
    """An older result is not reused; the task runs again, and the new result is reused."""
    (old_name, old), (new_name, new), again = fetched(
        task_runner, currency, aged, fetch_rate, fetch_rate
    )
    assert (old_name, new_name) == ("Completed", "Completed")
    assert old != new
    assert again == ("Cached", new)


@pytest.mark.guarantee(NAME, "written")
def test_the_age_limit_is_fixed_when_the_result_is_written(
    task_runner: TaskRunner[Any], currency: str
) -> None:
    """A shorter `cache_expiration` set later doesn't make an existing result older."""
    (_, value), later = fetched(task_runner, currency, fetch_rate, aged)
    assert later == ("Cached", value)


@pytest.mark.guarantee(NAME, "refresh")
def test_a_refreshed_result_replaces_the_cached_one(
    task_runner: TaskRunner[Any], currency: str
) -> None:
    """`refresh_cache=True` runs the task, and later runs reuse the new result."""
    refreshed = fetch_rate.with_options(refresh_cache=True)
    (_, old), (name, new), later = fetched(task_runner, currency, fetch_rate, refreshed, fetch_rate)
    assert name == "Completed"
    assert old != new
    assert later == ("Cached", new)


@pytest.mark.guarantee(NAME, "refresh")
def test_the_flow_of_the_pattern_refreshes_when_told(
    task_runner: TaskRunner[Any], currency: str, tmp_path: Path
) -> None:
    """The pattern's flow gives the same value until it is told to refresh."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("10 20")
    value = value_ledger.with_options(task_runner=task_runner)
    first = value(ledger, currency)
    assert value(ledger, currency) == first
    assert value(ledger, currency, refresh=True) != first


@pytest.mark.guarantee(NAME, "refresh-all")
def test_the_setting_refreshes_all_tasks_that_do_not_refuse(
    task_runner: TaskRunner[Any], currency: str
) -> None:
    """`PREFECT_TASKS_REFRESH_CACHE` refreshes every task but those that refuse."""
    refusing = fetch_rate.with_options(refresh_cache=False)
    [(_, old)] = fetched(task_runner, currency, fetch_rate)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        refused, (name, new) = fetched(task_runner, currency, refusing, fetch_rate)
    assert refused == ("Cached", old)
    assert name == "Completed"
    assert new != old


@pytest.mark.guarantee(NAME, "content")
def test_a_file_with_other_content_is_read_again(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task that is given a file runs again when its content changes, and only then."""
    ledger = tmp_path / "ledger.txt"
    cents = uuid.uuid4().int / 1e38

    @flow(task_runner=task_runner)
    def total(ledger: Path) -> tuple[float, str | None]:
        future = sum_ledger.submit(ledger)
        return future.result(), future.state.name

    ledger.write_text(f"1 {cents}")
    assert total(ledger) == (1 + cents, "Completed")
    os.utime(ledger, (0, 0))
    assert total(ledger) == (1 + cents, "Cached")
    copy = shutil.copy(ledger, tmp_path / "copy.txt")
    assert total(Path(copy)) == (1 + cents, "Cached")
    ledger.write_text(f"2 {cents}")
    assert total(ledger) == (2 + cents, "Completed")


@pytest.mark.guarantee(NAME, "content")
@settings(max_examples=50)
@given(
    left=st.tuples(st.binary(max_size=2), st.sampled_from(["EUR", "USD"])),
    right=st.tuples(st.binary(max_size=2), st.sampled_from(["EUR", "USD"])),
)
def test_keys_are_equal_if_and_only_if_contents_are(
    tmp_path_factory: pytest.TempPathFactory, left: tuple[bytes, str], right: tuple[bytes, str]
) -> None:
    """Two calls have one key if and only if their files' contents and other arguments are equal."""

    def key(content: bytes, unit: str) -> str | None:
        ledger = tmp_path_factory.mktemp("contents") / "ledger.txt"
        ledger.write_bytes(content)
        task_ctx: Any = None
        return FileContent().compute_key(task_ctx, {"ledger": ledger, "unit": unit}, {})

    assert (key(*left) == key(*right)) == (left == right)


@pytest.mark.guarantee(NAME, "damaged")
def test_a_damaged_result_is_made_again(task_runner: TaskRunner[Any]) -> None:
    """A cached result whose file is gone, cut short or written over is made again."""
    damages: dict[str, Callable[[bytes], bytes | None]] = {
        "gone": lambda content: None,
        "empty": lambda content: b"",
        "cut": lambda content: content[:-20],
        "overwritten": lambda content: b"no result",
    }
    currencies = {damage: f"{damage} {uuid.uuid4()}" for damage in damages}

    @flow(task_runner=task_runner)
    def rates() -> list[tuple[str | None, float, str]]:
        futures: Any = fetch_rate.map(list(currencies.values()))
        futures.wait()
        return [
            (future.state.name, future.result(), future.state.data.metadata.storage_key)
            for future in futures
        ]

    first = rates()
    for damage, (_, _, key) in zip(damages, first, strict=True):
        result = PREFECT_LOCAL_STORAGE_PATH.value() / key
        remains = damages[damage](result.read_bytes())
        result.unlink() if remains is None else result.write_bytes(remains)
    again = rates()
    for damage, before, after in zip(damages, first, again, strict=True):
        assert (damage, after[0]) == (damage, "Completed")
        assert after[1] != before[1]
    assert rates() == [("Cached", value, key) for _, value, key in again]
