# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/expiry_and_refresh.py`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CachePolicy
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from patterns.caching.expiry_and_refresh import (
    BY_CONTENT,
    FileContent,
    digest,
    fetch_rate,
    sum_ledger,
    value_ledger,
)

NAME = "caching/expiry_and_refresh"

Rate = Task[..., float]
aged: Rate = fetch_rate.with_options(cache_expiration=timedelta(seconds=-1))
"""The same task, but with results that are expired as soon as they are written."""


@pytest.fixture
def currency() -> str:
    """Return an argument that no other test has cached a result for."""
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
def test_the_rate_of_the_pattern_is_valid_for_an_hour() -> None:
    """The pattern's task has the expiration that its docstring states: an hour."""
    assert fetch_rate.cache_expiration == timedelta(hours=1)


@pytest.mark.guarantee(NAME, "fresh")
def test_an_expired_result_is_computed_again(task_runner: TaskRunner[Any], currency: str) -> None:
    """An expired result is not reused; the task runs again, and the new result is reused."""
    (old_name, old), (new_name, new), again = fetched(
        task_runner, currency, aged, fetch_rate, fetch_rate
    )
    assert (old_name, new_name) == ("Completed", "Completed")
    assert old != new
    assert again == ("Cached", new)


@pytest.mark.fact(NAME, "written")
def test_the_age_limit_is_fixed_when_the_result_is_written(
    task_runner: TaskRunner[Any], currency: str
) -> None:
    """A shorter `cache_expiration` set later doesn't make an existing result expire sooner."""
    (_, value), later = fetched(task_runner, currency, fetch_rate, aged)
    assert later == ("Cached", value)


@pytest.mark.guarantee(NAME, "refresh")
def test_the_flow_of_the_pattern_follows_the_setting(currency: str, tmp_path: Path) -> None:
    """Without `refresh=True` the setting decides whether the pattern's flow fetches the rate."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("10 20")
    first = value_ledger(ledger, currency)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        refreshed = value_ledger(ledger, currency)
    assert refreshed != first
    assert value_ledger(ledger, currency) == refreshed


@pytest.mark.fact(NAME, "refreshed")
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
def test_the_flow_of_the_pattern_refreshes_on_request(
    task_runner: TaskRunner[Any], currency: str, tmp_path: Path
) -> None:
    """The pattern's flow returns the same value until it is called with `refresh=True`."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("10 20")
    value = value_ledger.with_options(task_runner=task_runner)
    first = value(ledger, currency)
    assert value(ledger, currency) == first
    assert value(ledger, currency, refresh=True) != first


@pytest.mark.fact(NAME, "refusing")
def test_the_setting_refreshes_all_tasks_that_do_not_refuse(
    task_runner: TaskRunner[Any], currency: str
) -> None:
    """`PREFECT_TASKS_REFRESH_CACHE` refreshes all tasks but those with `refresh_cache=False`."""
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
    """A task that takes a file runs again when the file's content changes, and only then."""
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


def key(inputs: dict[str, Any], reader: Task[..., Any] = sum_ledger) -> str:
    """Return the cache key of a call."""
    task_ctx: Any = SimpleNamespace(task=reader)
    return FileContent().compute_key(task_ctx, inputs, {})


@pytest.mark.guarantee(NAME, "content")
@settings(max_examples=50)
@given(
    left=st.tuples(st.binary(max_size=2), st.sampled_from(["EUR", "USD"])),
    right=st.tuples(st.binary(max_size=2), st.sampled_from(["EUR", "USD"])),
)
def test_keys_are_equal_if_and_only_if_contents_are(
    tmp_path_factory: pytest.TempPathFactory, left: tuple[bytes, str], right: tuple[bytes, str]
) -> None:
    """Calls have equal keys if and only if their files' contents and other arguments are equal."""

    def of(content: bytes, unit: str) -> str:
        ledger = tmp_path_factory.mktemp("contents") / "ledger.txt"
        ledger.write_bytes(content)
        return key({"ledger": ledger, "unit": unit})

    assert (of(*left) == of(*right)) == (left == right)


