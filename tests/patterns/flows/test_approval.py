# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/approval.py`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import Flow, flow, get_client, pause_flow_run, suspend_flow_run, task
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.flow_engine import run_flow
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from pydantic import ValidationError, field_validator

from flowgauge import EffectLedger
from flowgauge.waiting import patience, wait_until
from patterns.flows.approval import (
    Answer,
    NotAccepted,
    Question,
    Refused,
    aask,
    answer,
    ask,
    main,
    waiting,
)
from tests.conftest import Start

NAME = "flows/approval"
QUESTION = 'Delete "orders" – all 3 rows?\n{{ no template }} 🗑'
YES = Answer(approve=True, name="Ann", note="checked")
NO = Answer(approve=False, name="Bob", note="wrong month")
SOON: Any = 0.05
"""How often a run that waits in place looks for the answer, in seconds."""
PAUSED = FlowRunFilter.model_validate({"state": {"name": {"any_": ["Paused"]}}})
Begin = Callable[..., Future[Any]]


@pytest.fixture
def begin(prefect_server: str) -> Iterator[Begin]:
    """Yield a function that calls something in a thread of its own, as the process of a run."""
    started: list[Future[Any]] = []

    def end_all() -> bool:
        # What a failed test left waiting goes on without an answer, and ends; or it is retried.
        with get_client(sync_client=True) as client:
            for run in client.read_flow_runs(flow_run_filter=PAUSED):
                client.set_flow_run_state(run.id, Running(), force=True)
        return all(each.done() for each in started)

    with ThreadPoolExecutor() as pool:

        def start(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
            started.append(pool.submit(copy_context().run, partial(call, *arguments)))
            return started[-1]

        yield start
        wait_until(end_all, "the runs to end")


def asked(text: str) -> Question:
    """Wait for a question, and return it."""
    return wait_until(lambda: next((each for each in waiting() if each.text == text), None), text)


def read(run: UUID) -> FlowRun:
    """Read a flow run."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def states(run: UUID) -> list[str]:
    """Return the names of all states of a flow run, oldest first."""
    with get_client(sync_client=True) as client:
        return [str(state.name) for state in client.read_flow_run_states(run)]


def deploy(a_flow: Flow[..., Any]) -> FlowRun:
    """Deploy a flow, and return a run of the deployment."""
    deployment = UUID(str(RunnerDeployment.from_flow(a_flow, f"test-{uuid4()}").apply()))
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(deployment)


def execute(a_flow: Flow[..., Any], run: FlowRun) -> Any:
    """Run a flow run of a deployment, as a worker's process does."""
    return run_flow(a_flow, flow_run=read(run.id))


def suspend(begin: Begin, a_flow: Flow[..., Any], run: FlowRun) -> None:
    """Run a flow run of a deployment until it is suspended."""

    def until_then() -> Any:
        result = execute(a_flow, run)
        return asyncio.run(result) if a_flow.isasync else result

    with pytest.raises(Pause):
        begin(until_then).result(patience())
    assert read(run.id).state_name == "Suspended"


def answers_at_once(run: UUID, count: int = 4) -> list[str]:
    """Let several people answer at the same moment; return the names of those who succeeded."""
    together = threading.Barrier(count)

    def person(name: str) -> list[str]:
        together.wait(patience())
        try:
            answer(run, Answer(approve=True, name=name))
        except NotAccepted:
            return []
        return [name]

    with ThreadPoolExecutor(count) as pool:
        called = [
            pool.submit(copy_context().run, person, f"person {number}") for number in range(count)
        ]
        return [name for each in called for name in each.result()]


@flow
def delete(question: str = QUESTION) -> tuple[int, Answer]:
    """Ask, and return the process and the answer."""
    return os.getpid(), ask(question, within=timedelta(minutes=30), poll=SOON)


@pytest.mark.guarantee(NAME, "shown")
@pytest.mark.guarantee(NAME, "approved")
@pytest.mark.guarantee(NAME, "once")
@pytest.mark.guarantee(NAME, "in-place")
def test_one_answer_counts(begin: Begin) -> None:
    """A run is shown with its question and its limit, and goes on with the one answer that counts.

    It waits in its process. Of four answers at once one counts, and none that comes later.
    """
    before = datetime.now(UTC)
    running = begin(delete)
    question = asked(QUESTION)
    assert question in waiting()
    assert before < question.until - timedelta(minutes=30) <= datetime.now(UTC)

    (who,) = answers_at_once(question.run)
    process, given = running.result(patience())

    assert (process, given) == (os.getpid(), Answer(approve=True, name=who))
    assert states(question.run) == ["Pending", "Running", "Paused", "Running", "Completed"]
    with pytest.raises(NotAccepted, match=f"run {question.run}: .*not paused"):
        answer(question.run, NO)
    assert read(question.run).state_name == "Completed"
    assert question.run not in {each.run for each in waiting()}
    with pytest.raises(NotAccepted):
        answer(uuid4(), YES)


@pytest.mark.guarantee(NAME, "wrong")
@pytest.mark.guarantee(NAME, "approved")
@pytest.mark.fact(NAME, "unnoticed")
def test_wrong_answers(begin: Begin) -> None:
    """Wrong answers over HTTP are refused with the reason, and the run waits for a right one.

    Prefect's client raises nothing.
    """
    running = begin(delete, "wrong?")
    run = asked("wrong?").run
    wrong = {
        "'approve' is a required property": {"name": "Ann"},
        "'name' is a required property": {"approve": True},
        "'yes' is not of type 'boolean'": {"approve": "yes", "name": "Ann"},
        "1 is not of type 'boolean'": {"approve": 1, "name": "Ann"},
        "None is not of type 'boolean'": {"approve": None, "name": "Ann"},
        "' ' does not match": {"approve": True, "name": " "},
        "3 is not of type 'string'": {"approve": True, "name": 3},
        "'sure' was unexpected": {"approve": True, "name": "Ann", "sure": True},
    }
    with get_client(sync_client=True) as client:
        for reason, given in wrong.items():
            path: Any = f"/flow_runs/{run}/resume"
            reply = client.request("POST", path, json={"run_input": given}).json()
            assert reply["status"] == "REJECT"
            assert reason in reply["details"]["reason"]
        assert client.resume_flow_run(run).status == SetStateStatus.REJECT
    with pytest.raises(NotAccepted, match="does not match"):
        answer(run, Answer.model_construct(approve=True, name="", note=""))
    assert read(run).state_name == "Paused"

    answer(run, YES)
    assert running.result(patience())[1] == YES
    with get_client(sync_client=True) as client:
        assert client.resume_flow_run(run, NO.model_dump()).status == SetStateStatus.ABORT


@pytest.mark.guarantee(NAME, "refused")
def test_a_refusal_fails_the_run(begin: Begin) -> None:
    """After a no the run ends Failed with the name and the note of the person; a note may lack."""
    for text, given, message in (
        ("no?", NO, "refused by Bob: wrong month"),
        ("no note?", Answer(approve=False, name="Bob"), "refused by Bob"),
    ):
        running = begin(delete, text)
        run = asked(text).run
        answer(run, given)
        with pytest.raises(Refused, match=f"^{message}$"):
            running.result(patience())
        state = read(run).state
        assert state
        assert state.is_failed()
        assert state.message
        assert state.message.endswith(f"Refused: {message}")


@pytest.mark.guarantee(NAME, "late")
@pytest.mark.fact(NAME, "message")
def test_nobody_answers(prefect_server: str) -> None:
    """A run that got no answer ends Failed, and an answer that comes later is refused.

    What it raised is not in its state.
    """
    runs: list[UUID] = []

    @flow
    def impatient() -> None:
        runs.append(UUID(flow_run.id))
        try:
            ask("impatient?", within=timedelta(seconds=1), poll=SOON)
        except FlowPauseTimeout:
            raise RuntimeError("nobody was there") from None

    with pytest.raises(RuntimeError, match="nobody was there"):
        impatient()
    with pytest.raises(NotAccepted):
        answer(runs[0], YES)
    state = read(runs[0]).state
    assert state
    assert state.is_failed()
    assert state.message == "The flow was failed and never resumed."


@pytest.mark.guarantee(NAME, "late")
def test_a_suspended_run_is_answered_too_late(prefect_server: str) -> None:
    """The answer to a suspended run that comes too late is refused, and the run ends Failed."""

    @flow
    def impatient() -> None:
        ask("suspended, impatient?", within=timedelta(seconds=1))

    run = deploy(impatient)
    with pytest.raises(Pause):
        execute(impatient, run)
    until = read(run.id).state.state_details.pause_timeout  # type: ignore[union-attr]
    assert until
    wait_until(lambda: datetime.now(UTC) > until, "the limit")
    with pytest.raises(NotAccepted):
        answer(run.id, YES)
    state = read(run.id).state
    assert state
    assert state.is_failed()


@pytest.mark.guarantee(NAME, "suspended")
@pytest.mark.guarantee(NAME, "asked")
@pytest.mark.guarantee(NAME, "shown")
def test_a_suspended_run(begin: Begin, effect_ledger: EffectLedger) -> None:
    """A deployed run ends its process while it waits, and keeps the results of its tasks.

    If another question comes up when it runs again, the answer does not count for that one.
    """
    texts = ["delete 3?", "delete 4?", "delete 4?"]

    @task(persist_result=True)
    def prepare() -> str:
        effect_ledger.record("prepared")
        return "prepared"

    @flow(persist_result=True)
    def cleaning() -> tuple[str, Answer]:
        return prepare(), ask(texts.pop(0))

    run = deploy(cleaning)
    for text in ("delete 3?", "delete 4?"):
        suspend(begin, cleaning, run)
        assert asked(text).run == run.id
        answer(run.id, Answer(approve=True, name=text))
        assert read(run.id).state_name == "Resuming"
    assert execute(cleaning, run) == ("prepared", Answer(approve=True, name="delete 4?"))
    assert effect_ledger.count("prepared") == 1
    assert read(run.id).state_name == "Completed"


@pytest.mark.guarantee(NAME, "kept")
@pytest.mark.fact(NAME, "attempt")
def test_a_retried_flow_is_not_asked_again(begin: Begin) -> None:
    """A flow that fails after the answer is retried with it, suspended or not.

    A run that waited in place has one retry fewer.
    """
    attempts: list[str] = []

    @flow(retries=2)
    def failing() -> str:
        given = ask("retried?", poll=SOON)
        attempts.append(given.name)
        raise ValueError("after the answer")

    running = begin(failing)
    answer(asked("retried?").run, YES)
    with pytest.raises(ValueError, match="after the answer"):
        running.result(patience())
    assert attempts == ["Ann"] * 2  # not 3

    attempts.clear()
    run = deploy(failing)
    suspend(begin, failing, run)
    answer(run.id, YES)
    with pytest.raises(ValueError, match="after the answer"):
        execute(failing, run)
    assert attempts == ["Ann"] * 3


@pytest.mark.guarantee(NAME, "in-place")
def test_a_subflow_waits_in_place(begin: Begin) -> None:
    """A subflow of a deployed run waits in its process; the answer is for the subflow's run."""

    @flow
    def outer() -> tuple[int, Answer]:
        return delete("in a subflow?")

    run = deploy(outer)
    running = begin(execute, outer, run)
    question = asked("in a subflow?")
    assert question.run != run.id
    assert read(question.run).state_name == "Paused"
    assert read(run.id).state_name == "Running"
    answer(question.run, YES)
    assert running.result(patience()) == (os.getpid(), YES)


@pytest.mark.guarantee(NAME, "async")
def test_async_flows(begin: Begin) -> None:
    """An async flow waits in place or suspended, goes on with a yes, and is failed by a no.

    Retried, it keeps the answer.
    """
    attempts: list[str] = []

    @flow(retries=2)
    async def flaky() -> Answer:
        given = await aask("async?", within=timedelta(minutes=30), poll=SOON)
        attempts.append(str(flow_run.id))
        if len(attempts) in {1, 3}:
            raise ValueError("after the answer")
        return given

    running = begin(lambda: asyncio.run(flaky()))  # type: ignore[arg-type]
    question = asked("async?")
    assert timedelta(minutes=20) < question.until - datetime.now(UTC) < timedelta(minutes=30)
    answer(question.run, YES)
    assert running.result(patience()) == YES
    assert attempts == [str(question.run)] * 2

    run = deploy(flaky)
    suspend(begin, flaky, run)
    answer(run.id, YES)
    assert asyncio.run(execute(flaky, run)) == YES
    assert attempts[2:] == [str(run.id)] * 2

    running = begin(lambda: asyncio.run(flaky()))  # type: ignore[arg-type]
    answer(asked("async?").run, NO)
    with pytest.raises(Refused, match=r"^refused by Bob: wrong month$"):
        running.result(patience())
    assert len(attempts) == 4


class Hasty(RunInput):
    """An input that decides by default."""

    approve: bool = True


class Picky(RunInput):
    """An input with a validator."""

    approve: bool

    @field_validator("approve")
    @classmethod
    def right(cls, value: bool) -> bool:
        """Accept only a yes."""
        if not value:
            raise ValueError("only a yes")
        return value


def with_form(name: str) -> UUID | None:
    """Return the id of the run of that name, if it is paused and the server has its form."""
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=PAUSED):
            if run.name == name and client.filter_flow_run_input(run.id, "paused", 1, set()):
                return run.id
    return None


