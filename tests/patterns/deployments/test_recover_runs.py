# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/recover_runs.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.events.schemas.events import Resource, ResourceSpecification
from prefect.server.events.schemas.automations import EventTrigger as ServerTrigger
from prefect.server.events.schemas.automations import Posture
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed, Running, Scheduled, Suspended
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from flowgauge.waiting import patience, wait_until
from patterns.deployments.recover_runs import (
    HEARTBEAT,
    JOB_VARIABLES,
    crash_silent_runs,
    main,
    measure_rain,
    recover_runs,
    rerun_crashed_runs,
)
from patterns.deployments.self_hosted_server import postgres, prefect_server

NAME = "deployments/recover_runs"
FREQUENCY = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
PATTERN = Path(measure_rain.fn.__code__.co_filename)
# Shorter than the heartbeat, for runs that die after their first one.
WINDOW = timedelta(seconds=12)
# The shortest that the server accepts.
PAUSE = timedelta(seconds=10)
ATTEMPTS = 2
SHARERS = ("second", "third")
BEAT_SECONDS = 1
# Longer than pytest's limit for a test: the scene is the setup of ten tests, and if it hangs, that
# limit reports it.
SCENE_SECONDS = 900
BEAT = "prefect.flow-run.heartbeat"

FLOW = """
import os, signal, time
from pathlib import Path
from prefect import flow, task

def note(folder, what):
    with (Path(folder) / "done").open("a") as file:
        file.write(f"{what}\\n")

@task(persist_result=True)
def pack(folder):
    note(folder, "pack")

@task(persist_result=True)
def travel(folder):
    (Path(folder) / "process").write_text(str(os.getpid()))
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)

@flow
def trip(folder: str, fatal: bool = False):
    note(folder, "begin")
    pack(folder)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    travel(folder)
    note(folder, "end")
"""


@dataclass(frozen=True)
class Trip:
    """A run, and the folder where it records what it does."""

    id: UUID
    folder: Path

    def process(self) -> int:
        """Return the id of the process that waits."""
        return int((self.folder / "process").read_text())

    def waits(self) -> bool:
        """Return whether it waits."""
        return (self.folder / "process").exists() and bool((self.folder / "process").read_text())

    def go(self) -> None:
        """Let it continue."""
        (self.folder / "go").touch()

    def done(self) -> list[str]:
        """Return what it has done, in all its attempts."""
        return (self.folder / "done").read_text().split()


