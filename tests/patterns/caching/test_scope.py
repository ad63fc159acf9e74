# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/scope.py`."""

from __future__ import annotations

import copy
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CachePolicy
from prefect.flows import Flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from prefect.utilities.hashing import hash_objects

from flowgauge.waiting import patience
from patterns.caching.scope import (
    EVERYWHERE,
    WITHIN_FLOW,
    WITHIN_RUN,
    TypedInputs,
    count_words,
    faithful,
    once,
)

NAME = "caching/scope"

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=5)
)
keys = st.one_of(st.booleans(), st.integers(), st.text())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
    ),
    max_leaves=6,
)
CONFUSED: list[tuple[Any, Any]] = [
    ((1, 2), [1, 2]),
    ({1: "a"}, {"1": "a"}),
    ({True: 1}, {"true": 1}),
    ({None: 1}, {"null": 1}),
    ([(1,)], [[1]]),
]
"""Pairs that differ and have the same JSON."""


def noting(policy: CachePolicy | None) -> Task[..., str]:
    """Return a task that notes each execution in a file and returns its argument."""
    options: dict[str, Any] = {} if policy is None else {"cache_policy": policy}

    @task(**options)
    def note(file: str, value: Any = None) -> str:
        with Path(file).open("a") as lines:
            lines.write("execution\n")
        return repr(value)

    return note


def twice(called: Task[..., str], name: str) -> Flow[[str], list[str]]:
    """Return a flow of that name which makes the same call two times, one after the other."""

    @flow(name=name)
    def calls(file: str) -> list[str]:
        return [called.submit(file, 7).result() for _ in range(2)]

    return calls


def executions(file: Path) -> int:
    """Return how many executions were noted."""
    return len(file.read_text().split())


