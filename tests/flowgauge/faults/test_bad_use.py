# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the use of faults, each reported in one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import task

from flowgauge.faults.faults import Faults, wanted_faults
from flowgauge.faults.process import FaultProcess, faults_folder


class Unsendable(Exception):
    """An exception that can't be pickled."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class Unreadable:
    """A value that can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return unread, ()

    def __repr__(self) -> str:
        return "Unreadable"


def unread() -> None:
    """Fail, as code would that another process lacks."""
    raise TypeError("read me\nelsewhere")


@pytest.fixture
def wanted(tmp_path: Path) -> Iterator[Faults]:
    """Yield faults without a server; none of them strikes."""
    with wanted_faults(faults_folder(tmp_path), 7, "http://127.0.0.1:1/api") as faults:
        yield faults


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda f: f.on("load", at="at the end"),
            "faults.on('load', at='at the end'): there is no such point; choose from"
            ' "before the body", "after the effect", "before the result is stored",'
            ' "after completion"',
        ),
        (
            lambda f: f.on("load").fail_times(0),
            "faults.on('load').fail_times(0): n is a number of attempts; give 1 or more",
        ),
        (
            lambda f: f.on("load").fail_times(1.5),
            "faults.on('load').fail_times(1.5): n is a number of attempts; give 1 or more",
        ),
        (
            lambda f: f.on("load").fail_times(1, in_run=0),
            "faults.on('load').fail_times(1, in_run=0): in_run is the number of one task run, 1 or"
            " more; leave out in_all",
        ),
        (
            lambda f: f.on("load").fail_times(1, in_all=True, in_run=2),
            "faults.on('load').fail_times(1, in_all=True, in_run=2): in_run is the number of one"
            " task run, 1 or more; leave out in_all",
        ),
        (
            lambda f: f.on("load").fail_with_probability(30),
            "faults.on('load').fail_with_probability(30): p is a probability; give a number from"
            " 0 to 1",
        ),
        (
            lambda f: f.on("load", at="after the effect").slow(-1),
            "faults.on('load', at='after the effect').slow(-1): give the seconds to wait, 0 or"
            " more",
        ),
        (
            lambda f: f.on("load").slow(float("nan")),
            "faults.on('load').slow(nan): give the seconds to wait, 0 or more",
        ),
        (
            lambda f: f.on("load").crash_process(times=0),
            "faults.on('load').crash_process(times=0): times is a number of attempts; give 1 or"
            " more",
        ),
        (
            lambda f: f.on("load").lose_connection(0),
            "faults.on('load').lose_connection(0): give a number of requests, 1 or more",
        ),
        (
            lambda f: f.on("load", at="after completion").corrupt_result(),
            "faults.on('load', at='after completion').corrupt_result(): a result can be damaged"
            " only after it is stored; leave out at=",
        ),
        (
            lambda f: f.on("load").fail_times(1, Unsendable),
            "faults.on('load').fail_times(1): <class 'tests.flowgauge.faults.test_bad_use."
            "Unsendable'> can't be sent to other processes (TypeError: cannot pickle"
            " '_thread.lock' object)",
        ),
        (
            lambda f: f.on("load").returns(threading.Lock()),
            "faults.on('load').returns(<unlocked _thread.lock object>): <unlocked _thread.lock"
            " object> can't be sent to other processes (TypeError: cannot pickle '_thread.lock'"
            " object)",
        ),
        (
            lambda f: f.on("load").returns(Unreadable()),
            "faults.on('load').returns(Unreadable): Unreadable can't be sent to other processes"
            " (TypeError: read me elsewhere)",
        ),
        (
            lambda f: f.on("load", at="after the effect").returns(1),
            "faults.on('load', at='after the effect').returns(1): it runs in place of the task's"
            " own code; leave out at=",
        ),
        (
            lambda f: f.on("load", at="before the body").returns("page\n" * 100),
            "faults.on('load', at='before the body').returns('page\\npage\\npage\\npage\\npage"
            "\\npage\\npage\\npage\\npage\\npa...): it runs in place of the task's own code; leave"
            " out at=",
        ),
        (
            lambda f: [f.on("load").fail_times(2), f.on("load").returns(1)],
            "faults.on('load').returns(1): the test has faults.on('load').fail_times(2) as well;"
            ' let a function given to returns raise the error, or let the task fail at="after'
            ' the effect"',
        ),
        (
            lambda f: [f.on("load").returns(1), f.on("load").fail_with_probability(0.5)],
            "faults.on('load').fail_with_probability(0.5): the test has"
            " faults.on('load').returns(1) as well; let a function given to returns raise the"
            ' error, or let the task fail at="after the effect"',
        ),
        (
            lambda f: f.on(5),
            "faults.on(5): that is no task; give a task or its name",
        ),
        (
            lambda f: f.struck("load"),
            "faults.struck('load'): the test has placed no such fault; those it has placed: none",
        ),
        (
            lambda f: [f.on("load*").slow(0), f.on("store").slow(1), f.struck("lod")],
            "faults.struck('lod'): the test has placed no such fault; those it has placed:"
            " faults.on('load*').slow(0), faults.on('store').slow(1)",
        ),
        (
            lambda f: [f.on("load").slow(0), f.struck("load", at="after the effect")],
            "faults.struck('load', at='after the effect'): the test has placed no such fault;"
            " those it has placed: faults.on('load').slow(0)",
        ),
        (
            lambda f: f.struck("load", at="in the body"),
            "faults.struck('load', at='in the body'): there is no such point; choose from"
            ' "before the body", "after the effect", "before the result is stored",'
            ' "after completion"',
        ),
        (
            lambda f: f.on("load").fail_times(1, "no answer"),
            "faults.on('load').fail_times(1): 'no answer' is not an exception; give one, or its"
            " class",
        ),
    ],
)
def test_an_invalid_fault(wanted: Faults, call: Callable[[Faults], Any], says: str) -> None:
    """A mistake in a call fails the test at that call, with one line and no traceback."""
    with pytest.raises(pytest.fail.Exception) as caught:
        call(wanted)
    assert str(caught.value) == says
    assert not caught.value.pytrace


