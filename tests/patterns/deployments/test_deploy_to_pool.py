# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/deploy_to_pool.py`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State
from prefect.exceptions import ScriptError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running
from prefect.workers.process import ProcessWorker

from flowgauge.waiting import patience
from patterns.deployments import deploy_to_pool as pattern
from patterns.deployments.deploy_to_pool import Queue, deploy, outcome, prepare_pool, train
from patterns.deployments.trigger_by_http import call, watch

NAME = "deployments/deploy_to_pool"
FOLDER = Path(pattern.__file__).parent
TRAIN = "deploy_to_pool.py:train"

NOTING = """
import pathlib, time
from prefect import flow

@flow(persist_result=True)
def train(notes: str, name: str, seconds: float) -> str:
    with pathlib.Path(notes).open("a") as lines:
        lines.write(f"+{name}\\n")
        lines.flush()
        time.sleep(seconds)
        lines.write(f"-{name}\\n")
    return name
"""
"""A flow that records in a file when it begins and when it ends."""


def ask(deployment_id: UUID, number: int) -> list[UUID]:
    """Schedule runs of a deployment, and return their ids."""

    async def create() -> list[UUID]:
        async with get_client() as client:
            return [
                (
                    await client.create_flow_run_from_deployment(
                        deployment_id, parameters={"dataset": "a"}
                    )
                ).id
                for _ in range(number)
            ]

    return asyncio.run(create())


def offered(pool: str) -> list[UUID]:
    """Return the runs that a worker of a pool receives when it polls, in order."""

    async def poll() -> list[UUID]:
        async with get_client() as client:
            found = await client.get_scheduled_flow_runs_for_work_pool(pool)
        return [each.flow_run.id for each in found]

    return asyncio.run(poll())


def begin(*runs: UUID) -> list[str | None]:
    """Propose Pending for runs as a worker does, and return the names of the resulting states."""

    async def propose() -> list[str | None]:
        async with get_client() as client:
            pending: State[Any] = Pending()
            answers = [await client.set_flow_run_state(run, pending) for run in runs]
        return [answer.state.name if answer.state else None for answer in answers]

    return asyncio.run(propose())


def prepared(pool: str, limit: int | None = None, queue_limit: int | None = None) -> None:
    """Prepare a pool with the two queues."""
    queues = {"urgent": Queue(1), "default": Queue(2, limit=queue_limit)}
    prepare_pool(pool, queues, limit=limit)


@pytest.mark.guarantee(NAME, "priority")
def test_the_urgent_queue_comes_first(prefect_server: str) -> None:
    """A worker receives the urgent queue's run first, although it was scheduled last."""
    prepared("priority")
    usual = ask(deploy(FOLDER, TRAIN, "usual", "priority"), 2)
    urgent = ask(deploy(FOLDER, TRAIN, "urgent", "priority", work_queue_name="urgent"), 1)
    assert offered("priority") == [*urgent, *usual]


@pytest.mark.guarantee(NAME, "priority")
def test_a_new_queue_comes_before_an_existing_one_of_its_priority(prefect_server: str) -> None:
    """A new queue with priority 1 moves `default`, which had that priority, to priority 2.

    Preparing the pool again changes nothing, and two new queues may be given the same priority.
    """
    prepare_pool("made", {"urgent": Queue(1)})
    prepare_pool("made", {"urgent": Queue(1)})
    assert priorities(prefect_server, "made") == {"urgent": 1, "default": 2}
    for _ in range(2):
        prepare_pool("made", {"urgent": Queue(1), "first": Queue(3), "second": Queue(3)})
        both = {"first": 3, "second": 3}
        assert priorities(prefect_server, "made") == {"urgent": 1, "default": 2, **both}


@pytest.mark.guarantee(NAME, "priority")
def test_the_order_of_the_queues_does_not_matter(prefect_server: str) -> None:
    """Queues get the priorities that they are given, in whichever order they are listed."""
    queues = [("nightly", Queue(2)), ("urgent", Queue(1)), ("late", Queue(3))]
    for pool, given in (("falling", queues), ("rising", queues[::-1])):
        prepare_pool(pool, dict(given))
        assert priorities(prefect_server, pool) == {
            "urgent": 1,
            "nightly": 2,
            "late": 3,
            "default": 4,
        }