@pytest.mark.guarantee(NAME, "content")
@settings(max_examples=5)
@given(at=st.sampled_from([0, 2**16, 2**20, 3 * 2**20]))
def test_a_change_anywhere_in_a_large_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    """Changing one byte of a 3 MiB file, wherever it is, changes the key."""
    ledger = tmp_path_factory.mktemp("large") / "ledger.txt"
    content = bytearray(3 * 2**20 + 1)
    ledger.write_bytes(content)
    before = key({"ledger": ledger})
    content[at] = 1
    ledger.write_bytes(content)
    assert key({"ledger": ledger}) != before


@pytest.mark.guarantee(NAME, "content")
def test_arguments_are_distinguished_by_type() -> None:
    """Similar arguments of different types have different keys, and so do a file and its digest."""
    arguments: list[Any] = [(1,), [1], {1: "a"}, {"1": "a"}, 1, True, 1.0, "1", b"1", None]
    assert len({key({"value": value}) for value in arguments}) == len(arguments)
    assert key({"value": Path(__file__)}) != key({"value": digest(Path(__file__))})


@pytest.mark.guarantee(NAME, "content")
def test_a_string_that_appears_twice_counts_as_its_copy() -> None:
    """Whether two equal strings are one object or two makes no difference to the key."""
    text = "to and fro"
    assert key({"value": [text, text]}) == key({"value": [text, "".join(text)]})


@dataclass(frozen=True)
class Account:
    """A dataclass that may contain ledgers."""

    owner: str
    ledgers: Any


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for containers of what another strategy draws."""
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3),
        st.builds(Account, st.text(max_size=2), inner),
    )


@pytest.mark.guarantee(NAME, "nested")
@settings(max_examples=25)
@given(nested=around(st.recursive(st.just(...), around, max_leaves=4)))
@example(nested=[...])
@example(nested={"ledger": ...})
@example(nested=Account("ann", (..., {"old": [...]})))
def test_nested_files_are_found(tmp_path_factory: pytest.TempPathFactory, nested: Any) -> None:
    """A file nested in lists, tuples, dicts and dataclasses is identified by its content."""
    folder = tmp_path_factory.mktemp("nested")
    ledger, copy, other = folder / "ledger.txt", folder / "copy.txt", folder / "other.txt"
    for file, content in {ledger: "30", copy: "30", other: "100"}.items():
        file.write_text(content)

    def holding(value: Any, file: Path) -> Any:
        match value:
            case list() | tuple():
                return type(value)(holding(item, file) for item in value)
            case dict():
                return {name: holding(item, file) for name, item in value.items()}
            case Account():
                return Account(value.owner, holding(value.ledgers, file))
        return file

    known = key({"ledgers": holding(nested, ledger)})
    assert key({"ledgers": holding(nested, copy)}) == known
    assert key({"ledgers": holding(nested, other)}) != known


@pytest.mark.guarantee(NAME, "nested")
@pytest.mark.runners("threads", "processes")
def test_a_list_of_files_is_read_again_when_one_has_changed(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """A task that takes a list of files runs again when one of them has changed."""

    @task(cache_policy=BY_CONTENT)
    def sum_ledgers(ledgers: list[Path]) -> float:
        return sum(float(ledger.read_text()) for ledger in ledgers)

    @flow(task_runner=task_runner)
    def total(ledgers: list[Path]) -> tuple[float, str | None]:
        future = sum_ledgers.submit(ledgers)
        return future.result(), future.state.name

    ledgers = [tmp_path / "old.txt", tmp_path / "new.txt"]
    cents = uuid.uuid4().int / 1e38
    for ledger in ledgers:
        ledger.write_text(f"{cents}")
    assert total(ledgers) == (2 * cents, "Completed")
    assert total(ledgers) == (2 * cents, "Cached")
    ledgers[1].write_text("100")
    assert total(ledgers) == (cents + 100, "Completed")


@pytest.mark.guarantee(NAME, "nested")
def test_a_string_is_not_a_path(tmp_path: Path) -> None:
    """A `str` that names a file has the same key after the file has changed."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("30")
    before = key({"ledger": str(ledger)})
    ledger.write_text("100")
    assert key({"ledger": str(ledger)}) == before


