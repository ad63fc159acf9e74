# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Deploy a flow to a work pool of processes: queues with priorities, limits, and a worker.

Problem:
    The machine with the graphics card is not the one where flows are started, urgent runs must not
    queue behind the nightly ones, and two trainings at once fill its memory.

Guarantees:
    runs: a worker of the pool executes each run in a separate process, from the source folder and
        with the parameters that were given, and its value can be read afterwards.
    priority: a worker is given a run of the `urgent` queue before those of the `default` queue
        that were scheduled earlier; a new queue comes before those that already had its priority.
    queue-limit: a worker is given no more runs of a queue at once than the queue's limit.
    pool-limit: a worker is given no more runs of a pool at once than the pool's limit, across all
        its queues.
    one-at-a-time: with a limit of one, one run of a deployment is active at a time; the next waits
        for the slot, and starts when it is free.
    cancelled: with `CANCEL_NEW` a run above the limit is cancelled instead of waiting.
    kept: of an existing pool or queue only what is given is changed: without a limit it keeps
        its own, and it always keeps its paused state, description and job template; a queue may
        move down to make room for a new one. A paused deployment stays paused when it is deployed
        again.
    other-type: an existing pool of a type other than process is refused with a one-line message.
    no-pool: a deployment to a pool that does not exist is refused with a one-line message.
    no-flow: a deployment of a flow that does not exist is refused with a one-line message, and
        nothing is deployed.

Prefect:
    ties (3.8, 3.9): an existing queue that is given the priority of another does not move the
        other: both have it.
    misspelt (3.8, 3.9): a queue that the pool does not have is created, with the last priority,
        when a flow is deployed to it.
    not-imported (3.8, 3.9): a file that raises when it is imported, for example because a package
        is missing here, is deployed all the same; if it raises for a worker too, its runs fail.

Not for:
    One machine and a few flows: `deployments/serve` needs no pool and no worker. Where polling
    is not an option, see `deployments/push_on_one_machine`. Removing a limit:
    `prefect work-pool clear-concurrency-limit`.

Costs:
    A new Python process for each run, which imports Prefect: seconds. Before that a run waits
    for the worker's next poll, every ten seconds by default (`PREFECT_WORKER_QUERY_SECONDS`);
    a run that waits for its deployment's limit tries again after thirty seconds
    (`PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS`).

Sources:
    - https://docs.prefect.io/v3/concepts/work-pools
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/run-flows-in-local-processes
    - Prefect #14934: what happens to runs above a deployment's limit
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments import run_deployment
from prefect.exceptions import MissingFlowError, ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker


@flow(persist_result=True)  # or the value would be lost with the run's process
def train(dataset: str, epochs: int = 1) -> str:
    """Train a model, which fills the machine's memory."""
    return f"{epochs} epochs on {dataset}"


@dataclass(frozen=True)
class Queue:
    """A queue of a work pool.

    Attributes:
        priority: 1 is first.
        limit: How many of its runs may be active at once; if None, the limit is not changed.
    """

    priority: int
    limit: int | None = None


def prepare_pool(pool: str, queues: Mapping[str, Queue], limit: int | None = None) -> None:
    """Create a process pool and its queues if they are missing, and set what is given.

    Args:
        pool: The pool's name.
        queues: The queues by name; a pool always has one called `default`.
        limit: How many runs of the pool may be active at once; if None, the limit is not changed.

    Raises:
        ValueError: If the pool exists and is of another type; the message is one line.
    """
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        # With `overwrite=True` a pool would lose its limit, and a paused one would resume.
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(
                WorkPoolCreate(name=pool, type="process", base_job_template=template)
            )
        there = client.read_work_pool(pool)
        if there.type != "process":
            raise ValueError(f'work pool "{pool}" is of type {there.type}, not process')
        if limit is not None:
            client.update_work_pool(pool, WorkPoolUpdate(concurrency_limit=limit))
        # A new queue moves those of its priority down, so create them in order of priority.
        for name, queue in sorted(queues.items(), key=lambda each: each[1].priority):
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(name, work_pool_name=pool, priority=queue.priority)
        for name, queue in queues.items():
            made = client.read_work_queue_by_name(name, work_pool_name=pool)
            client.update_work_queue(made.id, priority=queue.priority)
            if queue.limit is not None:
                client.update_work_queue(made.id, concurrency_limit=queue.limit)