@dataclass(frozen=True)
class Stage:
    """A server with two deployments, one of which is recovered."""

    client: SyncPrefectClient
    api: str
    folder: Path
    recovered: UUID
    other: UUID
    living: list[Trip] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    between_beats: threading.Lock = field(default_factory=threading.Lock)

    def trip(self, deployment: UUID, fatal: bool = False, state: State | None = None) -> Trip:
        """Schedule a run."""
        folder = self.folder / uuid4().hex
        folder.mkdir()
        parameters = {"folder": str(folder), "fatal": fatal}
        run = self.client.create_flow_run_from_deployment(
            deployment, parameters=parameters, state=state, name=folder.name
        )
        return Trip(run.id, folder)

    def run(self, trip: Trip) -> FlowRun:
        """Return a run as the server knows it."""
        return self.client.read_flow_run(trip.id)

    def ended(self, trip: Trip) -> bool:
        """Return whether a run is in a final state."""
        state = self.run(trip).state
        return state is not None and state.is_final()

    def gave_up(self, trip: Trip) -> bool:
        """Return whether a run has ended in its last attempt."""
        return self.run(trip).run_count >= ATTEMPTS and self.ended(trip)

    def was_told_late(self, trip: Trip) -> bool:
        """Return whether a crash was reported after the run had already been rescheduled."""
        states = sorted(self.client.read_flow_run_states(trip.id), key=lambda s: s.timestamp)
        return any(
            state.is_crashed() and (before.is_scheduled() or before.is_pending())
            for before, state in pairwise(states)
        )

    def crashed(self, trip: Trip) -> list[State]:
        """Return the Crashed states that a run has been in."""
        states = self.client.read_flow_run_states(trip.id)
        return [state for state in states if state.is_crashed()]

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Send heartbeats for the living runs, however long a step of the test takes."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_SECONDS):
                with self.between_beats:
                    self.beat()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def beat(self) -> None:
        """Send heartbeats as Prefect does, for the living runs that are Running."""
        self.beats.append(time.monotonic())
        # A heartbeat after the end of a run would start another silence. One request for all: the
        # heartbeats of a run then come within the window even on a busy machine.
        living = FlowRunFilter(
            id=FlowRunFilterId(any_=[trip.id for trip in self.living]),
            state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Running"])),
        )
        running = self.client.read_flow_runs(flow_run_filter=living)
        deployment = f"prefect.deployment.{self.recovered}"
        events = [
            {
                "id": str(uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
                "event": BEAT,
                "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
                "related": [
                    {"prefect.resource.id": deployment, "prefect.resource.role": "deployment"}
                ],
            }
            for run in running
        ]
        self.client.request("POST", "/events", json=events).raise_for_status()

    def heartbeats(self, trip: Trip) -> list[dict[str, Any]]:
        """Return the heartbeats of a run, newest first."""
        resource = {"id": [f"prefect.flow-run.{trip.id}"]}
        asked = {"filter": {"event": {"name": [BEAT]}, "resource": resource}}
        found = self.client.request("POST", "/events/filter", json=asked).json()["events"]
        return sorted(found, key=lambda event: str(event["occurred"]), reverse=True)

    def own_beats(self, trip: Trip) -> int:
        """Return how many heartbeats Prefect sent for a run; ours relate to fewer resources."""
        return len([event for event in self.heartbeats(trip) if len(event["related"]) > 1])

    @contextmanager
    def worker(self, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker of the pool."""
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("PREFECT")}
        settings = {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TMPDIR": str(self.folder / "tmp"),  # a killed process does not clean up
        }
        words = ["worker", "start", "--pool", "trips", "--name", name, *options]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *words],
                env={**inherited, **settings},
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=patience())

    def free_trips(self, number: int) -> list[Trip]:
        """Schedule runs that wait for nothing."""
        trips = [self.trip(self.other) for _ in range(number)]
        for trip in trips:
            trip.go()
        return trips

    def said(self, worker: str) -> str:
        """Return what a worker has printed."""
        return (self.folder / f"{worker}.log").read_text()

    def took(self, worker: str, trip: Trip) -> bool:
        """Return whether a worker started a run; of two that try, the server refuses one."""
        return f"Flow run '{trip.folder.name}' submitted to infrastructure" in self.said(worker)

    def all_taken(self, trips: list[Trip]) -> bool:
        """Return whether the workers that share a queue have taken all the scheduled runs."""
        return all(any(self.took(name, trip) for name in SHARERS) for trip in trips)


def until(holds: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    """Wait until a condition holds, calling `meanwhile` before each check."""

    def held() -> bool:
        meanwhile()
        return holds()

    wait_until(held, seconds=SCENE_SECONDS, pause=0.2)


def deploy(
    client: SyncPrefectClient, code: Path, name: str, job_variables: dict[str, object]
) -> UUID:
    """Deploy the flow to the pool."""
    return client.create_deployment(
        flow_id=client.create_flow_from_name("trip"),
        name=name,
        work_pool_name="trips",
        job_variables=job_variables,
        path=str(code),
        entrypoint="trip.py:trip",
    )


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start a server on PostgreSQL, with a pool and the two deployments."""
    code = folder / "code"
    code.mkdir()
    (folder / "tmp").mkdir()
    (code / "trip.py").write_text(FLOW)
    with (
        # Not in pytest's folders: each pytest that starts closes them to PostgreSQL's own user.
        tempfile.TemporaryDirectory() as data,
        postgres(Path(data) / "data") as url,
        prefect_server(folder / "server", url) as api,
        temporary_settings({PREFECT_API_URL: api}),
        get_client(sync_client=True) as client,
    ):
        client.create_work_pool(WorkPoolCreate(name="trips", type="process"))
        recovered = deploy(client, code, "recovered", JOB_VARIABLES)
        other = deploy(client, code, "other", {})
        for automation in (
            crash_silent_runs(recovered, WINDOW),
            rerun_crashed_runs(recovered, ATTEMPTS, PAUSE),
        ):
            client.create_automation(automation)
        yield Stage(client, api, folder, recovered, other)


@dataclass(frozen=True)
class Scene:
    """What became of the runs of a killed worker, and of the runs after it."""

    orphan: FlowRun
    orphan_done: list[str]
    orphan_of_other: FlowRun
    orphan_of_other_done: list[str]
    stuck: FlowRun
    alive: FlowRun
    alive_seconds: float
    suspended: FlowRun
    settled: FlowRun
    settled_begun: int
    silence: timedelta
    found_by: str | None
    own_beats: int
    lost: FlowRun
    lost_done: list[str]
    lost_taken: bool
    fatal: FlowRun
    fatal_done: list[str]
    shared: list[FlowRun]
    shared_done: list[list[str]]
    shared_by: list[list[str]]


def crash_in_each_attempt(on: Stage, pause: timedelta) -> Trip:
    """Schedule a run that crashes in each attempt, of a deployment with its own pause."""
    name = f"fatal, {pause.seconds} s"
    deployment = deploy(on.client, on.folder / "code", name, JOB_VARIABLES)
    on.client.create_automation(rerun_crashed_runs(deployment, ATTEMPTS, pause))
    return on.trip(deployment, fatal=True)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Kill a worker and two of its four waiting runs; let two other workers share the queue."""
    with stage(tmp_path_factory.mktemp("stage")) as on, on.beating():
        with on.worker("first") as first:
            orphan, lost = on.trip(on.recovered), on.trip(on.recovered)
            orphan_of_other, stuck = on.trip(on.other), on.trip(on.other)
            trips = (orphan, lost, orphan_of_other, stuck)
            pause = PAUSE
            fatal = crash_in_each_attempt(on, pause)
            alive, suspended, settled = (on.trip(on.recovered, state=Running()) for _ in range(3))
            # A busy machine may take longer than the window until all four wait.
            on.living.extend((alive, suspended, settled, orphan, lost))
            wait_until(
                lambda: (
                    all(trip.waits() for trip in trips)
                    and on.own_beats(lost) > 0
                    and on.gave_up(fatal)
                ),
                seconds=SCENE_SECONDS,
                pause=0.2,
            )
            # The pause must exceed the time a worker needs to load the flow, which depends on the
            # machine.
            while on.was_told_late(fatal):
                pause *= 3
                fatal = crash_in_each_attempt(on, pause)
                wait_until(partial(on.gave_up, fatal), seconds=SCENE_SECONDS, pause=0.2)
            with on.between_beats:
                client = on.client
                client.set_flow_run_state(suspended.id, Suspended(), force=True)
                client.set_flow_run_state(settled.id, Crashed(), force=True)
            # The lost run is found long after these two, and is rescheduled after its pause.
            crashed = on.run(settled)
            client.set_flow_run_state(settled.id, Cancelled(), force=True)
            on.living.remove(lost)
            first.kill()
            os.kill(lost.process(), signal.SIGKILL)
            os.kill(stuck.process(), signal.SIGKILL)

        orphan.go()
        orphan_of_other.go()
        lost.go()
        shared = on.free_trips(6)
        with on.worker("second"), on.worker("third"):

            def live() -> None:
                """Send heartbeats for the second attempt too, so that it is not silent."""
                if lost not in on.living and on.run(lost).run_count > 1:
                    on.living.append(lost)

            def offer() -> None:
                """Schedule more runs if all are taken: one worker may have taken them all."""
                live()
                shared.extend(on.free_trips(2 * on.all_taken(shared)))

            until(
                lambda: all(any(on.took(name, trip) for trip in shared) for name in SHARERS), offer
            )
            until(
                lambda: (
                    all(on.ended(trip) for trip in (orphan, orphan_of_other, lost, *shared))
                    and on.run(lost).run_count > 1
                ),
                live,
            )
            # Read before its heartbeats end.
            beating = on.run(alive)
        found = on.crashed(lost)[0]
        last_beat = next(
            datetime.fromisoformat(event["occurred"])
            for event in on.heartbeats(lost)
            if datetime.fromisoformat(event["occurred"]) < found.timestamp
        )
        return Scene(
            orphan=on.run(orphan),
            orphan_done=orphan.done(),
            orphan_of_other=on.run(orphan_of_other),
            orphan_of_other_done=orphan_of_other.done(),
            stuck=on.run(stuck),
            alive=beating,
            alive_seconds=on.beats[-1] - on.beats[0],
            suspended=on.run(suspended),
            settled=on.run(settled),
            settled_begun=crashed.run_count,
            silence=found.timestamp - last_beat,
            found_by=found.message,
            own_beats=on.own_beats(lost),
            lost=on.run(lost),
            lost_done=lost.done(),
            lost_taken=any(on.took(name, lost) for name in SHARERS),
            # It crashed before the lost run was found, and the lost run has been rescheduled since.
            fatal=on.run(fatal),
            fatal_done=fatal.done(),
            shared=[on.run(trip) for trip in shared],
            shared_done=[trip.done() for trip in shared],
            shared_by=[[name for name in SHARERS if on.took(name, trip)] for trip in shared],
        )


def server_trigger(automation: AutomationCore) -> ServerTrigger:
    """Return the trigger of an automation as the server evaluates it."""
    return ServerTrigger.model_validate(automation.trigger.model_dump(mode="json"))


def event(deployment: UUID, name: str = "heartbeat", **labels: str) -> ReceivedEvent:
    """Return an event of a run of a deployment."""
    related = {
        "prefect.resource.id": f"prefect.deployment.{deployment}",
        "prefect.resource.role": "deployment",
    }
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "received": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid4()}", **labels},
            "related": [related],
        }
    )


@pytest.mark.guarantee(NAME, "orphan")
def test_a_worker_does_not_wait_for_output() -> None:
    """With `JOB_VARIABLES`, a worker does not read a run's output; heartbeats are set to 30 s."""
    template = ProcessWorker.get_default_base_job_template()
    made: Any = asyncio.run(
        ProcessJobConfiguration.from_template_and_values(template, JOB_VARIABLES)
    )
    assert made.stream_output is False
    assert made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.guarantee(NAME, "found")
def test_silence_after_a_heartbeat_is_noticed() -> None:
    """For each run, the server waits one window after a heartbeat, then marks the run Crashed."""
    automation = crash_silent_runs(uuid4(), WINDOW)
    trigger = server_trigger(automation)
    assert trigger.starts_after(BEAT)
    assert (trigger.posture, trigger.within) == (Posture.Proactive, WINDOW)
    assert trigger.for_each == {"prefect.resource.id"}
    (action,) = automation.actions
    assert isinstance(action, ChangeFlowRunState)
    assert action.state == StateType.CRASHED


@pytest.mark.guarantee(NAME, "alive")
@pytest.mark.parametrize(
    "name",
    [
        "heartbeat",
        *("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Empty"),
        *("Suspended", "Paused", "AwaitingRetry", "Cancelling"),
    ],
)
def test_a_heartbeat_or_a_new_state_is_not_silence(name: str) -> None:
    """The server expects either the next heartbeat or the event of a new state.

    A run that has ended, under whatever state name, is suspended or waits for a retry sends no
    heartbeats.
    """
    assert server_trigger(crash_silent_runs(uuid4(), WINDOW)).expects(f"prefect.flow-run.{name}")


@pytest.mark.guarantee(NAME, "others")
def test_other_deployments_are_not_watched() -> None:
    """Both automations react to events of their own deployment, and to none of another."""
    deployment, other = uuid4(), uuid4()
    silent = server_trigger(crash_silent_runs(deployment, WINDOW))
    crashed = server_trigger(rerun_crashed_runs(deployment, attempts=3, pause=PAUSE))
    first = {"prefect.run-count": "1"}
    assert silent.covers(event(deployment))
    assert crashed.covers(event(deployment, "Crashed", **first))
    assert not silent.covers(event(other))
    assert not crashed.covers(event(other, "Crashed", **first))


@pytest.mark.guarantee(NAME, "bounded")
@pytest.mark.parametrize(
    ("run_count", "again"), [(0, False), (1, True), (2, True), (3, False), (4, False)]
)
def test_the_last_attempt_is_not_rescheduled(run_count: int, again: bool) -> None:
    """With three attempts, a run is rescheduled only if it crashes in its first or second one."""
    trigger = rerun_crashed_runs(uuid4(), attempts=3, pause=PAUSE).trigger
    assert isinstance(trigger, EventTrigger)
    assert isinstance(trigger.match, ResourceSpecification)
    crashed = {
        "prefect.resource.id": f"prefect.flow-run.{uuid4()}",
        "prefect.run-count": str(run_count),
    }
    assert trigger.match.matches(Resource(crashed)) is again


@pytest.mark.fact(NAME, "retries")
def test_a_retry_of_the_flow_is_an_attempt(prefect_server: str) -> None:
    """The server counts a retry of the flow as another start: a run with one retry has two."""

    @flow(retries=1)
    def fail() -> None:
        raise ConnectionError

    run = fail(return_state=True).state_details.flow_run_id
    assert run
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run).run_count == 2


@pytest.mark.guarantee(NAME, "bounded")
@pytest.mark.parametrize("name", ["AwaitingRetry", "Scheduled", "Pending", "Running"])
def test_a_run_that_goes_on_is_not_rescheduled(name: str) -> None:
    """A run that has left Crashed, even if it is already running, is not rescheduled again."""
    trigger = server_trigger(rerun_crashed_runs(uuid4(), attempts=3, pause=PAUSE))
    assert trigger.expects(f"prefect.flow-run.{name}")


@pytest.mark.guarantee(NAME, "again")
@pytest.mark.parametrize("name", ["Completed", "Failed", "Cancelled"])
def test_a_run_that_is_set_to_a_final_state_is_not_rescheduled(name: str) -> None:
    """A run that somebody completes, fails or cancels during the pause is not run again."""
    trigger = server_trigger(rerun_crashed_runs(uuid4(), attempts=3, pause=PAUSE))
    assert trigger.expects(f"prefect.flow-run.{name}")
    assert not trigger.expects("prefect.flow-run.Crashed")


@pytest.fixture
def deployment(prefect_server: str) -> UUID:
    """Return the id of a new deployment on the server of the whole pytest run."""
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name="gauges-of-a-test", type="process")
        client.create_work_pool(pool, overwrite=True)
        return client.create_deployment(
            flow_id=client.create_flow(measure_rain),
            name="rescheduled",
            work_pool_name=pool.name,
            job_variables=JOB_VARIABLES,
        )


