# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Tell somebody of a run that failed or crashed: once, and with the error that did it.

Problem:
    A hook on every task also tells of failures that the flow handles, and a hook on both the task
    and the flow tells twice. A hook on the flow reads in its state that a run "is in PENDING state,
    its result is not available", although an error in another task is to blame. And if the process
    is killed, no hook runs in it.

Guarantees:
    error: when a flow ends Failed, `tell` posts to a Webhook block: the flow, the run's name and
        id, its state, and the type and message of the error; of an ExceptionGroup each error, and
        of an error that was raised from another one both.
    task: if tasks have the hook `name_task`, the message also has the name and id of the task run
        in which the error was raised, even if that ran in another process.
    upstream: if a task did not run because another one failed, and that fails the flow, the message
        has the errors of the flow's failed task runs that the server knows.
    once: a run is told once, after its last retry; a failed task or subflow only if its failure
        fails the flow that called it.
    outcome: if the webhook refuses the message, does not exist, can't be reached or takes too
        long, the flow ends with its own error all the same.
    async: the same hooks serve async flows and tasks.
    server: after `tell_from_server`, the server posts to the block when a run of the deployment
        ends Crashed, even if its process was killed, or in another type of state that is given: by
        type, so a run that timed out is Failed. A crash that is reported twice is told once.
    again: set up again, a deployment has one automation, updated to the new arguments.

Prefect:
    pending (3.8, 3.9): `.result()` of a task that did not run after another's failure raises
        UnfinishedRun, or on a process pool UpstreamTaskError: that is the error in the state that
        the flow's hook is given.
    processes (3.8, 3.9): a task's hooks run in the process of the task, so what they put into a
        global is not there for the flow; a note on the error is.
    logged (3.8, 3.9): an error in a hook is logged, and the run keeps its state.
    killed (3.8, 3.9): a process that is killed runs no `on_crashed` hook; its run stays Running.
    named (3.8, 3.9): the event of a flow that timed out is called `prefect.flow-run.TimedOut`; an
        automation that expects `prefect.flow-run.Failed` does not see it.
    private (3.8, 3.9): a Webhook block calls private addresses, such as 127.0.0.1, unless it has
        `allow_private_urls=False`.

Not for:
    Secrets: errors are sent as they are. Messages that do not arrive: they are not sent again. A
    subflow whose parent lacks the hook: nobody is told. Several failed futures that a flow returns:
    the first error is told; raise them (`flows/final_state`). Errors that lose their task: replaced
    without `from`, from a returned `Failed` state, of a Crashed task (which runs no hook), or of a
    class that drops notes when pickled. An error object that is raised in two runs has the task
    runs of both. A run that crashes in two attempts within an hour is told once. Runs whose machine
    is gone stay Running, and nobody reports a crash until somebody marks them, as
    `deployments/recover_runs` does.

Costs:
    For each failed run a request to the server and one to the webhook, at most `seconds` long; for
    `upstream` a request each half second, until the server has the failed task runs.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/state-change-hooks
    - Prefect #14775: the hook is given the wrong error
    - Prefect #7964, #16427, #22766: no notification, and `on_crashed` hooks that do not run
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from prefect import Flow, Task, flow, get_client, task
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.events import EventTrigger
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectNotFound, UnfinishedRun, UpstreamTaskError
from prefect.flows import FlowStateHook
from prefect.states import get_state_exception

# Taken from the event, because the run may have moved on since.
FROM_SERVER = """{
    "flow": {{ flow.name | tojson }},
    "run": {{ event.resource.name | tojson }},
    "run_id": {{ event.resource.id.removeprefix("prefect.flow-run.") | tojson }},
    "state": {{ event.resource["prefect.state-name"] | tojson }},
    "errors": [{{ event.resource["prefect.state-message"] | tojson }}]
}"""


