# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Let a person decide before a flow goes on: a typed answer, once, within a time limit.

Problem:
    Code that waits for an approval holds a process for as long as people take to answer. If it is
    suspended instead, the flow runs again from its start, and the answer that it then finds may
    have been given to another question. Of two people who answer at once both may think that their
    answer counted.

Guarantees:
    shown: `waiting` gives each run that waits for an answer: its id, the question, and until when.
    approved: the flow goes on with the answer of type `Answer`: who approved, and the note.
    refused: if the answer is no, `ask` raises `Refused`, and the run ends Failed with the name and
        the note of the person who refused.
    wrong: an answer without a decision or a name, with a field that does not exist or of another
        type is refused by the server, also over HTTP, and the run waits on.
    once: if several people answer at once, one answer counts; for the others, and for everybody who
        comes later, `answer` raises `NotAccepted`.
    late: a run that got no answer in time ends Failed, and an answer that comes later is refused.
    suspended: the run of a deployment holds no process while it waits. Run again after the answer,
        it does not repeat tasks with persisted results.
    asked: if the flow, run again, asks another question, it waits for another answer.
    kept: if the flow is retried after the answer, it goes on with that answer.
    in-place: a flow without a deployment, and a subflow, waits in its process.
    async: the same holds for `aask` in async flows.

Prefect:
    unnoticed (3.8, 3.9): the client's `resume_flow_run` raises nothing if the answer is refused.
    defaults (3.8, 3.9): if all fields of an input have defaults, a run that is resumed without any
        input goes on with the defaults.
    unchecked (3.8, 3.9): the server checks an answer by its JSON schema; if only a validator
        refuses it, the run is resumed and fails.
    attempt (3.8, 3.9): a run that waited in place has used up one of the flow's retries.
    message (3.8, 3.9): a run that got no answer in place ends with the message "The flow was failed
        and never resumed", whatever error the flow raised.
    deployed (3.8, 3.9): `suspend_flow_run` is refused in a run without a deployment.

Not for:
    Telling people that a run waits: see `flows/notify`. Who may answer: all who reach the API may.
    A question asked twice in a run gets one answer; put into the text what shall be told apart.
    Submitted tasks that are still running when a run is suspended: wait for them first. More than
    200 runs that wait.

Costs:
    A few requests to the server. In place the answer is seen after `poll` seconds; a suspended run
    starts anew, which takes as long as any start of that deployment.

Sources:
    - https://docs.prefect.io/v3/advanced/interactive
    - Prefect #17822, #20388: runs that go on although they were suspended
    - Prefect #8360, #19435: pausing where it is not possible
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow, get_client, pause_flow_run, suspend_flow_run, task
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import (
    RunInput,
    acreate_flow_run_input,
    aread_flow_run_input,
    create_flow_run_input,
    read_flow_run_input,
)
from pydantic import Field


class Answer(RunInput):
    """What a person fills in; nothing that decides has a default."""

    approve: bool
    name: str = Field(pattern=r"\S")
    note: str = ""


class Refused(Exception):
    """Somebody said no."""


class NotAccepted(Exception):
    """The answer does not count: the run does not wait for it, or it is not a valid one."""


@dataclass(frozen=True)
class Question:
    """A question that waits for an answer.

    Attributes:
        run: The id of the flow run that asks it.
        text: The question.
        until: When the run fails if there is no answer.
    """

    run: UUID
    text: str
    until: datetime


def ask(question: str, within: timedelta = timedelta(days=1), poll: int = 10) -> Answer:
    """Ask whether the flow may go on, and return the answer if it is yes.

    Args:
        question: What shall be approved. Name all that matters: an answer counts for this text.
        within: How long the run waits for an answer.
        poll: After how many seconds a run that waits in its process looks for the answer again.

    Returns:
        The answer.

    Raises:
        Refused: If the answer is no.
    """
    key, form, seconds = key_of(question), form_of(question), int(within.total_seconds())
    held: Any = read_flow_run_input(key)
    if held is None:
        if can_suspend():
            held = suspend_flow_run(form, timeout=seconds, key=key).model_dump()
        else:
            held = pause_flow_run(form, timeout=seconds, key=key, poll_interval=poll).model_dump()
        create_flow_run_input(key, held)  # a retry forgets the answers that Prefect holds
    return approved(held)