@pytest.mark.guarantee(NAME, "again")
def test_a_crashed_run_may_be_scheduled_again(deployment: UUID) -> None:
    """The server lets the automation's action reschedule a crashed run, and offers it again."""
    (action,) = rerun_crashed_runs(deployment, attempts=2, pause=PAUSE).actions
    assert isinstance(action, ChangeFlowRunState)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, state=Running())
        client.set_flow_run_state(run.id, Crashed())
        rescheduled: State[None] = State(type=action.state, name=action.name)
        assert client.set_flow_run_state(run.id, rescheduled).status.value == "ACCEPT"
        offered = client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": "gauges-of-a-test"},
            json={},
        )
        assert str(run.id) in [each["flow_run"]["id"] for each in offered.json()]


@pytest.mark.e2e
@pytest.mark.fact(NAME, "stuck")
@pytest.mark.guarantee(NAME, "others")
def test_a_killed_run_of_another_deployment_stays_running(scene: Scene) -> None:
    """A run that died with its worker stays Running if no automation watches it (#16746)."""
    assert scene.stuck.state_name == "Running"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "orphan")
def test_a_run_goes_on_without_its_worker(scene: Scene) -> None:
    """With `JOB_VARIABLES`, a run completes in its first attempt if only its worker was killed."""
    assert (scene.orphan.state_name, scene.orphan.run_count) == ("Completed", 1)
    assert scene.orphan_done == ["begin", "pack", "end"]