@pytest.mark.guarantee(NAME, "run")
def test_a_call_is_executed_once_in_each_run(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """With `WITHIN_RUN` a call is executed once in a run, and again in the next run."""
    calls = twice(noting(WITHIN_RUN), "one").with_options(task_runner=task_runner)
    file = tmp_path / "executions"
    assert calls(str(file)) == ["7", "7"]
    assert executions(file) == 1
    assert calls(str(file)) == ["7", "7"]
    assert executions(file) == 2


@pytest.mark.guarantee(NAME, "run")
def test_the_flow_of_the_pattern_counts_once_a_run(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """The pattern's own task is executed once for two equal calls in a run."""

    @flow(task_runner=task_runner)
    def states() -> list[str | None]:
        futures = []
        for _ in range(2):
            futures.append(count_words.submit("two words"))
            futures[-1].wait()
        return [future.state.name for future in futures]

    assert states() == ["Completed", "Cached"]


@pytest.mark.guarantee(NAME, "flow")
def test_a_call_is_executed_once_in_all_runs_of_a_flow(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """With `WITHIN_FLOW` runs of a flow share a call, and runs of another one don't."""
    note, file = noting(WITHIN_FLOW), tmp_path / "executions"
    one = twice(note, "one").with_options(task_runner=task_runner)
    other = twice(note, "other").with_options(task_runner=task_runner)
    counts = []
    for calls in (one, one, other, other):
        assert calls(str(file)) == ["7", "7"]
        counts.append(executions(file))
    assert counts == [1, 1, 2, 2]


@pytest.mark.guarantee(NAME, "everywhere")
def test_a_call_is_executed_once_in_all_flows(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """With `EVERYWHERE` a call is executed once, whatever flow it is made in."""
    note, file = noting(EVERYWHERE), tmp_path / "executions"
    for name in ("one", "other"):
        calls = twice(note, name).with_options(task_runner=task_runner)
        assert calls(str(file)) == ["7", "7"]
        assert executions(file) == 1


@pytest.mark.guarantee(NAME, "everywhere")
@pytest.mark.parametrize(("policy", "expected"), [(TypedInputs(), 1), (INPUTS, 2)])
def test_a_task_without_arguments_has_a_key(policy: CachePolicy, expected: int) -> None:
    """A task without arguments is executed once, where `INPUTS` alone gives it no key."""
    executed: list[int] = []

    @task(cache_policy=policy, result_storage_key=None)
    def read_clock() -> int:
        executed.append(1)
        return len(executed)

    flow(lambda: [read_clock(), read_clock()])()
    assert len(executed) == expected


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=300)
@given(value=values)
def test_equal_arguments_have_one_key(value: Any) -> None:
    """Arguments that are equal and of the same types have the same key, whatever their order."""
    twin = copy.deepcopy(value)
    if isinstance(twin, dict):
        twin = dict(reversed(list(twin.items())))
    assert faithful(twin) == faithful(value)


def same(left: Any, right: Any) -> bool:
    """Say whether two values are equal and of the same types, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            any(same(key, other) and same(left[key], right[other]) for other in right)
            for key in left
        )
    if isinstance(left, set):
        return len(left) == len(right) and all(
            any(same(item, other) for other in right) for item in left
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return bool(left.hex() == right.hex())
    return bool(left == right)


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=300)
@given(left=values, right=values)
@example(left=["a, str b"], right=["a", "b"])
@example(left=1, right="1")
@example(left=1, right=True)
@example(left=0.0, right=-0.0)
def test_two_values_have_one_key_only_if_they_are_the_same(left: Any, right: Any) -> None:
    """Two values have the same key if and only if they are equal and of the same types."""
    assert (faithful(left) == faithful(right)) == same(left, right)


@pytest.mark.guarantee(NAME, "inputs")
@pytest.mark.parametrize(("left", "right"), CONFUSED, ids=repr)
def test_values_that_json_confuses_have_two_keys(left: Any, right: Any) -> None:
    """Values that `INPUTS` takes for the same have different keys here."""
    assert hash_objects(left) == hash_objects(right)
    assert faithful(left) != faithful(right)


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=2)
@given(
    distinct=st.lists(st.integers(-9, 9).map(lambda n: [n]), min_size=1, max_size=2, unique_by=repr)
)
@example(distinct=[[3], [-3]])
def test_equal_arguments_execute_once_and_different_ones_twice(
    task_runner: TaskRunner[Any],
    tmp_path_factory: pytest.TempPathFactory,
    distinct: list[list[int]],
) -> None:
    """Equal arguments share one execution; arguments that differ are executed each."""
    file = tmp_path_factory.mktemp("inputs") / "executions"
    note = noting(EVERYWHERE)
    arguments: list[Any] = [*distinct, *map(tuple, distinct)]

    @flow(task_runner=task_runner)
    def calls() -> list[str]:
        outcomes = []
        for _ in range(2):
            outcomes += note.map(str(file), arguments).result()
        return outcomes

    assert calls() == [repr(argument) for argument in arguments] * 2
    assert executions(file) == len(arguments)


@pytest.mark.guarantee(NAME, "inputs")
def test_inputs_hands_out_the_result_of_another_argument() -> None:
    """With Prefect's `INPUTS` a tuple is given the result of the list: the reason for these."""
    note = noting(INPUTS)

    @flow
    def calls(file: str) -> list[str]:
        return [note(file, [1, 2]), note(file, (1, 2))]

    assert calls("/dev/null") == ["[1, 2]", "[1, 2]"]


@pytest.mark.guarantee(NAME, "inputs")
def test_a_sum_keeps_the_policy() -> None:
    """Types still count after other policies were added (an `Inputs` would be replaced)."""
    assert isinstance(WITHIN_RUN.policies[0], TypedInputs)  # type: ignore[attr-defined]
    assert isinstance((WITHIN_RUN + INPUTS).policies[0], TypedInputs)  # type: ignore[attr-defined]


def price_with(tmp_path: Path, body: str, helper: str) -> list[int]:
    """Return what a task in a file of its own gives, called in a new flow run."""
    import importlib.util

    source = tmp_path / f"shop_{abs(hash((body, helper)))}.py"
    source.write_text(
        "from prefect import flow, task\n"
        "from patterns.caching.scope import EVERYWHERE\n"
        f"def tax(net):\n    return {helper}\n"
        "@task(cache_policy=EVERYWHERE)\n"
        f"def price(shop, net):\n    return {body}\n"
        "@flow\n"
        "def prices(shop):\n    return [price(shop, 100)]\n"
    )
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    prices: list[int] = shop.prices(str(tmp_path))
    return prices


@pytest.mark.guarantee(NAME, "source")
def test_a_changed_task_is_executed_again(tmp_path: Path) -> None:
    """A task whose own text changes is executed again."""
    assert price_with(tmp_path, "net + tax(net)", "19") == [119]
    assert price_with(tmp_path, "net - tax(net)", "19") == [81]


@pytest.mark.guarantee(NAME, "source")
def test_a_changed_helper_goes_unnoticed(tmp_path: Path) -> None:
    """A task is not executed again when only a function that it calls changes."""
    assert price_with(tmp_path, "net + tax(net)", "19") == [119]
    assert price_with(tmp_path, "net + tax(net)", "7") == [119]


@pytest.mark.guarantee(NAME, "stock")
def test_without_a_policy_every_call_is_executed(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Without a policy every call is executed, also twice in one run."""
    calls = twice(noting(None), "one").with_options(task_runner=task_runner)
    calls(str(tmp_path / "executions"))
    assert executions(tmp_path / "executions") == 2


def side_by_side(policy: CachePolicy, file: str, seconds: float) -> list[int]:
    """Return what five equal calls give that were made at once, each its own execution's number.

    Args:
        policy: Of the task.
        file: Its argument.
        seconds: How long an execution waits for the four others.
    """
    numbers = itertools.count(1)
    met = threading.Barrier(5)

    @task(cache_policy=policy)
    def count(file: str) -> int:
        number = next(numbers)
        # All five arrive here if all are executed; if one is, nobody else comes.
        try:
            met.wait(timeout=seconds)
        except threading.BrokenBarrierError:
            return number
        return number

    five_threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=5)

    @flow(task_runner=five_threads)
    def counts() -> list[int]:
        futures = [count.submit(file) for _ in range(5)]
        return [future.result() for future in futures]

    return counts()


@pytest.mark.guarantee(NAME, "once")
def test_equal_calls_at_the_same_time_are_executed_once(tmp_path: Path) -> None:
    """With `once(policy)` five equal calls made at the same time are executed once."""
    assert side_by_side(once(EVERYWHERE), str(tmp_path), 0.3) == [1] * 5


@pytest.mark.guarantee(NAME, "once")
def test_equal_calls_at_the_same_time_are_all_executed_without_it(tmp_path: Path) -> None:
    """Without `once` equal calls made at the same time are each executed (#18600)."""
    numbers = side_by_side(INPUTS + TASK_SOURCE, str(tmp_path), patience())
    assert sorted(numbers) == [1, 2, 3, 4, 5]