def priorities(api: str, pool: str) -> dict[str, int]:
    """Return the priority of each queue of a pool."""
    _, *queues = held(api, pool)
    return {each["name"]: each["priority"] for each in queues}


@pytest.mark.guarantee(NAME, "queue-limit")
def test_a_queue_hands_out_no_more_runs_than_its_limit(prefect_server: str) -> None:
    """With one run of a queue with limit 1 under way, a worker receives only other queues' runs.

    With a limit of 2 it receives the queue's second run.
    """
    prepared("queue-limit", queue_limit=1)
    first, second = ask(deploy(FOLDER, TRAIN, "limited", "queue-limit"), 2)
    urgent = ask(deploy(FOLDER, TRAIN, "free", "queue-limit", work_queue_name="urgent"), 2)
    assert offered("queue-limit") == [*urgent, first]
    assert begin(first) == ["Pending"]
    assert offered("queue-limit") == urgent
    prepare_pool("queue-limit", {"default": Queue(2, limit=2)})
    assert offered("queue-limit") == [*urgent, second]


@pytest.mark.guarantee(NAME, "pool-limit")
def test_a_pool_hands_out_no_more_runs_than_its_limit(prefect_server: str) -> None:
    """Runs of both queues count towards the pool's limit; at the limit a worker receives none."""
    prepared("pool-limit", limit=2)
    runs = ask(deploy(FOLDER, TRAIN, "one", "pool-limit"), 2)
    urgent = ask(deploy(FOLDER, TRAIN, "other", "pool-limit", work_queue_name="urgent"), 1)
    assert offered("pool-limit") == [*urgent, runs[0]]
    assert begin(*urgent, runs[0]) == ["Pending", "Pending"]
    assert offered("pool-limit") == []


@pytest.mark.guarantee(NAME, "one-at-a-time")
@pytest.mark.guarantee(NAME, "cancelled")
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (ConcurrencyLimitStrategy.ENQUEUE, "AwaitingConcurrencySlot"),
        (ConcurrencyLimitStrategy.CANCEL_NEW, "Cancelled"),
    ],
)
def test_a_run_above_the_limit(
    prefect_server: str, strategy: ConcurrencyLimitStrategy, expected: str
) -> None:
    """When two runs start, the second waits or is cancelled, depending on its deployment."""
    prepared("limits")
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=strategy)
    deployment_id = deploy(FOLDER, TRAIN, strategy.value, "limits", concurrency_limit=limit)
    assert begin(*ask(deployment_id, 2)) == ["Pending", expected]


def test_without_a_server_the_demo_says_so() -> None:
    """Without the address of a server, which a worker needs, it ends at once, with one line."""
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(SystemExit, match=r"^PREFECT_API_URL is not set: .*\Z"),
    ):
        pattern.main()


@pytest.mark.guarantee(NAME, "one-at-a-time")
def test_a_waiting_run_starts_when_the_slot_is_free(prefect_server: str) -> None:
    """A run that waited may start once the run before it has ended."""
    prepared("slots")
    deployment_id = deploy(FOLDER, TRAIN, "slots", "slots", concurrency_limit=1)
    first, second = ask(deployment_id, 2)
    assert begin(first, second) == ["Pending", "AwaitingConcurrencySlot"]

    async def finish() -> None:
        async with get_client() as client:
            states: list[State[Any]] = [Running(), Completed()]
            for state in states:
                await client.set_flow_run_state(first, state)

    asyncio.run(finish())
    assert begin(second) == ["Pending"]


@pytest.mark.guarantee(NAME, "kept")
def test_settings_that_are_not_given_are_kept(prefect_server: str) -> None:
    """Preparing a pool again keeps the changes that were made to it and to its queues.

    A new limit changes nothing else of the pool.
    """
    prepared("kept", limit=5, queue_limit=4)
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = {"TEAM": "models"}
    changes = {"is_paused": True, "description": "models", "base_job_template": template}
    httpx.patch(f"{prefect_server}/work_pools/kept", json=changes).raise_for_status()
    of_queue = {"description": "of models", "concurrency_limit": 3}
    default = f"{prefect_server}/work_pools/kept/queues/default"
    httpx.patch(default, json=of_queue).raise_for_status()
    before = held(prefect_server, "kept")
    prepared("kept")
    assert held(prefect_server, "kept") == before
    prepared("kept", limit=7)
    assert held(prefect_server, "kept")[0] == before[0] | {"concurrency_limit": 7}


