# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/recover_runs.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import prefect
import pytest
from packaging.version import Version
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger
from prefect.events.schemas.events import Resource, ResourceSpecification
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running, Scheduled
from prefect.workers.process import ProcessWorker

from flowgauge.waiting import patience, wait_until
from patterns.deployments.recover_runs import (
    HEARTBEAT,
    JOB_VARIABLES,
    crash_silent_runs,
    measure_rain,
    recover_runs,
    rerun_crashed_runs,
)
from patterns.deployments.self_hosted_server import postgres, prefect_server

NAME = "deployments/recover_runs"
PATTERN = Path(measure_rain.fn.__code__.co_filename)
# Shorter than the heartbeat, for runs that die after their first one.
WINDOW = timedelta(seconds=12)
# As short as the server takes.
PAUSE = timedelta(seconds=10)
ATTEMPTS = 2
SHARERS = ("second", "third")
BEAT_SECONDS = 1
# More than pytest's limit for a test: the scene is ten tests' setup, and is told by that limit.
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
    """A run, and the folder where it notes what it does."""

    id: UUID
    folder: Path

    def process(self) -> int:
        """Return the process that waits."""
        return int((self.folder / "process").read_text())

    def waits(self) -> bool:
        """Say whether it waits."""
        return (self.folder / "process").exists() and bool((self.folder / "process").read_text())

    def go(self) -> None:
        """Let it go on."""
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
    stock: UUID
    beats: list[float] = field(default_factory=list)

    def trip(self, deployment: UUID, fatal: bool = False, state: State | None = None) -> Trip:
        """Ask for a run."""
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
        """Say whether a run is in a state that it does not leave by itself."""
        state = self.run(trip).state
        return state is not None and state.is_final()

    def crashed(self, trip: Trip) -> list[State]:
        """Return the Crashed states that a run has been in."""
        states = self.client.read_flow_run_states(trip.id)
        return [state for state in states if state.is_crashed()]

    def beat(self, *trips: Trip) -> None:
        """Send the event that Prefect sends for runs that live, for those that do, now and then."""
        if self.beats and time.monotonic() < self.beats[-1] + BEAT_SECONDS:
            return
        self.beats.append(time.monotonic())
        # After its end a beat would begin another silence.
        trips = tuple(trip for trip in trips if self.run(trip).state_name == "Running")
        deployment = f"prefect.deployment.{self.recovered}"
        events = [
            {
                "id": str(uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
                "event": BEAT,
                "resource": {"prefect.resource.id": f"prefect.flow-run.{trip.id}"},
                "related": [
                    {"prefect.resource.id": deployment, "prefect.resource.role": "deployment"}
                ],
            }
            for trip in trips
        ]
        self.client.request("POST", "/events", json=events).raise_for_status()

    def heartbeats(self, trip: Trip) -> list[dict[str, Any]]:
        """Return the heartbeats of a run, the newest first."""
        resource = {"id": [f"prefect.flow-run.{trip.id}"]}
        asked = {"filter": {"event": {"name": [BEAT]}, "resource": resource}}
        found = self.client.request("POST", "/events/filter", json=asked).json()["events"]
        return sorted(found, key=lambda event: str(event["occurred"]), reverse=True)

    def own_beats(self, trip: Trip) -> int:
        """Return how many heartbeats Prefect sent for a run; ours are related to less."""
        return len([event for event in self.heartbeats(trip) if len(event["related"]) > 1])

    @contextmanager
    def worker(self, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker of the pool."""
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("PREFECT")}
        settings = {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TMPDIR": str(self.folder / "tmp"),  # what is killed does not tidy up
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
        """Ask for runs that wait for nothing."""
        trips = [self.trip(self.stock) for _ in range(number)]
        for trip in trips:
            trip.go()
        return trips

    def said(self, worker: str) -> str:
        """Return what a worker has printed."""
        return (self.folder / f"{worker}.log").read_text()

    def took(self, worker: str, trip: Trip) -> bool:
        """Say whether a worker started a run; of two that try, the server refuses one."""
        return f"Flow run '{trip.folder.name}' submitted to infrastructure" in self.said(worker)

    def all_taken(self, trips: list[Trip]) -> bool:
        """Say whether the runs that were asked for are with the workers that share a queue."""
        return all(any(self.took(name, trip) for name in SHARERS) for trip in trips)


def until(holds: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    """Wait until something holds, and do something else meanwhile."""

    def held() -> bool:
        meanwhile()
        return holds()

    wait_until(held, seconds=SCENE_SECONDS, pause=0.2)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start a server on PostgreSQL, with a pool and the two deployments."""
    code = folder / "code"
    code.mkdir()
    (folder / "tmp").mkdir()
    (code / "trip.py").write_text(FLOW)
    with (
        # Not among pytest's folders: each pytest that starts shuts them to PostgreSQL's own user.
        tempfile.TemporaryDirectory() as data,
        postgres(Path(data) / "data") as url,
        prefect_server(folder / "server", url) as api,
        temporary_settings({PREFECT_API_URL: api}),
        get_client(sync_client=True) as client,
    ):
        client.create_work_pool(WorkPoolCreate(name="trips", type="process"))
        flow = client.create_flow_from_name("trip")
        recovered, stock = (
            client.create_deployment(
                flow_id=flow,
                name=name,
                work_pool_name="trips",
                job_variables=variables,
                path=str(code),
                entrypoint="trip.py:trip",
            )
            for name, variables in (("recovered", JOB_VARIABLES), ("stock", {}))
        )
        for automation in (
            crash_silent_runs(recovered, WINDOW),
            rerun_crashed_runs(recovered, ATTEMPTS, PAUSE),
        ):
            client.create_automation(automation)
        yield Stage(client, api, folder, recovered, stock)


@dataclass(frozen=True)
class Scene:
    """What became of the runs of a worker that was killed, and of those after it."""

    orphan: FlowRun
    orphan_done: list[str]
    stock_orphan: FlowRun
    stock_orphan_done: list[str]
    stuck: FlowRun
    alive: FlowRun
    alive_seconds: float
    silence: timedelta
    found_by: str | None
    own_beats: int
    lost: FlowRun
    lost_done: list[str]
    lost_taken: bool
    fatal: FlowRun
    fatal_crashes: int
    fatal_done: list[str]
    shared: list[FlowRun]
    shared_done: list[list[str]]
    shared_by: list[list[str]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Kill a worker and two of its four runs; give the queue to two others."""
    with stage(tmp_path_factory.mktemp("stage")) as on:
        with on.worker("first") as first:
            orphan, lost = on.trip(on.recovered), on.trip(on.recovered)
            stock_orphan, stuck = on.trip(on.stock), on.trip(on.stock)
            trips = (orphan, lost, stock_orphan, stuck)
            fatal = on.trip(on.recovered, fatal=True)
            alive = on.trip(on.recovered, state=Running())
            until(
                lambda: (
                    all(trip.waits() for trip in trips)
                    and on.own_beats(lost) > 0
                    and len(on.crashed(fatal)) >= ATTEMPTS
                ),
                # A busy machine may take longer than the window until all four wait.
                lambda: on.beat(alive, orphan, lost, fatal),
            )
            first.kill()
            os.kill(lost.process(), signal.SIGKILL)
            os.kill(stuck.process(), signal.SIGKILL)

        orphan.go()
        stock_orphan.go()
        lost.go()
        shared = on.free_trips(6)
        with on.worker("second"), on.worker("third"):

            def live() -> None:
                """Beat for all that live, lest a slow one be taken for silent."""
                again = [lost] * (on.run(lost).run_count > 1)
                on.beat(alive, orphan, *again)

            def offer() -> None:
                """Offer more where one of the two was quicker to take all there was."""
                live()
                shared.extend(on.free_trips(2 * on.all_taken(shared)))

            until(
                lambda: all(any(on.took(name, trip) for trip in shared) for name in SHARERS), offer
            )
            until(
                lambda: (
                    all(on.ended(trip) for trip in (orphan, stock_orphan, lost, *shared))
                    and on.run(lost).run_count > 1
                ),
                live,
            )
            # Read before its beats end.
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
            stock_orphan=on.run(stock_orphan),
            stock_orphan_done=stock_orphan.done(),
            stuck=on.run(stuck),
            alive=beating,
            alive_seconds=on.beats[-1] - on.beats[0],
            silence=found.timestamp - last_beat,
            found_by=found.message,
            own_beats=on.own_beats(lost),
            lost=on.run(lost),
            lost_done=lost.done(),
            lost_taken=any(on.took(name, lost) for name in SHARERS),
            # It crashed before the lost run was found, and that one has been put back.
            fatal=on.run(fatal),
            fatal_crashes=len(on.crashed(fatal)),
            fatal_done=fatal.done(),
            shared=[on.run(trip) for trip in shared],
            shared_done=[trip.done() for trip in shared],
            shared_by=[[name for name in SHARERS if on.took(name, trip)] for trip in shared],
        )


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "stuck")
@pytest.mark.guarantee(NAME, "others")
def test_a_killed_run_of_another_deployment_stays_running(scene: Scene) -> None:
    """A run that died with its worker stays Running where no automation watches it (#16746)."""
    assert scene.stuck.state_name == "Running"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "orphan")
def test_a_run_goes_on_without_its_worker(scene: Scene) -> None:
    """With `JOB_VARIABLES` a run whose worker alone was killed completes in its one attempt."""
    assert (scene.orphan.state_name, scene.orphan.run_count) == ("Completed", 1)
    assert scene.orphan_done == ["begin", "pack", "end"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "stock-orphan")
def test_a_stock_run_crashes_without_its_worker(scene: Scene) -> None:
    """Without `JOB_VARIABLES` the same run crashes with its next line of output."""
    state = scene.stock_orphan.state
    assert state is not None
    assert state.is_crashed()
    assert state.message == "Execution was aborted by Python system exit call."
    assert scene.stock_orphan_done == ["begin", "pack"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "found")
def test_a_silent_run_is_found(scene: Scene) -> None:
    """A run that beat and fell silent is marked Crashed once the window has passed."""
    assert scene.own_beats > 0
    assert scene.found_by == "no heartbeat"
    assert scene.silence >= WINDOW


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "alive")
def test_a_run_that_beats_is_left_alone(scene: Scene) -> None:
    """A run that beats is Running after the time in which a silent one was found."""
    assert scene.alive_seconds > scene.silence.total_seconds()
    assert scene.alive.state_name == "Running"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "again")
def test_a_found_run_is_completed_by_another_worker(scene: Scene) -> None:
    """A run that was found is run to its end by another worker, under the same id."""
    assert scene.lost_taken
    assert (scene.lost.state_name, scene.lost.run_count) == ("Completed", 2)


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "kept-work")
def test_a_finished_task_is_not_done_again(scene: Scene) -> None:
    """The second attempt does what the first did not finish, and nothing else."""
    assert scene.lost_done == ["begin", "pack", "begin", "end"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "bounded")