@pytest.mark.e2e
@pytest.mark.fact(NAME, "needs-worker")
def test_another_run_crashes_without_its_worker(scene: Scene) -> None:
    """Without `JOB_VARIABLES`, such a run crashes at its next line of output."""
    state = scene.orphan_of_other.state
    assert state is not None
    assert state.is_crashed()
    assert state.message == "Execution was aborted by Python system exit call."
    assert scene.orphan_of_other_done == ["begin", "pack"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "found")
def test_a_silent_run_is_found(scene: Scene) -> None:
    """A run whose heartbeats stop is marked Crashed once the window has passed."""
    assert scene.own_beats > 0
    assert scene.found_by == "no heartbeat"
    assert scene.silence >= WINDOW


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "alive")
def test_a_run_with_heartbeats_is_left_alone(scene: Scene) -> None:
    """A run whose heartbeats go on is Running after longer than it took to find a silent one."""
    assert scene.alive_seconds > scene.silence.total_seconds()
    assert scene.alive.state_name == "Running"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "alive")
def test_a_suspended_run_is_left_alone(scene: Scene) -> None:
    """A run suspended after sending heartbeats is still Suspended once a silent one is found."""
    assert scene.suspended.state_name == "Suspended"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "again")
def test_a_run_that_was_cancelled_meanwhile_is_left_alone(scene: Scene) -> None:
    """A run that crashed in its first attempt and was cancelled at once is not started again."""
    assert scene.settled_begun == 1
    assert (scene.settled.state_name, scene.settled.run_count) == ("Cancelled", 1)


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "again")
def test_a_found_run_is_completed_by_another_worker(scene: Scene) -> None:
    """A run that was found is completed by another worker, under the same id."""
    assert scene.lost_taken
    assert (scene.lost.state_name, scene.lost.run_count) == ("Completed", 2)