async def aask(question: str, within: timedelta = timedelta(days=1), poll: int = 10) -> Answer:
    """Ask in an async flow: the same as `ask`."""
    key, form, seconds = key_of(question), form_of(question), int(within.total_seconds())
    held = await aread_flow_run_input(key)
    if held is None:
        if can_suspend():
            answer = await asuspend_flow_run(form, timeout=seconds, key=key)
        else:
            answer = await apause_flow_run(form, timeout=seconds, key=key, poll_interval=poll)
        held = answer.model_dump()
        await acreate_flow_run_input(key, held)
    return approved(held)


def key_of(question: str) -> str:
    """Return the key under which the answer to a question is kept: it is the question's own."""
    # Prefect's own key is the number of the question: the answer would count for another one.
    return f"answer-{hashlib.sha256(question.encode()).hexdigest()}"


def form_of(question: str) -> type[Answer]:
    """Return the form that the server shows and checks."""
    return Answer.with_initial_data(description=question)


def can_suspend() -> bool:
    """Return whether the server can start the current run again after the answer."""
    run = FlowRunContext.get().flow_run  # type: ignore[union-attr]
    return bool(run.deployment_id and not run.parent_task_run_id)  # type: ignore[union-attr]


def approved(held: dict[str, object]) -> Answer:
    """Return an answer that is yes."""
    answer = Answer.model_validate(held)
    if not answer.approve:
        raise Refused(": ".join(filter(None, (f"refused by {answer.name}", answer.note))))
    return answer


def waiting() -> list[Question]:
    """Return the questions that wait for an answer."""
    paused = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    questions = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=paused):
            details = run.state and run.state.state_details
            if details and details.run_input_keyset and details.pause_timeout:
                text: Any = read_flow_run_input(details.run_input_keyset["description"], run.id)
                questions += [Question(run.id, text, details.pause_timeout)] if text else []
    return questions


def answer(run: UUID, given: Answer) -> None:
    """Answer the question of a run that waits.

    Args:
        run: The id of the flow run.
        given: The answer.

    Raises:
        NotAccepted: If the answer does not count, with the reason.
    """
    with get_client(sync_client=True) as client:
        try:
            result = client.resume_flow_run(run, given.model_dump())
        except PrefectHTTPStatusError as error:
            # With PostgreSQL this is how the second of two simultaneous answers is refused.
            raise NotAccepted(f"run {run}: {error.response.text}") from error
    if result.status != SetStateStatus.ACCEPT:
        raise NotAccepted(f"run {run}: {getattr(result.details, 'reason', result.status)}")


@task(persist_result=True)
def count_rows(table: str) -> int:
    """Count the rows that would be published."""
    print(f"counting the rows of {table}")
    return len(table) * 1000


@flow
def publish(table: str) -> str:
    """Publish a table if somebody approves."""
    rows = count_rows(table)
    yes = ask(f"Publish {rows} rows of {table}?", within=timedelta(minutes=5), poll=1)
    return f"published, approved by {yes.name}: {yes.note}"


def approve_all(done: threading.Event) -> None:
    """Stand in for the people who look at what waits, and answer."""
    while not done.wait(0.2):
        for question in waiting():
            print(f"{question.text} (until {question.until:%H:%M})")
            answer(question.run, Answer(approve=True, name="Ann", note="looks right"))


def main() -> None:
    """Let a flow wait for an approval, and approve it."""
    print("waiting before:", waiting())  # also starts a temporary server, if none is configured
    done = threading.Event()
    people = threading.Thread(target=approve_all, args=[done])
    people.start()
    try:
        print(publish("orders"))
    finally:
        done.set()
        people.join()


if __name__ == "__main__":
    main()
