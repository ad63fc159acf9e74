# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/resume.py`."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task, unmapped
from prefect.cache_policies import INPUTS
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from prefect.transactions import transaction

from flowgauge import EffectLedger
from flowgauge.runners.process_pool import preloaded_context
from flowgauge.server.isolation import forget_user_settings
from flowgauge.waiting import patience
from patterns.flows import resume
from patterns.flows.resume import SAME_RUN, main, stable_bytes
from tests.conftest import environment

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "flows/resume"
FAILED = FlowRunFilter.model_validate({"state": {"name": {"any_": ["Failed"]}}})
ROOT = Path(__file__).parents[3]


class Desk:
    """What the steps of a flow do, and which of them fail, in a folder that processes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = EffectLedger(folder / "ledger")

    def do(self, what: object) -> None:
        """Do something, unless it is out of order."""
        if (self.folder / f"{what} is down").exists():
            raise ConnectionError(f"{what} is down")
        self.ledger.record("done", what=what)

    def down(self, *steps: object) -> None:
        """Put these steps out of order, and mend all others."""
        for mended in self.folder.glob("* is down"):
            mended.unlink()
        for step in steps:
            (self.folder / f"{step} is down").touch()

    def done(self) -> list[Any]:
        """Return what was done since the last time that this was asked."""
        done = [effect.data["what"] for effect in self.ledger.effects("done")]
        self.ledger.path.unlink(missing_ok=True)
        return done


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return the desk of one test."""
    return Desk(tmp_path)


@task(cache_policy=SAME_RUN)
def step(desk: Desk, number: int, before: int = 0) -> int:
    """Do one step, and return ten times its number."""
    desk.do(number)
    return 10 * number


@flow(validate_parameters=False)
def steps(desk: Desk, edition: str = "first") -> list[int]:
    """Call, submit and map steps."""
    first = step(desk, 1)
    second = step.submit(desk, 2, first)
    mapped = step.map(unmapped(desk), [3, 4], unmapped(second))  # type: ignore[arg-type]
    last = step.submit(desk, 5, wait_for=mapped)  # type: ignore[call-overload]
    wait([*mapped, last])  # or those that have not ended when the flow fails may be cancelled
    return [first, second.result(), *mapped.result(), last.result()]


def end(flow: Callable[..., Any], *arguments: Any) -> State[Any]:
    """Return the final state of a run."""
    state: Any = flow(*arguments, return_state=True)
    assert isinstance(state, State)
    return state


NEEDS: Mapping[int, set[int]] = {1: set(), 2: {1}, 3: {1, 2}, 4: {1, 2}, 5: {1, 2, 3, 4}}


