# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/runner_agnostic.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.exceptions import UpstreamTaskError
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flowgauge.waiting import wait_until
from patterns.task_runners import runner_agnostic
from patterns.task_runners.runner_agnostic import (
    Bill,
    assemble,
    check_parts,
    price_parts,
    task_runner_for,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/runner_agnostic"


@st.composite
def bills(draw: st.DrawFn, costs: st.SearchStrategy[int]) -> Bill:
    """Draw a bill of parts, each of which may need any parts before it."""
    bill: Bill = {}
    for number in range(draw(st.integers(0, 7))):
        earlier = list(bill)
        parts = st.lists(st.sampled_from(earlier), max_size=3) if earlier else st.just([])
        bill[f"part {number}"] = (draw(costs), draw(parts))
    return bill


def priced(bill: Bill) -> dict[str, int]:
    """Return the prices, worked out without Prefect."""
    prices: dict[str, int] = {}
    for part, (cost, parts) in bill.items():
        prices[part] = cost + sum(prices[needed] for needed in parts)
    return prices


def ended(bill: Bill) -> dict[str, str]:
    """Return how each part must end, worked out without Prefect."""
    states: dict[str, str] = {}
    for part, (cost, parts) in bill.items():
        ready = all(states[needed] == "Completed" for needed in parts)
        states[part] = "NotReady" if not ready else "Failed" if cost < 0 else "Completed"
    return states


@pytest.mark.guarantee(NAME, "values")
@settings(max_examples=3)
@given(bill=bills(st.integers(0, 100)))
@example(bill={"a": (3, []), "b": (5, ["a", "a"]), "c": (0, []), "d": (2, ["a", "b", "c"])})
def test_values_are_those_of_plain_python(task_runner: TaskRunner[Any], bill: Bill) -> None:
    """The flow gives the same values as plain Python, whatever its tasks depend on."""
    assert price_parts.with_options(task_runner=task_runner)(bill) == priced(bill)


@task
def opened(parcel: Any) -> Any:
    """Return the content of a parcel, or the name of its type if it is a future."""
    inside = parcel
    if isinstance(parcel, Box | Model):
        inside = parcel.inside
    elif isinstance(parcel, dict) and "inside" not in parcel:
        inside = next(iter(parcel))
    return type(inside).__name__ if "Future" in type(inside).__name__ else inside


@dataclass
class Box:
    """A dataclass with something inside."""

    inside: Any


class Model(pydantic.BaseModel):
    """A Pydantic model with something inside."""

    inside: Any


@pytest.mark.guarantee(NAME, "values")
def test_futures_in_collections_are_resolved(task_runner: TaskRunner[Any]) -> None:
    """A future in a list, tuple, set or dict value, even nested, reaches the task as its result."""

    @flow(task_runner=task_runner)
    def parcels() -> list[Any]:
        seven = assemble.submit(7, [])
        packed = [seven, [seven], (seven,), {seven}, {"inside": seven}, [({"inside": {seven}},)]]
        return [each.result() for each in [opened.submit(parcel) for parcel in packed]]

    assert parcels() == [7, [7], (7,), {7}, {"inside": 7}, [({"inside": {7}},)]]


@pytest.mark.fact(NAME, "unresolved")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_dask_does_not_look_for_futures_everywhere(
    task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """A future in a dataclass, model or key is resolved on threads and processes, not on Dask."""

    @flow(task_runner=task_runner)
    def parcels() -> list[Any]:
        seven = assemble.submit(7, [])
        # Dask would not wait for it either.
        seven.wait()
        packed = [Box(seven), Model(inside=seven), {seven: 1}]
        return [each.result() for each in [opened.submit(parcel) for parcel in packed]]

    assert parcels() == [7 if "dask" not in runner_name else "Future"] * 3


@pytest.mark.guarantee(NAME, "states")
@settings(max_examples=3)
@given(bill=bills(st.integers(-1, 2)))
@example(bill={"a": (-1, []), "b": (1, ["a"]), "c": (0, []), "d": (2, ["c"]), "e": (1, ["b"])})
def test_failures_end_in_the_same_states(task_runner: TaskRunner[Any], bill: Bill) -> None:
    """A task that raises fails, tasks that need it are not run, and everything else completes."""
    assert check_parts.with_options(task_runner=task_runner)(bill) == ended(bill)


@pytest.mark.fact(NAME, "stateless")
@pytest.mark.runners("threads", "processes")
def test_the_future_of_a_task_that_is_not_run_has_no_state_on_a_process_pool(
    task_runner: TaskRunner[Any], runner_name: str
) -> None:
    """On a process pool, waiting for a task that is not run raises; on threads it ends NotReady."""

    @flow(task_runner=task_runner)
    def wheel() -> str:
        spoke = assemble.submit(-1, [])
        following: Any = assemble
        wheel = following.submit(1, [spoke])
        try:
            wheel.wait()
            return str(wheel.state.name)
        except UpstreamTaskError:
            return "UpstreamTaskError"

    assert wheel() == ("UpstreamTaskError" if runner_name == "processes" else "NotReady")


@pytest.mark.guarantee(NAME, "order")
def test_results_come_in_the_order_of_the_calls(
    task_runner: TaskRunner[Any],
    runner_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results come in the order of the calls, even if the first call finishes last.

    Where one task runs at a time, the first call is also the first to finish.
    """
    finished, waits = tmp_path / "finished", runner_name != "sequential"

    @task
    def assemble(cost: int, parts: list[int]) -> int:
        wait_until(lambda: cost > 0 or not waits or finished.exists())
        finished.touch()
        return cost

    monkeypatch.setattr(runner_agnostic, "assemble", assemble)
    bill: Bill = {"last": (0, []), "first": (1, []), "second": (2, [])}
    prices = price_parts.with_options(task_runner=task_runner)(bill)
    assert list(prices.items()) == [("last", 0), ("first", 1), ("second", 2)]


@pytest.mark.fact(
    NAME,
    "globals",
    runners=("sequential", "threads", "dask-threads"),
    reason="tasks run in processes of their own, which don't see what the flow changes",
)
def test_a_changed_global_is_seen(
    task_runner: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks see what the flow puts in a global."""
    monkeypatch.setattr(runner_agnostic, "DISCOUNT", 0, raising=False)

    @task
    def discount() -> int:
        from patterns.task_runners import runner_agnostic

        return int(getattr(runner_agnostic, "DISCOUNT", 0))

    @flow(task_runner=task_runner)
    def discounted() -> int:
        runner_agnostic.DISCOUNT = 5  # type: ignore[attr-defined]
        return discount.submit().result()

    assert discounted() == 5


@pytest.mark.guarantee(NAME, "chosen")
@pytest.mark.parametrize(
    ("name", "kind", "workers"),
    [
        ("one-thread", ThreadPoolTaskRunner, 1),
        ("threads", ThreadPoolTaskRunner, 3),
        ("processes", ProcessPoolTaskRunner, 3),
    ],
)
def test_a_name_selects_its_task_runner(
    name: str, kind: type, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument names the task runner, or else the environment variable does."""
    monkeypatch.delenv("TASK_RUNNER", raising=False)
    by_argument = task_runner_for(name, workers=3)
    assert type(by_argument) is kind
    assert by_argument._max_workers == workers  # type: ignore[attr-defined]
    monkeypatch.setenv("TASK_RUNNER", name)
    assert task_runner_for(workers=3) == by_argument
    assert type(task_runner_for("threads")) is ThreadPoolTaskRunner


@pytest.mark.guarantee(NAME, "chosen")
def test_dask_is_selected_by_its_address() -> None:
    """A Dask scheduler is chosen by its address, and a new cluster by the name `dask`."""
    for address in ("tcp://10.0.0.5:8786", "tls://10.0.0.5:8786"):
        assert task_runner_for(address).address == address  # type: ignore[attr-defined]
    local: Any = task_runner_for("dask", workers=3)
    assert local.address is None
    assert local.cluster_kwargs == {"n_workers": 3, "threads_per_worker": 1}


@pytest.mark.guarantee(NAME, "chosen")
@given(name=st.text(min_size=1).filter(lambda name: "://" not in name))
def test_a_wrong_name_is_reported_in_one_line(name: str) -> None:
    """A wrong name is reported in one line that says which names are valid."""
    known = ("one-thread", "threads", "processes", "dask")
    if name not in known:
        with pytest.raises(ValueError, match="choose one-thread, threads") as error:
            task_runner_for(name)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.guarantee(NAME, "chosen")
def test_an_address_unknown_to_dask_is_reported_in_one_line() -> None:
    """An address of a kind unknown to Dask is reported in one line that says which are known."""
    misspelt = price_parts.with_options(task_runner=task_runner_for("tpc://10.0.0.5:8786"))
    with pytest.raises(ValueError, match=r"'tpc' \(known schemes: .*'tcp'") as error:
        misspelt({"spoke": (1, [])})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.guarantee(NAME, "chosen")
def test_threads_are_selected_when_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name or an environment variable, the task runner is a pool of threads."""
    monkeypatch.delenv("TASK_RUNNER", raising=False)
    assert task_runner_for() == ThreadPoolTaskRunner(max_workers=2)