@pytest.mark.fact(NAME, "defaults")
@pytest.mark.fact(NAME, "unchecked")
def test_what_the_server_lets_through(begin: Begin) -> None:
    """Without any input a run goes on with the defaults; what a validator refuses fails the run."""

    @flow(flow_run_name="{named}")
    def hasty(form: Any, named: str) -> bool:
        return bool(pause_flow_run(form, timeout=1800, poll_interval=SOON).approve)

    for form, given, named in (
        (Hasty, None, str(uuid4())),
        (Picky, {"approve": False}, str(uuid4())),
    ):
        running = begin(partial(hasty.with_options(validate_parameters=False), form, named))
        run = wait_until(partial(with_form, named), "a run that waits")
        with get_client(sync_client=True) as client:
            assert client.resume_flow_run(run, given).status == SetStateStatus.ACCEPT
        if form is Hasty:
            assert running.result(patience()) is True
        else:
            with pytest.raises(ValidationError, match="only a yes"):
                running.result(patience())
            assert read(run).state_name == "Failed"


@pytest.mark.fact(NAME, "deployed")
def test_only_a_deployed_run_can_be_suspended(prefect_server: str) -> None:
    """`suspend_flow_run` is refused in a run without a deployment."""

    @flow
    def alone() -> None:
        suspend_flow_run(timeout=1800)

    with pytest.raises(RuntimeError, match="Cannot suspend flows without a deployment"):
        alone()


