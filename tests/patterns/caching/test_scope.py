# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/scope.py`."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import (
    INPUTS,
    TASK_SOURCE,
    CachePolicy,
    CompoundCachePolicy,
    Inputs,
)
from prefect.flows import Flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from prefect.utilities.hashing import hash_objects
from pydantic import BaseModel

from flowgauge.waiting import patience
from patterns.caching.scope import (
    EVERYWHERE,
    WITHIN_FLOW,
    WITHIN_RUN,
    TypedCall,
    count_twice,
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


COPIED = {"cache_result_in_memory": False}
"""Options of a task whose results are read anew from the storage each time."""


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
@pytest.mark.runners("sequential", "threads")
def test_the_flow_of_the_pattern_counts_once_a_run(
    task_runner: TaskRunner[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The pattern's own flow counts once for two equal calls, in each of its runs."""
    counts = count_twice.with_options(task_runner=task_runner)
    assert [counts("two words") for _ in range(2)] == [[2, 2], [2, 2]]
    assert capsys.readouterr().out == "counting 'two words'\n" * 2


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


@pytest.mark.guarantee(NAME, "flow")
def test_outside_flows_a_call_is_executed_each_time(tmp_path: Path) -> None:
    """With `WITHIN_FLOW` calls outside flows share nothing."""
    note, file = noting(WITHIN_FLOW), tmp_path / "executions"
    assert [note(str(file)) for _ in range(2)] == ["None", "None"]
    assert executions(file) == 2


@pytest.mark.guarantee(NAME, "everywhere")
def test_a_call_is_executed_once_in_all_flows(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """With `EVERYWHERE` a call is executed once, whatever flow it is made in."""
    note, file = noting(EVERYWHERE), tmp_path / "executions"
    for name in ("one", "other"):
        calls = twice(note, name).with_options(task_runner=task_runner)
        assert calls(str(file)) == ["7", "7"]
        assert executions(file) == 1


@task
def read_clock() -> None:
    """Do nothing but run."""


def clock_states(policy: CachePolicy) -> list[str | None]:
    """Return how two calls of a task without arguments end."""
    read = read_clock.with_options(cache_policy=policy)
    states = flow(lambda: [read(return_state=True).name for _ in range(2)])()
    assert isinstance(states, list)
    return states


@pytest.mark.guarantee(NAME, "everywhere")
def test_a_task_without_arguments_has_a_key() -> None:
    """A task without arguments is executed once."""
    # Results are kept for all tests: the first call may be `Cached`, too.
    assert clock_states(EVERYWHERE)[1] == "Cached"


@pytest.mark.fact(NAME, "empty")
def test_inputs_gives_a_task_without_arguments_no_key() -> None:
    """With `INPUTS` alone a task without arguments is executed each time."""
    assert clock_states(INPUTS) == ["Completed", "Completed"]


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=300)
@given(value=values)
def test_equal_arguments_have_one_key(value: Any) -> None:
    """Arguments that are equal and of the same types have the same key."""
    assert faithful(copy.deepcopy(value)) == faithful(value)


@pytest.mark.guarantee(NAME, "inputs")
def test_equal_arguments_have_one_key_in_every_process() -> None:
    """A set of texts has the same key in processes that hash texts differently."""
    code = f"from {faithful.__module__} import faithful; print(faithful({{'a', 'b', 'c', 'd'}}))"
    root = Path(__file__).parents[3]
    read = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert read == {f"{faithful({'a', 'b', 'c', 'd'})!r}\n".encode()}


@pytest.mark.guarantee(NAME, "inputs")
def test_a_text_that_is_there_twice_is_as_good_as_its_copy() -> None:
    """Whether two equal items are one object or two makes no difference."""
    text = "to and fro"
    assert faithful([text, text]) == faithful([text, "".join(list(text))])


def same(left: Any, right: Any) -> bool:
    """Say whether two values are equal and of the same types, all the way down.

    The order of a dict counts, and so do the bits of a float: -0.0 is not 0.0.
    """
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, set):
        return len(left) == len(right) and all(
            any(same(item, other) for other in right) for item in left
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=300)
@given(left=values, right=values)
@example(left=["a, str b"], right=["a", "b"])
@example(left=1, right="1")
@example(left=1, right=True)
@example(left=0.0, right=-0.0)
@example(left={"a": 1, "b": 2}, right={"b": 2, "a": 1})
@example(left={"a", "b"}, right=frozenset({"a", "b"}))
def test_two_values_have_one_key_only_if_they_are_the_same(left: Any, right: Any) -> None:
    """Two values have the same key if and only if they are equal and of the same types."""
    assert (faithful(left) == faithful(right)) == same(left, right)


class Offer(BaseModel):
    """What a task may be given."""

    price: int = 1


@pytest.mark.guarantee(NAME, "inputs")
def test_a_model_that_was_told_its_default_is_another() -> None:
    """Equal Pydantic models have one key unless one of them was told a value and one was not."""
    assert Offer() == Offer(price=1)
    assert faithful(Offer()) == faithful(Offer()) != faithful(Offer(price=1))
    assert faithful(Offer(price=1)) == faithful(Offer(price=1)) != faithful(Offer(price=2))


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


@pytest.mark.fact(NAME, "json")
def test_inputs_hands_out_the_result_of_another_argument() -> None:
    """With Prefect's `INPUTS` a tuple is given the result of the list: the reason for these."""
    note = noting(INPUTS)

    @flow
    def calls(file: str) -> list[str]:
        return [note(file, value) for value in ([1, 2], (1, 2), {"1": "a"}, {1: "a"})]

    assert calls("/dev/null") == ["[1, 2]", "[1, 2]", "{'1': 'a'}", "{'1': 'a'}"]


@pytest.mark.guarantee(NAME, "inputs")
def test_a_sum_keeps_the_policy() -> None:
    """Types still count after other policies were added."""
    for policy in (WITHIN_RUN, WITHIN_RUN + INPUTS):
        assert isinstance(policy, CompoundCachePolicy)
        assert any(isinstance(part, TypedCall) for part in policy.policies)


@pytest.mark.fact(NAME, "shared")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("options", "second"), [({}, ["id", "x"]), (COPIED, ["id"])])
def test_a_reused_result_is_the_object_that_was_returned(
    options: dict[str, Any], second: list[str]
) -> None:
    """In a run a changed result is changed for all, unless none is kept in memory."""

    @task(cache_policy=WITHIN_RUN, **options)
    def columns() -> list[str]:
        return ["id"]

    @flow
    def report() -> list[str]:
        columns().append("x")
        return columns()

    assert report() == second


@pytest.mark.fact(NAME, "replaced")
def test_a_sum_replaces_what_is_made_from_inputs() -> None:
    """A policy that inherits from that of `INPUTS` is not found in a sum."""

    class Typed(Inputs):
        pass

    policy = Typed() + TASK_SOURCE
    assert isinstance(policy, CompoundCachePolicy)
    assert not any(isinstance(part, Typed) for part in policy.policies)


def price_with(tmp_path: Path, body: str, helper: str) -> list[int]:
    """Return what a task in a file of its own gives, called in a new flow run."""
    import importlib.util

    source = tmp_path / f"shop_{abs(hash((body, helper)))}.py"
    name = "shop"
    source.write_text(
        "from prefect import flow, task\n"
        "from patterns.caching.scope import EVERYWHERE\n"
        f"def tax(net):\n    return {helper}\n"
        "@task(cache_policy=EVERYWHERE)\n"
        f"def price(shop, net):\n    return {body}\n"
        "@flow\n"
        "def prices(shop):\n    return [price(shop, 100)]\n"
    )
    spec = importlib.util.spec_from_file_location(name, source)
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


def scaled_by(factor: int) -> Task[..., int]:
    """Make a task."""

    @task(cache_policy=EVERYWHERE)
    def scale(file: str, number: int) -> int:
        with Path(file).open("a") as lines:
            lines.write("execution\n")
        return factor * number

    return scale


@pytest.mark.guarantee(NAME, "whose")
@pytest.mark.runners("threads", "processes")
def test_tasks_made_from_other_values_share_nothing(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Two tasks that a function made have results of their own."""
    file = str(tmp_path / "executions")

    @flow(task_runner=task_runner)
    def scaled() -> list[int]:
        return [scaled_by(factor).submit(file, 1).result() for factor in (11, 1010, 11)]

    assert scaled() == [11, 1010, 11]
    assert executions(Path(file)) == 2


@dataclass(frozen=True)
class Shop:
    """What a task may be made of by one of its methods."""

    tax: int

    def price(self, net: int) -> int:
        """Return a price."""
        return net + self.tax


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_made_of_methods_share_nothing() -> None:
    """Tasks made of the same method of two objects have results of their own."""

    @flow
    def prices() -> list[int]:
        return [task(cache_policy=EVERYWHERE)(Shop(tax).price)(100) for tax in (19, 7)]

    assert prices() == [119, 107]


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_of_two_modules_share_nothing() -> None:
    """Two tasks of the same text and name in two modules have keys of their own."""
    text = "from prefect import task\n@task\ndef read(table): return parse(table)"
    modules: list[dict[str, Any]] = [{"__name__": "csv_shop"}, {"__name__": "xml_shop"}]
    keys = set()
    for module in modules:
        exec(text, module)
        task_ctx: Any = SimpleNamespace(task=module["read"])
        keys.add(TypedCall().compute_key(task_ctx, {"table": 1}, {}))
    assert len(keys) == 2


@pytest.mark.fact(NAME, "default")
def test_without_a_policy_every_call_is_executed(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Without a policy every call is executed, also twice in one run."""
    calls = twice(noting(None), "one").with_options(task_runner=task_runner)
    calls(str(tmp_path / "executions"))
    assert executions(tmp_path / "executions") == 2


class Meeting:
    """Numbers the executions of a task, and lets each wait for the four others."""

    def __init__(self) -> None:
        """Begin with no execution."""
        self.numbers = itertools.count(1)
        self.met = threading.Barrier(5)


MEETINGS: dict[str, Meeting] = {}


@task
def meet(file: str, seconds: float) -> int:
    """Return the number of this execution."""
    meeting = MEETINGS[file]
    number = next(meeting.numbers)
    # All five arrive here if all are executed; if one is, nobody else comes.
    with contextlib.suppress(threading.BrokenBarrierError):
        meeting.met.wait(timeout=seconds)
    return number


def side_by_side(policy: CachePolicy, file: str, seconds: float) -> list[int]:
    """Return what five equal calls give that were made at once, each its own execution's number.

    Args:
        policy: Of the task.
        file: Its argument.
        seconds: How long an execution waits for the four others.
    """
    MEETINGS[file] = Meeting()
    together = meet.with_options(cache_policy=policy)
    five_threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=5)

    @flow(task_runner=five_threads)
    def counts() -> list[int]:
        futures = [together.submit(file, seconds) for _ in range(5)]
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
