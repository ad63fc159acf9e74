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
    DEFAULT,
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
"""Pairs of different values that have the same JSON."""


COPIED = {"cache_result_in_memory": False}
"""Options of a task whose results are read from storage each time."""


def noting(policy: CachePolicy | None) -> Task[..., str]:
    """Return a task that notes each execution in a file and returns its argument's `repr`."""
    options: dict[str, Any] = {} if policy is None else {"cache_policy": policy}

    @task(**options)
    def note(file: str, value: Any = None) -> str:
        with Path(file).open("a") as lines:
            lines.write("execution\n")
        return repr(value)

    return note


def twice(called: Task[..., str], name: str) -> Flow[[str], list[str]]:
    """Return a flow with this name that makes the same call twice in a row."""

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
def test_the_flow_of_the_pattern_counts_once_per_run(
    task_runner: TaskRunner[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The pattern's flow counts only once for two equal calls, in each of its runs."""
    counts = count_twice.with_options(task_runner=task_runner)
    assert [counts("two words") for _ in range(2)] == [[2, 2], [2, 2]]
    assert capsys.readouterr().out == "counting 'two words'\n" * 2


@pytest.mark.guarantee(NAME, "flow")
def test_a_call_is_executed_once_in_all_runs_of_a_flow(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """With `WITHIN_FLOW` a call is executed once in all runs of a flow, and again in another."""
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
    """With `EVERYWHERE` a call is executed once, whatever flow makes it."""
    note, file = noting(EVERYWHERE), tmp_path / "executions"
    for name in ("one", "other"):
        calls = twice(note, name).with_options(task_runner=task_runner)
        assert calls(str(file)) == ["7", "7"]
        assert executions(file) == 1


@task
def read_clock() -> None:
    """Do nothing but run."""


def clock_states(policy: CachePolicy) -> list[str | None]:
    """Return the final states' names of two calls of a task without arguments."""
    read = read_clock.with_options(cache_policy=policy)
    states = flow(lambda: [read(return_state=True).name for _ in range(2)])()
    assert isinstance(states, list)
    return states


@pytest.mark.guarantee(NAME, "everywhere")
def test_a_task_without_arguments_has_a_key() -> None:
    """A repeated call of a task without arguments is not executed again."""
    # All tests share one result storage, so the first call may be `Cached` too.
    assert clock_states(EVERYWHERE)[1] == "Cached"


@pytest.mark.fact(NAME, "empty")
def test_inputs_gives_a_task_without_arguments_no_key() -> None:
    """With `INPUTS` alone a task without arguments is executed each time."""
    assert clock_states(INPUTS) == ["Completed", "Completed"]


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=300)
@given(value=values)
def test_equal_arguments_have_the_same_key(value: Any) -> None:
    """Arguments that are equal and of the same types have the same key."""
    assert faithful(copy.deepcopy(value)) == faithful(value)


@pytest.mark.guarantee(NAME, "inputs")
def test_equal_arguments_have_the_same_key_in_every_process() -> None:
    """A set of strings has the same key in processes that hash strings differently."""
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
def test_a_string_that_appears_twice_counts_as_its_copy() -> None:
    """Whether two equal strings are one object or two makes no difference to the key."""
    text = "to and fro"
    assert faithful([text, text]) == faithful([text, "".join(list(text))])


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal and of the same types at every level.

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
def test_values_have_the_same_key_only_if_they_are_the_same(left: Any, right: Any) -> None:
    """Two values have the same key if and only if they are equal and of the same types."""
    assert (faithful(left) == faithful(right)) == same(left, right)


class Offer(BaseModel):
    """A possible argument of a task."""

    price: int = 1


@pytest.mark.guarantee(NAME, "inputs")
def test_a_model_that_was_given_its_default_counts_as_different() -> None:
    """Equal Pydantic models have the same key unless only one was explicitly given the default."""
    assert Offer() == Offer(price=1)
    assert faithful(Offer()) == faithful(Offer()) != faithful(Offer(price=1))
    assert faithful(Offer(price=1)) == faithful(Offer(price=1)) != faithful(Offer(price=2))


@pytest.mark.guarantee(NAME, "inputs")
@pytest.mark.parametrize(("left", "right"), CONFUSED, ids=repr)
def test_values_that_json_confuses_have_different_keys(left: Any, right: Any) -> None:
    """Values that `INPUTS` treats as the same have different keys here."""
    assert hash_objects(left) == hash_objects(right)
    assert faithful(left) != faithful(right)


@pytest.mark.guarantee(NAME, "inputs")
@settings(max_examples=2)
@given(
    distinct=st.lists(st.integers(-9, 9).map(lambda n: [n]), min_size=1, max_size=2, unique_by=repr)
)
@example(distinct=[[3], [-3]])
def test_equal_arguments_are_executed_once_and_different_ones_each(
    task_runner: TaskRunner[Any],
    tmp_path_factory: pytest.TempPathFactory,
    distinct: list[list[int]],
) -> None:
    """Equal arguments share one execution; different arguments have one each."""
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
def test_inputs_returns_the_result_of_another_argument() -> None:
    """With Prefect's `INPUTS` a tuple gets the result of a list: hence the policies tested here."""
    note = noting(INPUTS)

    @flow
    def calls(file: str) -> list[str]:
        return [note(file, value) for value in ([1, 2], (1, 2), {"1": "a"}, {1: "a"})]

    assert calls("/dev/null") == ["[1, 2]", "[1, 2]", "{'1': 'a'}", "{'1': 'a'}"]


@pytest.mark.guarantee(NAME, "inputs")
def test_a_sum_keeps_the_typed_policy() -> None:
    """`TypedCall` is still part of a policy after others were added to it."""
    for policy in (WITHIN_RUN, WITHIN_RUN + INPUTS):
        assert isinstance(policy, CompoundCachePolicy)
        assert any(isinstance(part, TypedCall) for part in policy.policies)


@pytest.mark.fact(NAME, "shared")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("options", "second"), [({}, ["id", "x"]), (COPIED, ["id"])])
def test_a_reused_result_is_the_object_that_was_returned(
    options: dict[str, Any], second: list[str]
) -> None:
    """In a run, changing a reused result changes it for everyone, unless none is kept in memory."""

    @task(cache_policy=WITHIN_RUN, **options)
    def columns() -> list[str]:
        return ["id"]

    @flow
    def report() -> list[str]:
        columns().append("x")
        return columns()

    assert report() == second


@pytest.mark.fact(NAME, "replaced")
def test_a_sum_loses_a_subclass_of_inputs() -> None:
    """A sum of policies does not contain a policy that inherits from that of `INPUTS`."""

    class Typed(Inputs):
        pass

    policy = Typed() + TASK_SOURCE
    assert isinstance(policy, CompoundCachePolicy)
    assert not any(isinstance(part, Typed) for part in policy.policies)


def price_with(tmp_path: Path, body: str, helper: str) -> list[int]:
    """Return what a task in a separate file returns when it is called in a new flow run."""
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
    """A task whose own source changes is executed again."""
    assert price_with(tmp_path, "net + tax(net)", "19") == [119]
    assert price_with(tmp_path, "net - tax(net)", "19") == [81]


@pytest.mark.guarantee(NAME, "source")
def test_a_changed_helper_goes_unnoticed(tmp_path: Path) -> None:
    """A task is not executed again when only a function that it calls changes."""
    assert price_with(tmp_path, "net + tax(net)", "19") == [119]
    assert price_with(tmp_path, "net + tax(net)", "7") == [119]


def scaled_by(factor: int) -> Task[..., int]:
    """Return a task that multiplies by a factor and notes each execution in a file."""

    @task(cache_policy=EVERYWHERE)
    def scale(file: str, number: int) -> int:
        with Path(file).open("a") as lines:
            lines.write("execution\n")
        return factor * number

    return scale


@pytest.mark.guarantee(NAME, "whose")
@pytest.mark.runners("threads", "processes")
def test_tasks_created_from_different_values_share_nothing(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Tasks that one function created from different values share no results."""
    file = str(tmp_path / "executions")

    @flow(task_runner=task_runner)
    def scaled() -> list[int]:
        return [scaled_by(factor).submit(file, 1).result() for factor in (11, 1010, 11)]

    assert scaled() == [11, 1010, 11]
    assert executions(Path(file)) == 2


@dataclass(frozen=True)
class Shop:
    """A shop whose method can be turned into a task."""

    tax: int

    def price(self, net: int) -> int:
        """Return a price."""
        return net + self.tax


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_created_from_methods_share_nothing() -> None:
    """Tasks created from the same method of two objects share no results."""

    @flow
    def prices() -> list[int]:
        return [task(cache_policy=EVERYWHERE)(Shop(tax).price)(100) for tax in (19, 7)]

    assert prices() == [119, 107]


class Till:
    """A till that names its currency, and has a connection that can't be pickled."""

    def __init__(self, currency: str) -> None:
        """Open the connection."""
        self.currency, self.connection = currency, threading.Lock()

    def __getstate__(self) -> dict[str, str]:
        """Return what decides what the till says."""
        return {"currency": self.currency}

    def says(self, price: int) -> str:
        """Return a price in the till's currency."""
        return f"{price} {self.currency}"

    says_alike = task(cache_policy=DEFAULT - "self", persist_result=True)(says)
    says_own = task(cache_policy=WITHIN_RUN)(says)


@pytest.mark.guarantee(NAME, "whose")
def test_methods_of_objects_that_differ_share_nothing(task_runner: TaskRunner[Any]) -> None:
    """A method shares results between objects whose `__getstate__` is equal, and only these."""

    @flow(task_runner=task_runner)
    def prices() -> list[tuple[str, str]]:
        states = []
        for currency in ("EUR", "JPY", "EUR"):
            says: Any = Till(currency).says_own
            future = says.submit(7)
            states.append((future.result(), future.state.name))
        return states

    assert prices() == [("7 EUR", "Completed"), ("7 JPY", "Completed"), ("7 EUR", "Cached")]


@pytest.mark.fact(NAME, "self")
def test_without_self_a_method_gets_the_result_of_another_object(
    task_runner: TaskRunner[Any],
) -> None:
    """With `DEFAULT - "self"` an object's method gets the result of another object's."""

    @flow(task_runner=task_runner)
    def prices() -> list[str]:
        tills: list[Any] = [Till("EUR"), Till("JPY")]
        return [till.says_alike.submit(7).result() for till in tills]

    assert prices() == ["7 EUR", "7 EUR"]


@pytest.mark.guarantee(NAME, "whose")
def test_tasks_of_two_modules_share_nothing() -> None:
    """Two tasks with the same source and name in two modules have different keys."""
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
    """Without a policy every call is executed, even a repeated one in the same run."""
    calls = twice(noting(None), "one").with_options(task_runner=task_runner)
    calls(str(tmp_path / "executions"))
    assert executions(tmp_path / "executions") == 2


class Meeting:
    """Numbers the executions of a task, and makes each wait for the four others."""

    def __init__(self) -> None:
        """Start with no executions."""
        self.numbers = itertools.count(1)
        self.met = threading.Barrier(5)


MEETINGS: dict[str, Meeting] = {}


@task
def meet(file: str, seconds: float) -> int:
    """Return the number of this execution."""
    meeting = MEETINGS[file]
    number = next(meeting.numbers)
    # All five arrive here if all are executed; if only one is, it waits in vain.
    with contextlib.suppress(threading.BrokenBarrierError):
        meeting.met.wait(timeout=seconds)
    return number


def side_by_side(policy: CachePolicy, file: str, seconds: float) -> list[int]:
    """Return the results of five equal calls made at once: the numbers of their executions.

    Args:
        policy: The cache policy of the task.
        file: The argument of the task.
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
def test_equal_calls_at_the_same_time_are_all_executed_without_once(tmp_path: Path) -> None:
    """Without `once` equal calls made at the same time are each executed (#18600)."""
    numbers = side_by_side(INPUTS + TASK_SOURCE, str(tmp_path), patience())
    assert sorted(numbers) == [1, 2, 3, 4, 5]
