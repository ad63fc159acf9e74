# SPDX-License-Identifier: Apache-2.0
"""Small flows that Hypothesis draws, run on a stock runner and a lean one."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from dataclasses import dataclass, replace
from typing import Any

import prefect
from hypothesis import strategies as st
from packaging.version import Version
from prefect import allow_failure, flow, get_run_logger, tags, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.context import FlowRunContext, get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from prefect.transactions import transaction

from tests.patterns.task_runners.server_view import is_whole, plain, settled

KINDS = (
    "add",
    "add_async",
    "fail",
    "flaky",
    "named",
    "rolled_back",
    "cached",
    "mapped",
    "in_subflow",
)
NESTED = ("submits", "maps", "defines", "runs_flow")
"""Tasks that run others and occupy a worker meanwhile: always fewer at a time than workers."""


@dataclass(frozen=True)
class Step:
    """One task to submit.

    Attributes:
        kind: Its task, one of `KINDS` or `NESTED`.
        needs: The earlier steps whose results it takes.
        waits_for: The earlier steps that must have ended first.
        allows_failure: Whether it runs even if a step that it needs failed.
        tagged: Whether it is submitted inside `with tags(...)`.
    """

    kind: str
    needs: tuple[int, ...] = ()
    waits_for: tuple[int, ...] = ()
    allows_failure: bool = False
    tagged: bool = False


FLAGS = (st.booleans(), st.booleans())
Plan = tuple[Step, ...]


EACH_KIND: Plan = (
    Step("add", tagged=True),
    Step("fail", needs=(0,)),
    Step("add_async", needs=(0,), waits_for=(0,)),
    Step("flaky", needs=(2,)),
    Step("add", needs=(1,)),
    Step("add", needs=(1, 3), allows_failure=True),
    Step("cached", waits_for=(3,)),
    Step("mapped", waits_for=(5,)),
    Step("in_subflow", needs=(7,)),
    Step("named", needs=(0, 8), tagged=True),
    Step("rolled_back", needs=(0,)),
    Step("named", waits_for=(1,)),
)
"""A plan that has failures, retries, a roll-back, caching, subflows and tags."""


@st.composite
def plans(draw: st.DrawFn, most: int = 5) -> Plan:
    """Draw a few steps, each of which may need earlier ones."""
    steps: list[Step] = []
    for number in range(draw(st.integers(2, most))):
        some = st.lists(st.integers(0, number - 1), max_size=2, unique=True).map(tuple)
        earlier = some if number else st.just(())
        kind = st.sampled_from(KINDS)
        steps.append(Step(draw(kind), draw(earlier), draw(earlier), *draw(st.tuples(*FLAGS))))
    return tuple(steps)


@task(cache_policy=NO_CACHE)
def add(numbers: list[Any]) -> int:
    """Return one more than the sum of the numbers, skipping what failed."""
    print("adding", len(numbers))
    return 1 + sum(number for number in numbers if isinstance(number, int))


@task(cache_policy=NO_CACHE)
async def add_async(numbers: list[Any]) -> int:
    """Do the same, and log it."""
    get_run_logger().info("adding %s", len(numbers))
    return 1 + sum(number for number in numbers if isinstance(number, int))


@task(cache_policy=NO_CACHE)
def fail(numbers: list[Any]) -> int:
    """Fail."""
    raise ValueError(f"{len(numbers)} are too many")


@task(cache_policy=NO_CACHE, retries=2)
def flaky(numbers: list[Any]) -> int:
    """Fail at the first attempt."""
    if task_run.run_count == 1:
        raise ConnectionError("not yet")
    return len(numbers)


@task(cache_policy=NO_CACHE, task_run_name="{of}: named")
def named(numbers: list[Any], of: str = "numbers") -> int:
    """Have a custom run name."""
    return len(numbers)


@task(cache_policy=NO_CACHE)
def write(number: int) -> int:
    """Be part of a transaction."""
    return number


@write.on_rollback
def undo(run: Any) -> None:
    """Print that the task is undone."""
    print("undoing")


@task(cache_policy=NO_CACHE)
def rolled_back(numbers: list[Any]) -> int:
    """Fail in a transaction, after something was written."""
    with transaction():
        write(len(numbers))
        raise ValueError("not so")


@task(cache_policy=INPUTS, persist_result=True)
def cached(key: str) -> int:
    """Run only once for each key."""
    return len(key)


@task(cache_policy=NO_CACHE)
def submits(numbers: list[Any]) -> int:
    """Submit a task."""
    return add.submit(numbers).result()


@task(cache_policy=NO_CACHE)
def maps(numbers: list[Any]) -> int:
    """Map a task."""
    return sum(add.map([numbers, [*numbers, 1]]).result())


@task(cache_policy=NO_CACHE)
def defines(numbers: list[Any]) -> int:
    """Define a task and submit it."""

    @task(cache_policy=NO_CACHE, tags=["new"])
    def new(more: int) -> int:
        return len(numbers) + more

    return new.submit(1).result()


@flow(log_prints=True)
def inner(numbers: list[Any]) -> int:
    """Add numbers in a separate flow run."""
    return add.submit(numbers).result()


@task(cache_policy=NO_CACHE)
def runs_flow(numbers: list[Any]) -> int:
    """Run a flow."""
    return inner(numbers)


TASKS: dict[str, Any] = {
    "add": add,
    "add_async": add_async,
    "fail": fail,
    "flaky": flaky,
    "named": named,
    "rolled_back": rolled_back,
    "submits": submits,
    "maps": maps,
    "defines": defines,
    "runs_flow": runs_flow,
}


@flow(log_prints=True)
def follow(plan: Plan) -> tuple[list[str], list[str]]:
    """Submit the steps, and return the ids of their task runs and how each ended."""
    futures: list[PrefectFuture[Any]] = []
    others: list[PrefectFuture[Any]] = []
    for number, step in enumerate(plan):
        needed = [futures[each] for each in step.needs]
        numbers = [allow_failure(each) if step.allows_failure else each for each in needed]
        wait_for: Any = [futures[each] for each in step.waits_for] or None
        with tags(*["drawn"] * step.tagged):
            *more, future = submitted(step.kind, number, numbers, wait_for)
        others += more
        futures.append(future)
    # A task run that nobody waits for may be lost with its flow run, on any runner.
    wait(others)
    ended = [outcome(future) for future in futures]
    return [str(future.task_run_id) for future in futures], ended


@flow(log_prints=True, retries=1)
async def follow_again(plan: Plan) -> tuple[list[str], list[str]]:
    """Do the same in an async flow, whose first attempt fails."""
    found = follow.fn(plan)
    if flow_run.run_count == 1:
        raise ConnectionError("not yet")
    return found


def submitted(
    kind: str, number: int, numbers: list[Any], wait_for: Any
) -> list[PrefectFuture[Any]]:
    """Submit the task or tasks of a kind; the last future is that of the step itself."""
    after: dict[str, Any] = {"wait_for": wait_for}
    futures: list[PrefectFuture[Any]]
    if kind == "cached":
        key = str(uuid.uuid4())
        cached.submit(key).wait()
        futures = [cached.submit(key, **after)]
    elif kind == "mapped":
        futures = list(add.map([[number], [number, number]], **after))
    elif kind == "in_subflow":
        run: Any = get_run_context()
        inner.with_options(task_runner=run.task_runner.duplicate())([number])
        futures = [add.submit(numbers, **after)]
    else:
        futures = [TASKS[kind].submit(numbers, **after)]
    return futures


def outcome(future: PrefectFuture[Any]) -> str:
    """Return how a task run ended, and its result or error."""
    try:
        future.wait()
        return plain(f"{future.state.name}: {future.result(raise_on_failure=False)!r}")
    except Exception as error:
        return plain(f"{type(error).__name__}: {error}")


def run_drawn(
    runner: TaskRunner[Any], plan: Plan, run: Any
) -> tuple[list[str], str, dict[str, str]]:
    """Run a flow that follows a plan.

    Returns:
        How each step ended, the id of the flow run, and the labels of its steps.
    """
    state = run.with_options(task_runner=runner)(plan, return_state=True)
    state = asyncio.run(state) if inspect.iscoroutine(state) else state
    ids, ended = state.result()
    assert state.state_details.flow_run_id is not None
    labels = {id: f"step {number}" for number, id in enumerate(ids)}
    return ended, str(state.state_details.flow_run_id), labels


def assert_same_on_both(
    stock: TaskRunner[Any], lean: TaskRunner[Any], *drawn: Plan, run: Any = follow
) -> None:
    """Run drawn flows on both runners; compare their results and what the server knows of them.

    Before Prefect 3.9 a stock process pool gives all tasks the tags around a flow run's first
    submit, so steps have no tags there.
    """
    if isinstance(stock, ProcessPoolTaskRunner) and Version(prefect.__version__) < Version("3.9"):
        drawn = tuple(tuple(replace(step, tagged=False) for step in plan) for plan in drawn)
    runs = [(run_drawn(stock, plan, run), run_drawn(lean, plan, run)) for plan in drawn]
    for theirs, ours in runs:
        assert ours[0] == theirs[0]
        (runs_of_stock, lines_of_stock), known_ours = settled(theirs[1:], ours[1:])
        assert known_ours[0].keys() == runs_of_stock.keys()
        for label, of_stock in runs_of_stock.items():
            assert (label, known_ours[0][label]) == (label, of_stock)
        assert known_ours[1] == lines_of_stock
        assert is_whole(known_ours)


@task
def surroundings(parcel: str) -> Any:
    """Return what a task run sees of its flow run, settings and tags."""
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    poll = PREFECT_RUNNER_POLL_FREQUENCY.value()
    return parcel, run.flow_run.name, run.parameters, poll, sorted(task_run.tags)


class Started:
    """A holder of the task runner that `is_seen` submits to; pickled for the workers without it."""

    runner: TaskRunner[Any]

    def __reduce__(self) -> Any:
        return Started, ()


_started = Started()


@flow
def is_seen(number: int) -> bool:
    """Return whether a task run that is submitted directly to a task runner sees this flow run."""
    submitted = _started.runner.submit(surroundings, {"parcel": "book"})
    _, name, parameters, *_ = submitted.result()
    return bool((name, parameters) == (flow_run.name, {"number": number}))


def seen_by_flows(runner: TaskRunner[Any]) -> list[bool]:
    """Return the result of `is_seen` for two flow runs that submit to one task runner."""
    with runner:
        _started.runner = runner
        return [is_seen(number) for number in range(2)]


@flow
def change() -> list[Any]:
    """Return the settings and tags that two task runs see, each submitted under different ones."""
    seen = []
    for number in range(2):
        with temporary_settings({PREFECT_RUNNER_POLL_FREQUENCY: 100 + number}), tags(str(number)):
            seen.append(surroundings.submit("book").result()[3:])
    return seen