@pytest.mark.guarantee(NAME, "again")
def test_a_run_that_always_crashes_is_given_up(scene: Scene) -> None:
    """A run that crashes by itself is begun again, and stays Crashed after its last attempt."""
    assert (scene.fatal.state_name, scene.fatal.run_count) == ("Crashed", ATTEMPTS)
    assert scene.fatal_done.count("begin") == scene.fatal_crashes == ATTEMPTS


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "shared")
def test_two_workers_share_a_queue(scene: Scene) -> None:
    """Two workers take part; each run is taken by one, and done once."""
    runs = len(scene.shared)
    assert [run.state_name for run in scene.shared] == ["Completed"] * runs
    assert scene.shared_done == [["begin", "pack", "end"]] * runs
    assert [len(names) for names in scene.shared_by] == [1] * runs
    assert {name for names in scene.shared_by for name in names} == {*SHARERS}


@pytest.mark.guarantee(NAME, "twice")
@pytest.mark.leaves("connections", reason="the worker's, which loads a flow for its crash hooks")
def test_a_worker_crashes_what_was_put_back(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is put back between a worker's two reports of its crash crashes again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # The worker copies the flow's folder to where it runs, to load the crash hooks.
    monkeypatch.chdir(tmp_path)
    stock = ProcessWorker.run

    async def run_and_put_back(self: Any, flow_run: FlowRun, *args: Any, **options: Any) -> Any:
        # The first report is made in here, the second by the caller.
        result = await stock(self, flow_run, *args, **options)
        async with get_client() as client:
            await client.set_flow_run_state(flow_run.id, Scheduled())
        return result

    monkeypatch.setattr(ProcessWorker, "run", run_and_put_back)

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
    first, put_back, second = states[-3:]
    assert [first.name, put_back.name, second.name] == ["Crashed", "Scheduled", "Crashed"]
    assert str(first.message).startswith("Process exited with status code: -9.")
    assert str(second.message).startswith("Flow run infrastructure exited with non-zero status")


@pytest.mark.guarantee(NAME, "limit")
def test_a_worker_with_a_limit_is_offered_a_run_that_it_holds(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Prefect 3.9 the worker ends of it (#10632); since then it takes it once it let go."""
    # Where the worker keeps the code of its runs.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    go = tmp_path / "go"

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
                    # As the worker's own loop asks, where nothing catches what is raised.
                    return [each.id for each in await worker.get_and_submit_flow_runs()]

                try:
                    assert await take() == [run.id]
                    # It lets the run be for as long as it is starting it.
                    while run.id in worker._submitting_flow_run_ids:
                        await asyncio.sleep(0.05)
                    await client.set_flow_run_state(run.id, Scheduled(), force=True)
                    assert await take() == []
                finally:
                    go.touch()
                while not (taken := await take()):
                    await asyncio.sleep(0.05)
                assert taken == [run.id]

    if Version(prefect.__version__) >= Version("3.9"):
        asyncio.run(take_twice())
        return
    with pytest.raises(ExceptionGroup) as error:
        asyncio.run(take_twice())
    held = "this borrower is already holding one of this CapacityLimiter's tokens"
    assert error.group_contains(RuntimeError, match=held)


@pytest.mark.guarantee(NAME, "bounded")
@pytest.mark.parametrize(("run_count", "again"), [(1, True), (2, True), (3, False), (4, False)])
def test_the_last_attempt_is_not_put_back(run_count: int, again: bool) -> None:
    """With three attempts the crashes of the first two are answered, and no later ones."""
    trigger = rerun_crashed_runs(uuid4(), attempts=3, pause=PAUSE).trigger
    assert isinstance(trigger, EventTrigger)
    assert isinstance(trigger.match, ResourceSpecification)
    crashed = {
        "prefect.resource.id": f"prefect.flow-run.{uuid4()}",
        "prefect.run-count": str(run_count),
    }
    assert trigger.match.matches(Resource(crashed)) is again


@pytest.fixture
def deployment(prefect_server: str) -> UUID:
    """Make a deployment on the server of the whole test run."""
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name="gauges-of-a-test", type="process")
        client.create_work_pool(pool, overwrite=True)
        return client.create_deployment(
            flow_id=client.create_flow(measure_rain), name="put back", work_pool_name=pool.name
        )


@pytest.mark.guarantee(NAME, "again")
def test_a_crashed_run_may_be_scheduled_again(deployment: UUID) -> None:
    """The server lets a crashed run be put back as the automation does, and offers it again."""
    (action,) = rerun_crashed_runs(deployment, attempts=2, pause=PAUSE).actions
    assert isinstance(action, ChangeFlowRunState)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, state=Running())
        client.set_flow_run_state(run.id, Crashed())
        put_back: State[None] = State(type=action.state, name=action.name)
        assert client.set_flow_run_state(run.id, put_back).status.value == "ACCEPT"
        offered = client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": "gauges-of-a-test"},
            json={},
        )
        assert str(run.id) in [each["flow_run"]["id"] for each in offered.json()]


