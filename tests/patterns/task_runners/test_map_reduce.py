# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/task_runners/map_reduce.py`."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from flowgauge.cli.advise import _measured_costs
from flowgauge.faults.points import kill_this_process
from flowgauge.predict.advice import advise_mapped
from flowgauge.predict.mapped import Mapped
from flowgauge.waiting import wait_until
from patterns.task_runners.map_reduce import count_all_steps, map_reduce, neighbours

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "task_runners/map_reduce"


@task
def shown(item: object) -> tuple[str, float, set[int]]:
    """Return a text, a float and the process; fail for a negative number."""
    if isinstance(item, int) and item < 0:
        raise ValueError(f"{item} can't be shown")
    return (
        str(item),
        1 / (1 + len(str(item))) + (item if isinstance(item, int) else 0),
        {os.getpid()},
    )


@task
def together(
    left: tuple[str, float, set[int]], right: tuple[str, float, set[int]]
) -> tuple[str, float, set[int]]:
    """Join texts, whose order matters, and add floats, whose grouping matters."""
    if "stop" in right[0]:
        raise LookupError("no further")
    return f"({left[0]} {right[0]})", left[1] + right[1], left[2] | right[2]


def grouped(parts: list[Any], first: int = 0) -> tuple[str, float]:
    """Return what is expected: halves of halves, worked out without the pattern."""
    if len(parts) == 1:
        text, number, _ = shown.fn(parts[0])
        return text, number
    middle = (2 * first + len(parts)) // 2 - first
    left, right = grouped(parts[:middle], first), grouped(parts[middle:], first + middle)
    return f"({left[0]} {right[0]})", left[1] + right[1]


def reduced(runner: TaskRunner[Any], parts: list[Any], at_most: int) -> tuple[Any, int, int]:
    """Return the answer, and how many parts and combinations were run."""

    @flow(task_runner=runner)
    def reduce() -> tuple[Any, str]:
        answer = map_reduce(shown, together, parts, at_most=at_most, empty=("", 0.0, set()))
        return answer, str(flow_run.id)

    answer, id = reduce()
    names = run_names(id, max(0, 2 * len(parts) - 1))
    return answer, *(sum(each.startswith(kind) for each in names) for kind in ("shown", "together"))


def run_names(flow_run_id: str, number: int) -> list[str]:
    """Return the names of a flow run's task runs, once there are so many."""
    own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]
    with get_client(sync_client=True) as client:

        def names() -> list[str] | None:
            runs = client.read_task_runs(flow_run_filter=own)
            done = [run.name for run in runs if run.state and run.state.is_completed()]
            return ["", *done] if len(done) >= number else None

        return wait_until(names)


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.guarantee(NAME, "fixed")
@pytest.mark.guarantee(NAME, "once")
@pytest.mark.runners("threads", "processes", "dask-processes")
@settings(max_examples=2)
@given(parts=st.lists(st.integers(0, 9), max_size=9), at_most=st.integers(1, 4))
@example(parts=[3, 1, 4, 1, 5, 9, 2], at_most=3)
def test_all_results_are_combined_once_in_order_and_in_the_same_groups(
    task_runner: TaskRunner[Any], parts: list[int], at_most: int
) -> None:
    """Texts are joined in the order of the parts, and floats added in the same groups."""
    answer, mapped, combined = reduced(task_runner, parts, at_most)
    assert (mapped, combined) == (len(parts), max(0, len(parts) - 1))
    assert answer[:2] == (grouped(parts) if parts else ("", 0.0))
    assert answer[0].replace("(", "").replace(")", "") == " ".join(map(str, parts))