@pytest.mark.guarantee(NAME, "resumed")
@settings(max_examples=1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(down=st.sets(st.integers(1, 5), min_size=1))
@example(down={4})
def test_only_what_had_not_finished_is_done(
    task_runner: TaskRunner[Any], tmp_path: Path, down: set[int]
) -> None:
    """A new run makes only the calls that had not completed, whichever of them failed."""
    folder = tmp_path / uuid4().hex
    folder.mkdir()
    desk = Desk(folder)
    ours = steps.with_options(task_runner=task_runner)
    desk.down(*down)
    assert end(ours, desk).is_failed()
    before = set(desk.done())
    assert before == {number for number, needs in NEEDS.items() if not down & {number, *needs}}
    desk.down()
    assert ours(desk) == [10, 20, 30, 40, 50]
    assert sorted(desk.done()) == sorted(NEEDS.keys() - before)


@pytest.mark.guarantee(NAME, "resumed")
def test_async_calls_are_kept(desk: Desk) -> None:
    """Async calls, side by side, are kept like others."""

    @task(cache_policy=SAME_RUN)
    async def walk(number: int) -> int:
        desk.do(number)
        return 10 * number

    @flow
    async def walks(edition: str) -> list[int]:
        return [await walk(1), *await asyncio.gather(*map(walk, (2, 3, 4)))]

    edition = uuid4().hex
    desk.down(3)
    with pytest.raises(ConnectionError):
        asyncio.run(walks(edition))
    assert sorted(desk.done()) == [1, 2, 4]
    desk.down()
    assert asyncio.run(walks(edition)) == [10, 20, 30, 40]
    assert desk.done() == [3]


@pytest.mark.guarantee(NAME, "resumed")
def test_the_scan_continues(capsys: pytest.CaptureFixture[str]) -> None:
    """The pattern's flow scans each page once, in two runs."""
    main()
    printed = capsys.readouterr().out
    assert [printed.count(f"scanning page {page}\n") for page in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert printed.count("listing") == 1
    assert "the first run is Failed" in printed


@pytest.mark.guarantee(NAME, "retried")
def test_a_retry_of_the_same_run_continues(desk: Desk) -> None:
    """A retry by `retries=` makes only the calls that had not completed."""

    @flow(retries=1, validate_parameters=False)
    def trip(desk: Desk) -> list[int]:
        desk.down(*[3] * (flow_run.run_count == 1))
        return [step(desk, number) for number in (1, 2, 3, 4)]

    assert trip(desk) == [10, 20, 30, 40]
    assert desk.done() == [1, 2, 3, 4]


ENTRY = """

class Paper:
    def __init__(self, size):
        self.size = size


class Page:
    def __init__(self, number):
        self.number = number


@task(cache_policy=SAME_RUN)
def print_page(folder: str, page: int, paper: Any, colours: set[str]) -> Page:
    import os, signal
    from pathlib import Path

    print_here = Path(folder)
    if (print_here / f"{page} is missing").exists():
        raise FileNotFoundError(page)
    with (print_here / "printed").open("a") as printed:
        printed.write(f"{page} ")
    if (print_here / f"no paper for {page}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Page(page)


@flow
def print_book(folder: str, colours: set[str]) -> int:
    pages = [print_page(folder, page, Paper("A4"), colours) for page in (1, 2, 3, 4, 5)]
    return sum(page.number for page in pages)


if __name__ == "__main__":
    import sys
    print_book(sys.argv[1], {"red", "green", "blue", "black", "white"})
"""


def run_as_script(script: Path, variables: dict[str, str], folder: Path) -> None:
    """Run a file as `python script.py folder` on a machine with its own home folder."""
    os.environ.update(variables)
    forget_user_settings()
    sys.argv = [str(script), str(folder)]
    silent: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(silent):
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "killed")
@pytest.mark.guarantee(NAME, "retried")
def test_other_processes_continue(prefect_server: str, tmp_path: Path) -> None:
    """A killed run is continued by a run in another process, and that by a retry in a third.

    The page whose process was killed after it was printed is printed twice, the others once. The
    processes have their own copies of the file, home folders and hash seeds, and the same storage.
    """
    source = Path(resume.__file__).read_text().partition("\n\nif __name__")[0] + ENTRY
    scripts = [tmp_path / machine / "book.py" for machine in ("one", "two", "three")]
    storage, folder = tmp_path / "storage", tmp_path / "folder"
    folder.mkdir()

    def printed() -> str:
        return (folder / "printed").read_text()

    def variables(script: Path) -> dict[str, str]:
        home = script.parent / "home"
        return environment(prefect_server, home, PREFECT_LOCAL_STORAGE_PATH=str(storage))

    def run(script: Path) -> int | None:
        script.parent.mkdir()
        script.write_text(source)
        process = preloaded_context().Process(
            target=run_as_script, args=(script, variables(script), folder)
        )
        process.start()
        process.join(timeout=patience())
        return process.exitcode

    (folder / "no paper for 3").touch()
    assert run(scripts[0]) == -signal.SIGKILL
    assert printed() == "1 2 3 "
    (folder / "no paper for 3").unlink()
    (folder / "5 is missing").touch()
    assert run(scripts[1]) == 1
    assert printed() == "1 2 3 3 4 "
    (folder / "5 is missing").unlink()
    with get_client(sync_client=True) as client:
        runs = [
            run
            # Only these: the server gives the first 200 runs, of other tests, too.
            for run in client.read_flow_runs(flow_run_filter=FAILED)
            if run.parameters.get("folder") == str(folder)
        ]
    (failed,) = runs
    scripts[2].parent.mkdir()
    scripts[2].write_text(source)
    entrypoint = f"{scripts[2]}:print_book"
    retried = subprocess.run(
        [sys.executable, "-m", "prefect", "flow-run", "retry", str(failed.id), "-e", entrypoint],
        env=variables(scripts[2]),
        capture_output=True,
        text=True,
        timeout=patience(),
    )
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert printed() == "1 2 3 3 4 5 "


@pytest.mark.guarantee(NAME, "fresh")
def test_another_edition_starts_over(desk: Desk) -> None:
    """Another edition makes every call, even those that another one kept, and resumes only itself.

    What an earlier edition had stored of the steps behind the failure does not come back.
    """
    first, second = uuid4().hex, uuid4().hex
    steps(desk, first)
    assert sorted(desk.done()) == [1, 2, 3, 4, 5]
    desk.down(4)
    end(steps, desk, second)
    assert sorted(desk.done()) == [1, 2, 3]
    desk.down()
    steps(desk, second)
    assert desk.done() == [4, 5]
    steps(desk, first)
    assert desk.done() == []


@pytest.mark.guarantee(NAME, "fresh")
def test_a_default_is_the_same_as_its_value(desk: Desk) -> None:
    """A parameter that is left to its default is the same as one given that value."""
    steps(desk)
    assert len(desk.done()) == 5
    steps(desk, "first")
    steps(desk=desk, edition="first")
    assert desk.done() == []


@pytest.mark.guarantee(NAME, "fresh")
def test_another_flow_starts_over(desk: Desk) -> None:
    """Runs of another flow share nothing with it, even if their parameters are equal."""

    @flow(validate_parameters=False)
    def others(desk: Desk, edition: str) -> int:
        return step(desk, 1)

    steps(desk)
    desk.done()
    others(desk, "first")
    assert desk.done() == [1]


keys = st.one_of(st.booleans(), st.integers(0, 2), st.sampled_from(["", "0", "1", "true"]))
values = st.recursive(
    st.one_of(keys, st.none(), st.floats(), st.sampled_from([b"", b"0"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=2),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=4,
)
CONFUSED: list[Any] = [1, True, 1.0, "1", (1, 2), [1, 2], {1: "a"}, {"1": "a"}, 0.0, -0.0]
CONFUSED += [{1}, frozenset({1}), {"ab", "c"}, {"a", "bc"}]


def text(value: Any) -> str:
    """Return a text that is the same for equal values of the same types, and for no others."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}{sorted(map(text, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}{list(map(text, value))}"
    if isinstance(value, dict):
        return f"dict{[(text(key), text(each)) for key, each in value.items()]}"
    return repr(value)


@pytest.mark.guarantee(NAME, "typed")
@settings(max_examples=2)
@given(given=st.lists(values, min_size=4, max_size=4))
@example(given=CONFUSED)
def test_each_call_gets_its_own_result(given: list[Any]) -> None:
    """Calls with arguments that differ in value or type share nothing; equal ones share."""
    calls = []

    @task(cache_policy=SAME_RUN)
    def describe(value: Any) -> str:
        calls.append(text(value))
        return text(value)

    @flow
    def describe_all(edition: str) -> list[str]:
        return [describe(each) for each in given]

    edition = uuid4().hex
    assert describe_all(edition) == list(map(text, given))
    assert describe_all(edition) == list(map(text, given))
    assert len(calls) == len({text(each) for each in given})


class Tea:
    """A drink, whose class is in the same module as the task that gets it."""

    def __init__(self, cups: int) -> None:
        self.cups = cups


class Coffee(Tea):
    """Another drink."""


@pytest.mark.guarantee(NAME, "typed")
def test_objects_are_compared_by_class_and_content() -> None:
    """Objects of two classes of the task's own module share nothing, even if all else is equal."""
    calls = []

    @task(cache_policy=SAME_RUN)
    def pour(drink: Tea) -> str:
        calls.append(drink)
        return f"{type(drink).__name__} {drink.cups}"

    @flow
    def pour_all(edition: str) -> list[str]:
        return [pour(drink) for drink in (Tea(1), Coffee(1), Tea(2), Tea(1))]

    assert pour_all(uuid4().hex) == ["Tea 1", "Coffee 1", "Tea 2", "Tea 1"]
    assert len(calls) == 3


@pytest.mark.guarantee(NAME, "typed")
def test_parameters_of_the_flow_are_compared_like_arguments() -> None:
    """Runs whose parameters are equal but for a type share nothing."""
    calls = []

    @task(cache_policy=SAME_RUN)
    def count() -> int:
        calls.append(1)
        return len(calls)

    @flow(validate_parameters=False)
    def count_for(given: Any) -> int:
        return count()

    edition = uuid4().hex
    parameters: list[Any] = [(edition, 1), [edition, 1], (edition, True), (edition, "1")]
    assert [count_for(each) for each in parameters] == [1, 2, 3, 4]
    assert [count_for(each) for each in reversed(parameters)] == [4, 3, 2, 1]


@pytest.mark.guarantee(NAME, "typed")
def test_a_copy_counts_as_the_original() -> None:
    """A list of a string and its copy pickles like that string twice."""
    word = "night bus"
    copy = "".join(list(word))
    assert copy is not word
    assert stable_bytes([word, word], NAME) == stable_bytes([word, copy], NAME)


MENDABLE = """
from prefect import flow, task
from patterns.flows.resume import SAME_RUN

@task(cache_policy=SAME_RUN)
def read(desk):
    desk.do("read")
    return 1

@task(cache_policy=SAME_RUN)
def convert(desk, number):
    desk.do("convert")
    return number * 2

@task(cache_policy=SAME_RUN)
def other(desk, number):
    desk.do("other")
    return number

@task(cache_policy=SAME_RUN)
def write(desk, number):
    desk.do("write")
    return f"{number} written"

@flow(validate_parameters=False)
def convert_all(desk, edition):
    number = read(desk)
    other(desk, number)
    return write(desk, convert(desk, number))
"""


@pytest.mark.guarantee(NAME, "mended")
def test_a_mended_task_is_run_again(desk: Desk) -> None:
    """A task whose source changed is run again with those that get another result; no others.

    Lines that move because of that do not matter.
    """
    edition = uuid4().hex

    def run(source: str) -> Any:
        script = desk.folder / "convert.py"
        script.write_text(source)
        return runpy.run_path(str(script))["convert_all"](desk, edition)

    assert run(MENDABLE) == "2 written"
    assert desk.done() == ["read", "other", "convert", "write"]
    assert run("import math\n" + MENDABLE.replace("number * 2", "number * 20")) == "20 written"
    assert desk.done() == ["convert", "write"]
    # Mended again in a way that gives the same result: nothing that follows is run.
    assert run(MENDABLE.replace("number * 2", "20 * number")) == "20 written"
    assert desk.done() == ["convert"]


@pytest.mark.guarantee(NAME, "left-out")
def test_an_argument_can_be_left_out(desk: Desk) -> None:
    """An argument or a flow parameter that is left out does not count; those that remain do."""

    # Twice is no more than once.
    @task(cache_policy=SAME_RUN - "client" - "verbose" - "client")
    def load(client: Any, number: int) -> int:
        desk.do(number)
        return number

    @flow
    def load_all(edition: str, verbose: bool, last: int = 2) -> list[int]:
        return [load(threading.Lock(), number) for number in (1, last)]

    edition = uuid4().hex
    assert load_all(edition, True) == [1, 2]
    assert desk.done() == [1, 2]
    assert load_all(edition, False) == [1, 2]
    assert desk.done() == []
    load_all(edition, True, 3)
    assert desk.done() == [1, 3]
    # The policy that it was made from still counts everything.
    assert not SAME_RUN.left_out


UNKEPT = "result will not be persisted"
UNSTORED = "error while serializing result"


@pytest.mark.guarantee(NAME, "unkept")
@pytest.mark.parametrize("unpicklable", ["argument", "result", "parameter"])
def test_what_cannot_be_pickled_is_not_kept(
    desk: Desk, caplog: pytest.LogCaptureFixture, unpicklable: str
) -> None:
    """A call is made again if one of these can't be pickled, and the log says so."""
    lock = threading.Lock()

    @task(cache_policy=SAME_RUN)
    def load(client: Any) -> object:
        desk.do("load")
        return lock if unpicklable == "result" else 1

    @flow(validate_parameters=False)
    def load_once(edition: Any) -> None:
        load(lock if unpicklable == "argument" else 1)

    edition = lock if unpicklable == "parameter" else uuid4().hex
    for _ in range(2):
        load_once(edition)
        assert desk.done() == ["load"]
        assert (UNSTORED if unpicklable == "result" else UNKEPT) in caplog.text
        caplog.clear()


@pytest.mark.guarantee(NAME, "unkept")
def test_a_run_without_parameters_keeps_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is kept if nothing says which run it is; the log says what to do."""

    @task(cache_policy=SAME_RUN - "verbose")
    def load() -> int:
        desk.do("load")
        return 1

    @flow
    def without() -> int:
        return load()

    @flow
    def with_none_that_counts(verbose: bool = False) -> int:
        return load()

    callables: list[Any] = [without, with_none_that_counts, load]
    for made_by in callables:
        for _ in range(2):
            assert made_by() == 1
            assert desk.done() == ["load"]
            assert UNKEPT in caplog.text
            assert "give its flow a parameter" in caplog.text
            caplog.clear()


@pytest.mark.guarantee(NAME, "equal")
def test_equal_calls_are_made_once(desk: Desk) -> None:
    """The second of two equal calls is not made; with an argument that differs it is."""

    @flow(validate_parameters=False)
    def twice(desk: Desk) -> None:
        step(desk, 1)
        step(desk, 1)
        step(desk, 1, before=1)

    twice(desk)
    assert desk.done() == [1, 1]


@pytest.mark.fact(NAME, "default")
@pytest.mark.fact(NAME, "retry")
@pytest.mark.parametrize("retries", [0, 1])
def test_stock_tasks_are_repeated(desk: Desk, retries: int) -> None:
    """Stock tasks are run again: persisted ones in a new run, others in a retry."""

    @task(persist_result=not retries)
    def fetch(number: int) -> int:
        desk.do(number)
        return number

    @flow(retries=retries)
    def fetch_all(edition: str) -> None:
        desk.down(*[2] * (flow_run.run_count == 1 and not flags))
        flags.append(flow_run.id)
        fetch(1)
        fetch(2)

    flags: list[str] = []
    edition = uuid4().hex
    end(fetch_all, edition)
    if not retries:
        fetch_all(edition)
    assert len(flags) == 2
    assert desk.done() == [1, 1, 2]


@pytest.mark.fact(NAME, "json")
def test_inputs_confuse_lists_and_tuples() -> None:
    """With `INPUTS` a call with a list gets the result of one with a tuple."""

    @task(cache_policy=INPUTS)
    def kind(value: Any, edition: str) -> str:
        return type(value).__name__

    @flow
    def kinds() -> list[str]:
        edition = uuid4().hex
        return [kind((1, 2), edition), kind([1, 2], edition)]

    assert kinds() == ["tuple", "tuple"]


@pytest.mark.fact(NAME, "generator")
def test_of_a_generator_that_is_cut_short_nothing_is_kept(desk: Desk) -> None:
    """All items are made again, although the flow had got two of them."""

    @task(cache_policy=SAME_RUN)
    def pages(book: str) -> Iterator[int]:
        for number in (1, 2, 3):
            desk.do(number)
            yield number

    @flow
    def read(book: str) -> list[int]:
        got = []
        for page in pages(book):
            got.append(page)
            if page == 2 and not again:
                again.append(True)
                raise MemoryError
        return got

    again: list[bool] = []
    book = uuid4().hex
    assert end(read, book).is_failed()
    assert desk.done() == [1, 2]
    assert read(book) == [1, 2, 3]
    assert desk.done() == [1, 2, 3]


@pytest.mark.fact(NAME, "refresh")
def test_a_failed_refresh_leaves_old_results(desk: Desk) -> None:
    """After a refresh that failed, new results come before the failure and old ones behind it."""
    day = iter(range(100))

    @task(cache_policy=SAME_RUN)
    def fetch(number: int) -> int:
        desk.do(number)
        return next(day)

    @flow
    def fetch_all(edition: str) -> list[int]:
        return [fetch(number) for number in (1, 2, 3)]

    edition = uuid4().hex
    assert fetch_all(edition) == [0, 1, 2]
    desk.down(2)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        assert end(fetch_all, edition).is_failed()
    desk.down()
    assert fetch_all(edition) == [3, 1, 2]


@pytest.mark.fact(NAME, "transaction")
def test_in_a_transaction_nothing_is_stored_before_its_end(desk: Desk) -> None:
    """A failed transaction keeps nothing of the tasks in it that had finished."""

    @flow(validate_parameters=False)
    def together(desk: Desk) -> None:
        with transaction():
            step(desk, 1)
            step(desk, 2)

    desk.down(2)
    assert end(together, desk).is_failed()
    desk.down()
    together(desk)
    assert desk.done() == [1, 1, 2]


@pytest.mark.fact(NAME, "storage")
def test_another_storage_knows_nothing(desk: Desk) -> None:
    """A run with another result storage repeats everything."""
    steps(desk)
    desk.done()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: desk.folder / "other"}):
        steps(desk)
    assert len(desk.done()) == 5