def name_task(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Note on the error of a failed task run where it was raised: a hook for `on_failure`."""
    # A note travels with the error to the flow, even from another process.
    where = f"in task run {task_run.name} ({task_run.id})"
    error_of(state).add_note(where)


def tell(webhook: str, seconds: float = 10) -> FlowStateHook[..., Any]:
    """Return a hook for `@flow(on_failure=[tell(...)])`; Prefect awaits it in sync flows, too.

    Args:
        webhook: The name of a Webhook block.
        seconds: How long the message may take.

    Returns:
        The hook.
    """

    async def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        if flow_run.parent_task_run_id and not flow_run.deployment_id:
            return  # a subflow: its parent handles the error, or fails and tells
        behind = errors_behind(error_of(state))
        errors = [each for error in behind for each in await told(error, flow_run)]
        run = {"flow": flow.name, "run": flow_run.name, "run_id": str(flow_run.id)}
        # The block's own limit begins anew with each byte that arrives.
        async with asyncio.timeout(seconds):
            block: Webhook = await Webhook.aload(webhook)
            response = await block.call({**run, "state": state.name, "errors": errors})
            response.raise_for_status()  # a refusal shall be in the log

    return tell_failure


def error_of(state: State[Any]) -> BaseException:
    """Return the error of a run, in sync and in async hooks."""
    return get_state_exception(state, _sync=True)  # type: ignore[call-arg, return-value]


def errors_behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; of a group, those of each error in it."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from errors_behind(each)
        return
    yield error
    if error.__cause__:
        yield from errors_behind(error.__cause__)


async def told(error: BaseException, flow_run: FlowRun) -> list[str]:
    """Return the type, message and notes of an error, or of the failures that it stands for."""
    if isinstance(error, UnfinishedRun | UpstreamTaskError):
        runs = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
        tasks = TaskRunFilter.model_validate({"state": {"type": {"any_": ["FAILED", "CRASHED"]}}})
        async with get_client() as client:
            for _ in range(8):
                failed = await client.read_task_runs(flow_run_filter=runs, task_run_filter=tasks)
                named = [(f"in task run {run.name} ({run.id})", run.state) for run in failed]
                if texts := [f"{state.message}, {where}" for where, state in named if state]:
                    return texts
                await asyncio.sleep(0.5)  # task runs reach the server late, and their states later
    return [", ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])]


def tell_from_server(
    deployment: UUID, webhook: str, types: tuple[str, ...] = ("CRASHED",)
) -> Automation:
    """Make the server tell of runs of a deployment that crashed.

    Args:
        deployment: The deployment whose runs it watches.
        webhook: The name of a Webhook block.
        types: The types of states that it tells. Flows without `tell` need `FAILED`, too.

    Returns:
        The automation.

    Raises:
        ValueError: If there is no such block.
    """
    with get_client(sync_client=True) as client:
        try:
            block = client.read_block_document_by_name(webhook, "webhook")
        except ObjectNotFound:
            raise ValueError(f'no Webhook block "{webhook}": save it first') from None
    automation = Automation(
        name=f"tell of runs of {deployment}",
        trigger=EventTrigger(
            # Not by the event's name, which is the state's: `TimedOut` is Failed, too.
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": list(types)},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
            # Once for each run and type: a worker may report a crash twice.
            for_each={"prefect.resource.id", "prefect.state-type"},
            posture=Posture.Reactive,
            within=timedelta(hours=1),
        ),
        actions=[CallWebhook(block_document_id=block.id, payload=FROM_SERVER)],
    )
    try:
        held: Any = Automation.read(name=automation.name)
    except ValueError:
        automation.create()
    else:
        automation.id = held.id
        automation.update()
    return automation


@task(on_failure=[name_task])
def fetch_page(page: int) -> str:
    """Fetch a page of the catalogue."""
    if page == 3:
        raise ConnectionError(f"no page {page}")
    return f"page {page}"


@task
def bind_pages(pages: list[str]) -> str:
    """Bind the pages."""
    return " ".join(pages)


@flow(on_failure=[tell("demo-alerts")])
def print_catalogue(pages: int) -> str:
    """Print the catalogue; somebody is told if it fails."""
    return bind_pages.submit(fetch_page.map(range(pages))).result()  # type: ignore[arg-type]


class Inbox(BaseHTTPRequestHandler):
    """Stand in for the chat or the pager that receives the messages."""

    def do_POST(self) -> None:
        """Print a message."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(*(f"{key}: {value}" for key, value in message.items()), sep="\n")
        self.send_response(204)
        self.end_headers()


def main() -> None:
    """Let a flow fail and show what is told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    block = Webhook(url=f"http://127.0.0.1:{server.server_port}")  # type: ignore[arg-type]
    block.save("demo-alerts", overwrite=True)
    print_catalogue(5, return_state=True)
    Webhook.delete("demo-alerts")
    server.shutdown()


if __name__ == "__main__":
    main()