@pytest.mark.e2e
@pytest.mark.fact(NAME, "kept-work")
def test_a_finished_task_is_not_done_again(scene: Scene) -> None:
    """The second attempt runs the flow again, but not the task that the first one finished."""
    assert scene.lost_done == ["begin", "pack", "begin", "end"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "bounded")
@pytest.mark.guarantee(NAME, "again")
def test_a_run_that_always_crashes_is_given_up(scene: Scene) -> None:
    """A run that always crashes is started again, and stays Crashed after its last attempt."""
    assert (scene.fatal.state_name, scene.fatal.run_count) == ("Crashed", ATTEMPTS)
    # There may be more crashes than attempts: a slow worker reports the first one twice.
    assert scene.fatal_done.count("begin") == ATTEMPTS


@pytest.mark.e2e
@pytest.mark.fact(NAME, "shared")
def test_two_workers_share_a_queue(scene: Scene) -> None:
    """Both workers take runs; each run is taken by one of them, and executed once."""
    runs = len(scene.shared)
    assert [run.state_name for run in scene.shared] == ["Completed"] * runs
    assert scene.shared_done == [["begin", "pack", "end"]] * runs
    assert [len(names) for names in scene.shared_by] == [1] * runs
    assert {name for names in scene.shared_by for name in names} == {*SHARERS}