@pytest.mark.guarantee(NAME, "repeated")
def test_automations_are_replaced(deployment: UUID) -> None:
    """Set up twice, a deployment has the two automations of the second time and no others."""
    first = recover_runs(deployment, attempts=2)
    second = recover_runs(deployment, attempts=4)
    with get_client(sync_client=True) as client:
        every = client.request("POST", "/automations/filter", json={}).json()
        found = [
            (each["name"], UUID(each["id"])) for each in every if str(deployment) in each["name"]
        ]
        for _, automation in found:
            client.delete_automation(automation)
    assert sorted(found) == sorted(second.items())
    assert first.keys() == second.keys()
    assert not {*first.values()} & {*second.values()}


def test_a_window_shorter_than_two_heartbeats_is_refused() -> None:
    """A window in which a live run may be silent is refused in one line."""
    with pytest.raises(ValueError, match=r"window 0:00:59 is too short: .* silent for 0:00:30$"):
        recover_runs(uuid4(), window=2 * HEARTBEAT - timedelta(seconds=1))


def test_a_pause_that_is_too_short_is_refused() -> None:
    """A pause shorter than the server takes is refused in one line."""
    with pytest.raises(ValueError, match=r"^pause 0:00:09 is too short: "):
        recover_runs(uuid4(), pause=timedelta(seconds=9))


def test_a_single_attempt_is_refused() -> None:
    """Attempts that leave nothing to put back are refused in one line."""
    with pytest.raises(ValueError, match=r"^attempts=1 puts nothing back: give 2 or more$"):
        recover_runs(uuid4(), attempts=1)