def held(api: str, pool: str) -> list[dict[str, Any]]:
    """Return a pool and its queues as the server stores them, without the times of change."""
    with httpx.Client(base_url=api) as client:
        found = [
            client.get(f"/work_pools/{pool}").json(),
            *client.post(f"/work_pools/{pool}/queues/filter", json={}).json(),
        ]
    return [{key: each[key] for key in each if key != "updated"} for each in found]


@pytest.mark.fact(NAME, "ties")
def test_a_priority_may_be_given_twice(prefect_server: str) -> None:
    """A queue keeps priority 1 when another existing queue is set to priority 1 too."""
    prepared("ties")
    prepare_pool("ties", {"as-urgent": Queue(3)})
    prepare_pool("ties", {"as-urgent": Queue(1)})
    assert priorities(prefect_server, "ties") == {"as-urgent": 1, "urgent": 1, "default": 2}


@pytest.mark.fact(NAME, "misspelt")
def test_a_missing_queue_is_created(prefect_server: str) -> None:
    """Deploying to a queue that the pool does not have creates it, with the last priority."""
    prepared("misspelt")
    deploy(FOLDER, TRAIN, "misspelt", "misspelt", work_queue_name="urgnet")
    assert priorities(prefect_server, "misspelt") == {"urgent": 1, "default": 2, "urgnet": 3}


@pytest.mark.guarantee(NAME, "other-type")
def test_a_pool_of_another_type_is_refused(prefect_server: str) -> None:
    """The error names the pool and its type in one line, and the pool is not changed."""
    pool = {"name": "containers", "type": "docker"}
    httpx.post(f"{prefect_server}/work_pools/", json=pool).raise_for_status()
    before = held(prefect_server, "containers")
    with pytest.raises(
        ValueError, match=r'^work pool "containers" is of type docker, not process$'
    ):
        prepared("containers", limit=1)
    assert held(prefect_server, "containers") == before


@pytest.mark.guarantee(NAME, "kept")
def test_a_paused_deployment_stays_paused(prefect_server: str) -> None:
    """A paused deployment stays paused when deployed again, until `paused=False` is given."""
    prepared("paused")
    paused = []
    for options in ({}, {"paused": True}, {}, {"paused": False}):
        id_ = deploy(FOLDER, TRAIN, "paused", "paused", **options)
        with get_client(sync_client=True) as client:
            paused.append(client.read_deployment(id_).paused)
    assert paused == [False, True, True, False]


@pytest.mark.guarantee(NAME, "no-pool")
def test_a_pool_that_does_not_exist_is_refused(prefect_server: str) -> None:
    """The error names the pool in one line, and nothing is deployed."""
    with pytest.raises(ValueError, match=r"^Could not find work pool 'nowhere'") as caught:
        deploy(FOLDER, TRAIN, "to-nowhere", "nowhere")
    assert "\n" not in str(caught.value)
    assert "to-nowhere" not in deployed(prefect_server)


def deployed(api: str) -> set[str]:
    """Return the names of all deployments."""
    return {each["name"] for each in call(api, "/deployments/filter", {})}


@pytest.mark.guarantee(NAME, "no-flow")
@pytest.mark.parametrize(
    "entrypoint",
    ["train.py:nothing", "nothing.py:train", "nothing:train", "train", "broken.py:train"],
)
def test_a_flow_that_does_not_exist_is_refused(
    prefect_server: str, tmp_path: Path, entrypoint: str
) -> None:
    """The error names the entrypoint in one line, and nothing is deployed."""
    (tmp_path / "train.py").write_text(NOTING)
    (tmp_path / "broken.py").write_text("def train(:")
    with pytest.raises(ValueError, match=f'^no flow "{entrypoint}" in') as caught:
        deploy(tmp_path, entrypoint, "of-nothing", "default")
    assert "\n" not in str(caught.value)
    assert "of-nothing" not in deployed(prefect_server)