@pytest.mark.fact(NAME, "twice")
def test_the_start_of_the_last_attempt_is_not_seen() -> None:
    """An expected event counts only if it has the labels of the events that the trigger follows.

    The trigger follows crashes before the last attempt. So the start of the last attempt settles
    none of them, not even a crash that is reported after the run was rescheduled.
    """
    deployment = uuid4()
    trigger = server_trigger(rerun_crashed_runs(deployment, attempts=3, pause=PAUSE))
    seen = {
        n: trigger.covers(event(deployment, "Running", **{"prefect.run-count": n})) for n in "23"
    }
    assert seen == {"2": True, "3": False}


@pytest.mark.fact(NAME, "twice")
@pytest.mark.leaves("connections", reason="the worker's, which loads a flow for its crash hooks")
def test_a_worker_crashes_a_rescheduled_run(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is rescheduled between a worker's two reports of its crash is Crashed again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # To load the crash hooks, the worker copies the flow's folder to its working directory.
    monkeypatch.chdir(tmp_path)
    run_once = ProcessWorker.run

    async def run_and_reschedule(self: Any, flow_run: FlowRun, *args: Any, **options: Any) -> Any:
        # The first report is made in here, the second by the caller.
        result = await run_once(self, flow_run, *args, **options)
        async with get_client() as client:
            await client.set_flow_run_state(flow_run.id, Scheduled())
        return result

    monkeypatch.setattr(ProcessWorker, "run", run_and_reschedule)

    async def crash() -> list[State]:
        async with get_client() as client:
            pool = WorkPoolCreate(name="pool-of-a-slow-worker", type="process")
            await client.create_work_pool(pool, overwrite=True)
            deployment = await client.create_deployment(
                flow_id=await client.create_flow(measure_rain),
                name="reported twice",
                work_pool_name=pool.name,
                job_variables={"command": "sh -c 'kill -9 $$'"},
                path=str(PATTERN.parent),
                entrypoint=f"{PATTERN.name}:measure_rain",
            )
            run = await client.create_flow_run_from_deployment(deployment)
            async with ProcessWorker(work_pool_name=pool.name) as worker:
                await worker.get_and_submit_flow_runs()
            return await client.read_flow_run_states(run.id)

    states = sorted(asyncio.run(crash()), key=lambda state: state.timestamp)
    first, rescheduled, second = states[-3:]
    assert [first.name, rescheduled.name, second.name] == ["Crashed", "Scheduled", "Crashed"]
    assert str(first.message).startswith("Process exited with status code: -9.")
    assert str(second.message).startswith("Flow run infrastructure exited with non-zero status")


def reschedule_a_held_run(folder: Path) -> None:
    """Reschedule a run that holds a worker's slot, and poll until the worker takes it again."""
    go = folder / "go"

    async def take_twice() -> None:
        async with get_client() as client:
            pool = WorkPoolCreate(name="pool-of-a-limited-worker", type="process")
            await client.create_work_pool(pool, overwrite=True)
            deployment = await client.create_deployment(
                flow_id=await client.create_flow(measure_rain),
                name="held",
                work_pool_name=pool.name,
                job_variables={"command": f"sh -c 'until [ -e {go} ]; do sleep 0.05; done'"},
            )
            run = await client.create_flow_run_from_deployment(deployment)
            async with ProcessWorker(work_pool_name=pool.name, limit=1) as worker:

                async def take() -> list[UUID]:
                    # As the worker's own loop does, where nothing catches an exception.
                    return [each.id for each in await worker.get_and_submit_flow_runs()]

                try:
                    assert await take() == [run.id]
                    # The worker ignores the run for as long as it is starting it.
                    while run.id in worker._submitting_flow_run_ids:
                        await asyncio.sleep(0.05)
                    await client.set_flow_run_state(run.id, Scheduled(), force=True)
                    assert await take() == []
                finally:
                    go.touch()
                while not (taken := await take()):
                    await asyncio.sleep(0.05)
                assert taken == [run.id]

    asyncio.run(take_twice())


@pytest.mark.fact(NAME, "limit")
def test_a_worker_with_a_limit_ends(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends with an error when it receives a run that still holds a slot (#10632)."""
    # Where the worker keeps the code of its runs.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ExceptionGroup) as error:
        reschedule_a_held_run(tmp_path)
    held = "this borrower is already holding one of this CapacityLimiter's tokens"
    assert error.group_contains(RuntimeError, match=held)


@pytest.mark.fact(NAME, "limit-waits")
def test_a_worker_with_a_limit_takes_the_run_later(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker takes a run that still held one of its slots once that slot is free."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reschedule_a_held_run(tmp_path)


@pytest.mark.guarantee(NAME, "repeated")
def test_setting_up_again_changes_only_what_differs(deployment: UUID) -> None:
    """Setting up again changes nothing; other attempts change only the automation that reruns.

    Disabled automations stay disabled.
    """
    first = recover_runs(deployment, attempts=2)
    with get_client(sync_client=True) as client:
        for automation in first.values():
            client.pause_automation(automation)
        before = automations(client, deployment)
        assert {each["name"]: UUID(each["id"]) for each in before} == first
        assert recover_runs(deployment, attempts=2) == first
        assert automations(client, deployment) == before
        assert recover_runs(deployment, attempts=4) == first
        silent, rerun = automations(client, deployment)
        for automation in first.values():
            client.delete_automation(automation)
    assert silent == before[0]
    assert rerun["trigger"]["match"]["prefect.run-count"] == ["1", "2", "3"]
    kept = ("id", "enabled", "actions", "description", "tags")
    assert [rerun[key] for key in kept] == [before[1][key] for key in kept]
    assert not rerun["enabled"]


def automations(client: SyncPrefectClient, deployment: UUID) -> list[dict[str, Any]]:
    """Return the automations of a deployment; the one that reruns comes last."""
    every = client.request("POST", "/automations/filter", json={}).json()
    found = [each for each in every if str(deployment) in each["name"]]
    return sorted(found, key=lambda each: str(each["name"]))


def test_the_pool_of_the_demonstration_is_left_as_it_is(prefect_server: str) -> None:
    """`main` creates the pool, and a second run keeps what a person has configured of it."""
    main()
    with get_client(sync_client=True) as client:
        template = client.read_work_pool("gauges").base_job_template
        assert template == ProcessWorker.get_default_base_job_template()
        template["variables"]["properties"]["env"]["default"] = {"TEAM": "gauges"}
        changes = WorkPoolUpdate(
            is_paused=True, concurrency_limit=7, description="rain", base_job_template=template
        )
        client.update_work_pool("gauges", changes)
        before = client.read_work_pool("gauges")
        main()
        assert client.read_work_pool("gauges") == before


@pytest.mark.parametrize("env", [{"LOG_LEVEL": "DEBUG"}, {FREQUENCY: "301"}])
def test_a_deployment_whose_heartbeats_are_rare_is_refused(
    prefect_server: str, env: dict[str, str]
) -> None:
    """A deployment whose live runs may be silent for a whole window is refused in one line."""
    with get_client(sync_client=True) as client:
        silent = client.create_deployment(
            flow_id=client.create_flow(measure_rain),
            name="silent",
            job_variables={"env": env},
        )
        with pytest.raises(
            ValueError, match=f"^live runs of {silent} may be silent for 0:10:00: .*"
        ):
            recover_runs(silent)
        assert automations(client, silent) == []


def test_a_window_shorter_than_two_heartbeats_is_refused() -> None:
    """A window in which a live run may be silent is refused in one line."""
    with pytest.raises(ValueError, match=r"window 0:00:59 is too short: .* silent for 0:00:30$"):
        recover_runs(uuid4(), window=2 * HEARTBEAT - timedelta(seconds=1))


def test_a_pause_that_is_too_short_is_refused() -> None:
    """A pause shorter than the server accepts is refused in one line."""
    with pytest.raises(ValueError, match=r"^pause 0:00:09 is too short: "):
        recover_runs(uuid4(), pause=timedelta(seconds=9))


def test_a_single_attempt_is_refused() -> None:
    """A number of attempts that leaves nothing to reschedule is refused in one line."""
    with pytest.raises(ValueError, match=r"^attempts=1 reschedules nothing: give 2 or more$"):
        recover_runs(uuid4(), attempts=1)