@pytest.mark.guarantee(NAME, "same")
@pytest.mark.guarantee(NAME, "fixed")
@given(parts=st.integers(1, 300), draw=st.data())
def test_halves_make_a_tree(parts: int, draw: st.DataObject) -> None:
    """Whichever two neighbours are joined first, each part is used once and in order."""
    pairs = dict(neighbours((0, parts)))
    assert len(pairs) == 2 * (parts - 1)
    spans = {(number, number + 1): 0 for number in range(parts)}
    while len(spans) > 1:
        ready = sorted(span for span in spans if pairs[span] in spans)
        span = draw.draw(st.sampled_from(ready)) if parts < 12 else ready[0]
        left, right = sorted((span, pairs[span]))
        assert left[1] == right[0]
        spans[left[0], right[1]] = 1 + max(spans.pop(left), spans.pop(right))
    assert spans == {(0, parts): math.ceil(math.log2(parts))}


@pytest.mark.guarantee(NAME, "ends")
@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.runners("threads")
def test_no_part_and_one_part(task_runner: TaskRunner[Any]) -> None:
    """Without parts no task is run; a single one is not combined; no room is refused."""
    (text, *_), mapped, combined = reduced(task_runner, [], 1)
    assert (text, mapped, combined) == ("", 0, 0)
    (text, *_), mapped, combined = reduced(task_runner, ["only"], 1)
    assert (text, mapped, combined) == ("only", 1, 0)
    for at_most in (-1, 0):
        with pytest.raises(ValueError, match=f"at_most={at_most}: at least one task"):
            map_reduce(shown, together, [1], at_most=at_most, empty=("", 0.0, set()))


@pytest.mark.guarantee(NAME, "named")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_what_fails_is_named(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Of a failed part and of a failed combination the error has the name and the cause.

    Tasks in flight have ended, and nothing is submitted afterwards.
    """

    @task
    def note(item: int) -> tuple[str, float, set[int]]:
        if item > 0:
            wait_until((tmp_path / "failed").exists)
            time.sleep(0.5)  # a flow that did not wait would be further by then
        (tmp_path / str(item)).touch()
        if item == 0:
            (tmp_path / "failed").touch()
            raise ValueError("0 is bad")
        return shown.fn(item)

    @flow(task_runner=task_runner)
    def fail() -> list[Any]:
        errors: list[Any] = []
        for part, parts in ((note, [0, 1, *range(2, 9)]), (shown, ["a", "b", "c", "stop"])):
            with pytest.raises(ExceptionGroup) as raised:
                map_reduce(part, together, parts, at_most=2, empty=("", 0.0, set()))
            errors.append((raised.value.message, list(map(repr, raised.value.exceptions))))
            if part is note:
                errors.append(sorted(file.name for file in tmp_path.iterdir()))
        return errors

    first, files, second = fail()
    assert first == ("failed: part 0", ["ValueError('0 is bad')"])
    assert files == ["0", "1", "failed"]
    assert second == ("failed: the combination of parts 2 to 3", ["LookupError('no further')"])


@pytest.mark.guarantee(NAME, "named")
@pytest.mark.runners("processes")
def test_a_killed_process_is_named(task_runner: TaskRunner[Any]) -> None:
    """If the process of a part is killed, the error names this part."""

    @task
    def die(item: int) -> tuple[str, float, set[int]]:
        if item == 1:
            kill_this_process()
        return shown.fn(item)

    @flow(task_runner=task_runner)
    def fail() -> str:
        with pytest.raises(ExceptionGroup) as raised:
            map_reduce(die, together, [0, 1], at_most=1, empty=("", 0.0, set()))
        return raised.value.message

    assert fail() == "failed: part 1"


@task
def meet(number: int, folder: Path) -> set[int]:
    """Wait for the other part of a pair to begin, and return the process."""
    (folder / str(number)).touch()
    wait_until((folder / str(number ^ 1)).exists)
    return {os.getpid()}


@pytest.mark.guarantee(NAME, "side-by-side")
@pytest.mark.runners("processes")
def test_parts_run_side_by_side_in_other_processes(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """Two parts that wait for each other end, in two processes that are not the flow's.

    So does the flow of the pattern, which says that it wants a pool of processes.
    """

    @task
    def part(number: int) -> set[int]:
        return meet.fn(number, tmp_path)

    @task
    def union(left: set[int], right: set[int]) -> set[int]:
        return left | right

    @flow(task_runner=task_runner)
    def meetings() -> set[int]:
        return map_reduce(part, union, range(2), at_most=2, empty=set())

    found = meetings()
    assert len(found) == 2
    assert os.getpid() not in found
    assert type(count_all_steps.task_runner).__name__ == "ProcessPoolTaskRunner"


class Result:
    """A result that counts how many results were unpickled in each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)
        with (self.folder / "unpickled").open("a") as log:
            log.write(f"{os.getpid()}\n")