def test_a_fault_of_a_task_that_never_ran(wanted: Faults, tmp_path: Path) -> None:
    """The line names the requested task and those that ran, so that a typo stands out."""
    wanted.on("lod").slow(0)
    assert wanted.unmet() == ["faults.on('lod').slow(0): no task ran at all"]
    process = FaultProcess(tmp_path, expendable=False)
    for name in ("store", "load", "load"):
        process.note_task(name)
    assert wanted.unmet() == [
        "faults.on('lod').slow(0): no task of that name ran; those that ran are 'load', 'store'"
    ]


def test_a_fault_at_a_point_that_was_never_reached(wanted: Faults, tmp_path: Path) -> None:
    """The line says what the task did not do."""
    wanted.on("l*", at="before the result is stored").fail_times(1)
    wanted.on("load").corrupt_result()
    wanted.on("load", at="after completion").fail_times(2)
    FaultProcess(tmp_path, expendable=False).note_task("load")
    assert wanted.unmet() == [
        "faults.on('l*', at='before the result is stored').fail_times(1): 'load' ran but stored"
        " no result; persist_result=True stores it",
        "faults.on('load').corrupt_result(): 'load' ran but stored no result;"
        " persist_result=True stores it",
        "faults.on('load', at='after completion').fail_times(2): 'load' ran but never reached"
        " the point 'after completion'",
    ]


def test_faults_that_go_together(wanted: Faults) -> None:
    """A stub may be slow, fail after its effect, or fail because of a fault on other names too."""
    wanted.on("load").returns(1)
    wanted.on("load").slow(0)
    wanted.on("load", at="after the effect").fail_times(1)
    wanted.on("*").fail_with_probability(0.1)
    assert wanted.struck("load") == wanted.struck("l*") == wanted.struck("store") == 0


def test_the_name_of_a_task(wanted: Faults) -> None:
    """A task stands for its name, even if that looks like a pattern."""

    @task(name="load [a-z]*")
    def load() -> None:
        """Do nothing."""

    wanted.on(load).slow(0)
    (fault,) = wanted._plan.faults
    assert fault.concerns("load [a-z]*")
    assert not fault.concerns("load b")
    assert wanted.struck(load) == 0


def test_a_fault_that_by_chance_did_not_strike(wanted: Faults, tmp_path: Path) -> None:
    """A fault that could have struck but did not is not reported as a mistake."""
    wanted.on("load").fail_with_probability(0)
    process = FaultProcess(tmp_path, expendable=False)
    assert process.due("load", "before the body", "run", lambda: "load()") == []
    assert wanted.unmet() == []


PROJECT = """
import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

@task
def load():
    pass

@task(retries=3, retry_delay_seconds=60)
def charge():
    pass

@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def shop():
    load()
    charge.submit().result()

def test_typo(faults):
    faults.on("lod").fail_times(1)
    shop()

def test_misuse(faults):
    faults.on("load").fail_times(0)

def test_crash(faults):
    faults.on("charge").crash_process()
    shop()

def test_crash_that_the_flow_hides(faults):
    faults.on("charge").crash_process()
    shop(return_state=True)

def test_seed(faults):
    faults.on("load").fail_with_probability(0)
    shop()
    assert faults.seed == 0
"""


def test_mistakes_in_the_report(pytester: pytest.Pytester) -> None:
    """Each mistake is one line of the report, and each failure says how to replay it."""
    pytester.makepyfile(PROJECT)
    result = pytester.runpytest_subprocess("--flow-fault-seed=12")
    result.assert_outcomes(passed=2, failed=3, errors=2)
    printed = result.stdout.str()
    # Prefect logs where a refusal comes from; pytest shows no traceback.
    assert "wanted.py" not in printed
    refused = "faults.on('charge').crash_process(): the task runs in pytest's own process; submit"
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_typo*",
            "faults.on('lod').fail_times(1): no task of that name ran; those that ran are"
            " 'charge', 'load'",
            "*ERROR at teardown of test_crash_that_the_flow_hides*",
            f"{refused}*",
            "*_ test_misuse _*",
            "faults.on('load').fail_times(0): n is a number of attempts; give 1 or more",
            "*- faults -*",
            "--flow-fault-seed 12 replays it",
            "*_ test_crash _*",
            f"{refused}*",
        ]
    )
    assert printed.count("--flow-fault-seed 12 replays it") == 5


def test_an_invalid_seed(pytester: pytest.Pytester) -> None:
    """A seed that can't be read ends the pytest run with one line."""
    result = pytester.runpytest_subprocess("--flow-fault-seed=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    printed = [line for line in result.outlines + result.errlines if line]
    assert printed == ["ERROR: --flow-fault-seed x: not a seed; give a whole number"]