@pytest.mark.fact(NAME, "not-imported")
def test_a_file_that_fails_when_it_is_imported_is_deployed(
    prefect_server: str, tmp_path: Path
) -> None:
    """A flow in a file that raises on import is deployed, but can't be loaded for a run."""
    prepared("fails")
    (tmp_path / "fails.py").write_text(NOTING + "\nraise KeyError('NO_SUCH')\n")
    deploy(tmp_path, "fails.py:train", "of-a-file-that-fails", "fails")
    assert "of-a-file-that-fails" in deployed(prefect_server)
    with pytest.raises(ScriptError):
        load_flow_from_entrypoint(f"{tmp_path}/fails.py:train", use_placeholder_flow=False)


@pytest.mark.guarantee(NAME, "runs")
def test_the_value_of_a_run_can_be_read(prefect_server: str) -> None:
    """The value that `train` returned can be read, given only the id of its run."""
    state = train("a", epochs=2, return_state=True)
    run = state.state_details.flow_run_id
    assert run
    assert asyncio.run(outcome(run)) == "2 epochs on a"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "runs")
@pytest.mark.guarantee(NAME, "priority")
@pytest.mark.guarantee(NAME, "pool-limit")
def test_a_worker_executes_the_runs_one_at_a_time(
    live_server: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    """A real worker runs the urgent run first, one run at a time, and completes all of them."""
    (tmp_path / "notes.py").write_text(NOTING)
    notes = tmp_path / "notes"
    with temporary_settings({PREFECT_API_URL: live_server}):
        prepare_pool("e2e-pool", {"urgent": Queue(1), "default": Queue(2)}, limit=1)
        usual, urgent = (
            deploy(
                tmp_path,
                "notes.py:train",
                queue,
                "e2e-pool",
                work_queue_name=queue,
            )
            for queue in ("default", "urgent")
        )
        runs = [
            call(
                live_server,
                f"/deployments/{deployment_id}/create_flow_run",
                {
                    "parameters": {"notes": str(notes), "name": name, "seconds": 0.5},
                    "state": {"type": "SCHEDULED"},
                },
            )["id"]
            for deployment_id, name in ((usual, "a"), (usual, "b"), (urgent, "now"))
        ]
        start(
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            "e2e-pool",
            "--type",
            "process",
            PREFECT_WORKER_QUERY_SECONDS="1",
        )
        states = [watch(live_server, run, patience=patience()) for run in runs]
        assert [asyncio.run(outcome(UUID(run))) for run in runs] == ["a", "b", "now"]
    assert [state["type"] for state in states] == ["COMPLETED"] * 3
    assert notes.read_text().split() == ["+now", "-now", "+a", "-a", "+b", "-b"]


@pytest.mark.nightly
def test_the_commands_do_the_same(
    live_server: str, prefect: Callable[..., Any], tmp_path: Path
) -> None:
    """The commands shown by `main` create the pool, queues and deployments, and run both runs."""
    shutil.copy(pattern.__file__, tmp_path)
    lines = str(pattern.main.__doc__).splitlines()
    typed = [line.split()[1:] for line in lines if line.startswith("        prefect ")]
    assert typed[-1][:2] == ["worker", "start"]
    for words in (*typed[:-1], [*typed[-1], "--run-once"]):
        done = prefect("--no-prompt", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    pool, *queues = held(live_server, "models")
    assert pool["concurrency_limit"] == 2
    assert {each["name"]: (each["priority"], each["concurrency_limit"]) for each in queues} == {
        "urgent": (1, None),
        "default": (2, 1),
    }
    runs = call(live_server, "/flow_runs/filter", {"work_pools": {"name": {"any_": ["models"]}}})
    with temporary_settings({PREFECT_API_URL: live_server}):
        values = {run["work_queue_name"]: asyncio.run(outcome(UUID(run["id"]))) for run in runs}
    assert values == {"urgent": "1 epochs on now", "default": "1 epochs on nightly"}
    made = {
        each["name"]: (each["work_queue_name"], each["global_concurrency_limit"])
        for each in call(live_server, "/deployments/filter", {})
        if each["work_pool_name"] == "models"
    }
    assert made["now"] == ("urgent", None)
    assert (made["nightly"][0], made["nightly"][1]["limit"]) == ("default", 1)