def deploy(folder: Path, entrypoint: str, name: str, pool: str, **options: object) -> UUID:
    """Deploy a flow to a pool, leaving its source where it is.

    When it is deployed again, Prefect sets what is not given, but a paused deployment stays paused.

    Args:
        folder: Where a worker of the pool finds the source.
        entrypoint: The file in it and the flow: `train.py:train`.
        name: The deployment's name.
        pool: The pool's name.
        **options: More arguments of `Flow.deploy`, such as `work_queue_name`.

    Returns:
        The id of the deployment.

    Raises:
        ValueError: If there is no such flow or no such pool; the message is one line.
    """
    try:
        source: Any = flow.from_source(str(folder), entrypoint=entrypoint)
    except (MissingFlowError, OSError, ImportError, SyntaxError, ValueError) as error:
        raise ValueError(f'no flow "{entrypoint}" in {folder}: {str(error).strip()}') from None
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        earlier = client.read_deployment_by_name(f"{source.name}/{name}")
        options = {"paused": earlier.paused, **options}
    deployed: UUID = source.deploy(
        name=name, work_pool_name=pool, print_next_steps=False, ignore_warnings=True, **options
    )
    return deployed


async def work(pool: str, *, once: bool = False) -> None:
    """Work for a pool, as `prefect worker start --pool` does.

    Args:
        pool: The pool's name.
        once: Execute the runs that are due now, then end.
    """
    await ProcessWorker(work_pool_name=pool).start(run_once=once)


async def outcome(flow_run_id: UUID) -> object:
    """Return the value of a run that has completed, or the state name of any other."""
    async with get_client() as client:
        run = await client.read_flow_run(flow_run_id)
    if run.state is None or not run.state.is_completed():
        return run.state_name
    return await run.state.aresult()


def main() -> None:
    """Deploy to a pool, schedule a run in each queue, and work until both are done.

    The same on the command line, where the last command works until it is stopped by Ctrl-C:

        prefect work-pool create models --type process
        prefect work-pool set-concurrency-limit models 2
        prefect work-queue create urgent --pool models --priority 1
        prefect work-queue set-concurrency-limit default 1 --pool models
        prefect deploy deploy_to_pool.py:train --name nightly --pool models --concurrency-limit 1
        prefect deploy deploy_to_pool.py:train --name now --pool models --work-queue urgent
        prefect deployment run train/nightly --param dataset=nightly
        prefect deployment run train/now --param dataset=now
        prefect worker start --pool models
    """
    if not PREFECT_API_URL.value():
        raise SystemExit("PREFECT_API_URL is not set: `prefect server start` gives an address")
    here = Path(__file__).resolve()
    pool = "models"
    prepare_pool(pool, {"urgent": Queue(1), "default": Queue(2, limit=1)}, limit=2)
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    deploy(here.parent, f"{here.name}:train", "nightly", pool, concurrency_limit=one)
    deploy(here.parent, f"{here.name}:train", "now", pool, work_queue_name="urgent")
    runs: list[Any] = [
        run_deployment(f"train/{name}", parameters={"dataset": name}, timeout=0)
        for name in ("nightly", "now")
    ]
    asyncio.run(work(pool, once=True))
    for run in runs:
        print(f"{run.work_queue_name}: {asyncio.run(outcome(run.id))}")
    try:
        deploy(here.parent, f"{here.name}:train", "lost", "nowhere")
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