ALONE = """
from datetime import timedelta
from pathlib import Path
from subprocess import Popen
from prefect import flow, task
from patterns.flows.approval import ask

@task(persist_result=True)
def prepare(place):
    with open(Path(place) / "prepared", "a") as file:
        file.write("prepared\\n")

@flow(persist_result=True)
def cleaning(place, seconds):
    prepare(place)
    given = ask("delete?", within=timedelta(seconds=seconds))
    (Path(place) / "deleted").write_text(given.name)
"""


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "suspended")
@pytest.mark.guarantee(NAME, "once")
@pytest.mark.guarantee(NAME, "late")
def test_processes(
    live_server: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a suspended run ends, and another one goes on with the one answer that counts.

    It does not repeat what was done. A run that nobody answers is failed by the server. All this
    with PostgreSQL, which lets several answers in at the same time.
    """
    (tmp_path / "alone.py").write_text(ALONE)
    monkeypatch.chdir(tmp_path)  # each process copies the folder in which a flow was deployed
    root = str(Path(__file__).parents[3])
    with temporary_settings({PREFECT_API_URL: live_server}):
        alone = RunnerDeployment.from_entrypoint(f"{tmp_path}/alone.py:cleaning", name="alone")
        deployment = UUID(str(alone.apply()))

        def created(seconds: int, place: Path) -> UUID:
            place.mkdir()
            given = {"place": str(place), "seconds": seconds}
            with get_client(sync_client=True) as client:
                return client.create_flow_run_from_deployment(deployment, parameters=given).id

        def executing(run: UUID) -> Popen[bytes]:
            return start("-m", "prefect.engine", str(run), PYTHONPATH=root)

        asking = created(1800, tmp_path / "answered"), created(1, tmp_path / "unanswered")
        for process in [executing(run) for run in asking]:
            assert process.wait(patience()) == 0
        assert read(asking[0]).state_name == "Suspended"

        (who,) = answers_at_once(asking[0])
        assert executing(asking[0]).wait(patience()) == 0
        assert read(asking[0]).state_name == "Completed"
        assert (tmp_path / "answered/deleted").read_text() == who
        assert (tmp_path / "answered/prepared").read_text() == "prepared\n"

        wait_until(lambda: read(asking[1]).state_name == "Failed", "the server to give up")
        with pytest.raises(NotAccepted):
            answer(asking[1], YES)
        assert not (tmp_path / "unanswered/deleted").exists()


@pytest.mark.guarantee(NAME, "approved")
def test_the_demo(prefect_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo asks, is approved, and publishes."""
    main()
    printed = capsys.readouterr().out
    assert "Publish 6000 rows of orders? (until " in printed
    assert printed.endswith("published, approved by Ann: looks right\n")