@pytest.mark.guarantee(NAME, "unreadable")
@pytest.mark.parametrize("name", ["folder", "missing"])
def test_calls_with_unreadable_paths_are_not_reused(name: str, tmp_path: Path) -> None:
    """A task whose argument is a folder, or a file that does not exist, runs each time."""
    (tmp_path / "folder").mkdir()
    runs = COUNTS[str(tmp_path)] = []

    @flow
    def twice() -> None:
        for _ in range(2):
            note_run(str(tmp_path), tmp_path / name)

    twice()
    assert len(runs) == 2


COUNTS: dict[str, list[Path]] = {}


@task(cache_policy=BY_CONTENT)
def note_run(key: str, path: Path) -> None:
    """Note a run of this task."""
    COUNTS[key].append(path)


def scaled_by(factor: int, policy: CachePolicy = BY_CONTENT) -> Task[..., float]:
    """Return a task that multiplies by a factor."""

    @task(cache_policy=policy)
    def scale(ledger: Path) -> float:
        return factor * float(ledger.read_text())

    return scale


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_created_from_different_values_share_nothing(tmp_path: Path) -> None:
    """Tasks that one function created from different values share no results."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text(f"{uuid.uuid4().int / 1e38}")
    value = float(ledger.read_text())

    @flow
    def scaled() -> list[float]:
        return [scaled_by(factor)(ledger) for factor in (1, 1000, 1)]

    assert scaled() == [value, 1000 * value, value]
    assert key({"ledger": ledger}, scaled_by(1)) == key({"ledger": ledger}, scaled_by(1))


@pytest.mark.fact(NAME, "closures")
def test_tasks_created_from_different_values_share_results_by_inputs_and_source(
    tmp_path: Path,
) -> None:
    """With `INPUTS + TASK_SOURCE` a task gets the result of one created from another value."""
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("3")

    @flow
    def scaled() -> list[float]:
        return [scaled_by(factor, INPUTS + TASK_SOURCE)(ledger) for factor in (1, 1000)]

    assert scaled() == [3, 3]


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_of_two_modules_share_nothing() -> None:
    """Two tasks with the same source and name in two modules have different keys."""
    text = "from prefect import task\n@task\ndef read(ledger): return parse(ledger)"
    modules: list[dict[str, Any]] = [{"__name__": "csv_shop"}, {"__name__": "xml_shop"}]
    for module in modules:
        exec(text, module)
    assert len({key({"ledger": 1}, module["read"]) for module in modules}) == 2


@pytest.mark.fact(NAME, "shared")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_reused_result_is_the_object_that_was_returned(tmp_path: Path, in_memory: bool) -> None:
    """In a run, changing a reused result changes it for everyone, unless none is kept in memory."""
    file = tmp_path / "rows"
    file.write_text("1 2")

    @task(cache_policy=BY_CONTENT, cache_result_in_memory=in_memory)
    def rows(file: Path) -> list[str]:
        return file.read_text().split()

    @flow
    def use() -> list[str]:
        rows(file).append("sum")
        return rows(file)

    assert use() == (["1", "2", "sum"] if in_memory else ["1", "2"])


@pytest.mark.fact(NAME, "damaged")
def test_a_damaged_result_is_computed_again(task_runner: TaskRunner[Any]) -> None:
    """A cached result whose file is missing, truncated or overwritten is computed again."""
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