@pytest.mark.fact(NAME, "through-the-flow")
@pytest.mark.runners("processes")
def test_results_pass_through_the_flow(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """A result is unpickled in the flow's process, and in the one of the task it is given to."""

    @task
    def make() -> Result:
        return Result(tmp_path)

    @task
    def use(result: Result) -> int:
        return os.getpid()

    @flow(task_runner=task_runner)
    def pass_on() -> int:
        return use.submit(make.submit()).result()  # type: ignore[call-overload, no-any-return]

    used = pass_on()
    unpickled = set(map(int, (tmp_path / "unpickled").read_text().split()))
    assert {os.getpid(), used} <= unpickled


@pytest.mark.fact(NAME, "all-at-once")
@pytest.mark.fact(NAME, "not-run")
@pytest.mark.runners("threads")
def test_one_task_for_all_results(task_runner: TaskRunner[Any]) -> None:
    """A task that is given a map's futures gets all results, or isn't run and says not why."""

    @task
    def gather(results: list[Any]) -> int:
        return len(results)

    @flow(task_runner=task_runner)
    def gathered() -> tuple[int, str, str]:
        whole = gather.submit(shown.map(range(5))).result()
        future = gather.submit(shown.map([1, -2]))
        future.wait()
        return whole, str(future.state.name), str(future.state.message)

    whole, name, message = gathered()
    assert (whole, name) == (5, "NotReady")
    assert "can't be shown" not in message


@pytest.mark.guarantee(NAME, "few")
@pytest.mark.runners("threads")
def test_few_results_are_kept(
    task_runner: TaskRunner[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 65 parts and three tasks at a time, no more results are kept than is promised.

    The first part is the last to end, so that as many as possible wait for it.
    """
    # Counted from outside: submitted tasks that have not ended, and results that nothing has used.
    at_most, parts = 3, 65
    lock = threading.Lock()
    last = threading.Event()
    unused, running, most = 0, 0, [0, 0]

    def count(results: int, tasks: int) -> None:
        nonlocal unused, running
        with lock:
            unused, running = unused + results, running + tasks
            most[:] = [max(most[0], unused), max(most[1], running)]

    @task
    def part(number: int) -> int:
        if number == 0:
            last.wait()
        if number == parts - 1:
            last.set()
        count(1, -1)
        return 1

    @task
    def plus(left: int, right: int) -> int:
        count(-1, -1)
        return left + right

    for each in (part, plus):
        submit = each.submit

        def counted(*given: Any, submit: Any = submit) -> Any:
            count(0, 1)
            return submit(*given)

        monkeypatch.setattr(each, "submit", counted)

    @flow(task_runner=task_runner)
    def add_up() -> int:
        return map_reduce(part, plus, range(parts), at_most=at_most, empty=0)

    assert add_up() == parts
    assert most[1] <= at_most
    assert most[0] <= (at_most + 1) * (math.log2(parts) + 2)


@pytest.mark.nightly
def test_the_choice_of_processes() -> None:
    """`flowgauge advise` recommends a task runner with processes for the parts of the header."""
    *_, predictors = _measured_costs("reports/reference/results.json")
    advice = advise_mapped(Mapped(2.0, 64, "python"), predictors)
    order = [forecast.runner for forecast in advice.forecasts]
    with_processes = {name for name in order if "processes" in name or name == "lean-dask"}
    assert with_processes
    assert set(order[: len(with_processes)]) == with_processes
