# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Find the runs whose machine died, and run them again, a limited number of times.

Problem:
    A worker that is killed reports nothing. Its runs' processes continue without it until the next
    line that they print: their output went to the worker, and they mark themselves Crashed. If
    the whole machine is gone, its runs stay Running forever, and use up the slots of a pool with a
    limit. No service of the server looks for them: it marks workers as offline, and runs as late.

Guarantees:
    orphan: with `JOB_VARIABLES` a run whose worker alone was killed continues and completes.
    found: a run whose heartbeats stop is marked Crashed, once it has been silent for the window.
    alive: while the server runs, a run whose heartbeats continue is left alone, and so is one that
        was put into any state after its last heartbeat: it has ended, under whatever state name,
        is suspended, waits for a retry of its flow or is being cancelled.
    others: runs of other deployments are left alone.
    again: a run that had started and is marked Crashed, by this pattern or by its worker, is
        rescheduled under the same id once it has stayed Crashed for the pause, and a live worker
        runs it to its end. One that is set to Completed, Failed or Cancelled in the meantime is not
        rescheduled.
    bounded: a run that crashes in each of its attempts stays Crashed after the last.
    repeated: if it is set up again, a deployment has the same two automations, updated to the new
        arguments; one that is already up to date is not touched, and one that was disabled stays
        disabled.

Prefect:
    stuck (3.8, 3.9): a run that was killed together with its worker stays Running.
    needs-worker (3.8, 3.9): a run whose worker was killed crashes with its next line of output.
    kept-work (3.8, 3.9): a rescheduled run does not repeat finished tasks whose results are
        persisted.
    shared (3.8, 3.9): if two workers take runs from one queue, no run is executed twice and none
        is lost.
    twice (3.8, 3.9): a process worker reports a crash twice, the second time once it has loaded the
        flow and run its `on_crashed` hooks, and so crashes a run that was rescheduled in the
        meantime. Hence the pause: if that report comes after it, the last attempt may be made once
        more.
    retries (3.8, 3.9): each retry of a flow with `retries` is counted as an attempt.
    limit (3.8): a worker that was started with a `--limit` exits when a run that still holds one of
        its slots is rescheduled: limit the queue or the pool instead.
    limit-waits (3.9): such a worker takes the run once its slot is free.

Not for:
    Subflows of a lost run: they stay Running until its next attempt picks them up, and for good
    after its last. A server that is down for longer than the window: when it is back, it treats
    live runs as lost. Disable both automations for such an update. Runs that crash before they
    start, for example because a worker cannot start them: no attempt is counted. Runs that do harm
    when two of them act at once: a machine that was disconnected, not dead, continues its run while
    another repeats it. Runs whose heartbeats stopped before this was set up, or while it was
    changed: the server starts watching at the next heartbeat. Runs whose machine dies while they
    wait for a retry of their flow, or after somebody cancelled them: they stay as they are. Runs
    that somebody else suspends, if they send a heartbeat before they notice: they are marked
    Crashed. Results on a disk that died with the machine: store them where every worker can read
    them. A server on SQLite under load: its automations may act late, twice or not at all
    (`database is locked`); use PostgreSQL.

Costs:
    One event for each run and heartbeat. A lost run waits until its window is over, then for the
    pause, and each time for the server's next check, which comes every few seconds.

Sources:
    - https://docs.prefect.io/v3/advanced/detect-zombie-flows
    - https://docs.prefect.io/v3/concepts/automations
    - Prefect #16746 and #18257: runs of a worker that is gone stay Running
    - Prefect #10211: retries do not cover crashes
    - Prefect #18934: `database is locked` on SQLite
    - Prefect #18453: a worker's report of a crash, made though the run has moved on
    - Prefect #10632: a run that holds a slot of a worker's limit cannot take another
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect import flow, get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

HEARTBEAT = timedelta(seconds=30)  # the shortest that Prefect accepts

# For the deployment: its runs send heartbeats, and can print without their worker.
JOB_VARIABLES: dict[str, object] = {
    "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT.seconds)},
    "stream_output": False,
}

WINDOW = timedelta(minutes=10)  # a server update or a network failure may take minutes
PAUSE = timedelta(seconds=30)

RESCHEDULED = {
    f"prefect.flow-run.{name}" for name in ("AwaitingRetry", "Scheduled", "Pending", "Running")
}
SETTLED = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled")}


def crash_silent_runs(deployment: UUID, window: timedelta) -> AutomationCore:
    """Describe the automation that marks runs Crashed whose heartbeats stop.

    Args:
        deployment: The deployment whose runs it watches.
        window: How long a run may be silent, at least ten seconds.

    Returns:
        The automation, not yet created.
    """
    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=f"crash silent runs of {deployment}",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=runs_of(deployment),
            after={heartbeat},
            # Any event, because a state may have any name: `TimedOut` is final, too.
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=window,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", message="no heartbeat", force=False
            )
        ],
    )


def rerun_crashed_runs(deployment: UUID, attempts: int, pause: timedelta) -> AutomationCore:
    """Describe the automation that reschedules crashed runs.

    Args:
        deployment: The deployment whose runs it watches.
        attempts: How many times a run may start, including the first.
        pause: How long a run stays Crashed, at least ten seconds. If the worker's second report of
            the crash comes later, it crashes the next attempt, too.

    Returns:
        The automation, not yet created.
    """
    tried = [str(count) for count in range(1, attempts)]
    return AutomationCore(
        name=f"rerun crashed runs of {deployment}",
        trigger=EventTrigger(
            match=ResourceSpecification(
                {"prefect.resource.id": ["prefect.flow-run.*"], "prefect.run-count": tried}
            ),
            match_related=runs_of(deployment),
            after={"prefect.flow-run.Crashed"},
            # Somebody else has rescheduled it or set a final state, or it is running again.
            expect=RESCHEDULED | SETTLED,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=pause,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED, name="AwaitingRetry", message="it crashed", force=False
            )
        ],
    )


def runs_of(deployment: UUID) -> ResourceSpecification:
    """Return the related resource of the events of a deployment's runs."""
    return ResourceSpecification({"prefect.resource.id": f"prefect.deployment.{deployment}"})


def recover_runs(
    deployment: UUID,
    attempts: int = 3,
    window: timedelta = WINDOW,
    pause: timedelta = PAUSE,
) -> dict[str, UUID]:
    """Make the server find and rerun the runs of a deployment that lost their machine.

    Args:
        deployment: The deployment; its job variables must include `JOB_VARIABLES`.
        attempts: How many times a run may start, including the first.
        window: How long a run may be silent; also how long the server may be down.
        pause: How long a run stays Crashed before it is rescheduled; should be longer than its
            flow takes to load and its `on_crashed` hooks to run.

    Returns:
        The ids of the two automations by their names.

    Raises:
        ValueError: If live runs would be treated as lost, or runs rescheduled never or too soon.
    """
    if window < 2 * HEARTBEAT:
        raise ValueError(f"window {window} is too short: a live run may be silent for {HEARTBEAT}")
    if attempts < 2:
        raise ValueError(f"attempts={attempts} reschedules nothing: give 2 or more")
    if pause < timedelta(seconds=10):
        raise ValueError(f"pause {pause} is too short: the server takes 0:00:10 or more")
    automations = (
        crash_silent_runs(deployment, window),
        rerun_crashed_runs(deployment, attempts, pause),
    )
    with get_client(sync_client=True) as client:
        env = client.read_deployment(deployment).job_variables.get("env") or {}
        if 2 * float(env.get("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "inf")) > window.total_seconds():
            raise ValueError(
                f"live runs of {deployment} may be silent for {window}: their"
                " heartbeats come too seldom; give it JOB_VARIABLES"
            )
        return {automation.name: put(client, automation) for automation in automations}


def put(client: SyncPrefectClient, automation: AutomationCore) -> UUID:
    """Create an automation, or update the existing one of its name, and return its id."""
    found = client.read_automations_by_name(automation.name)
    if not found:
        return client.create_automation(automation)
    held = found[0]
    # An update makes the server forget which runs are silent. It leaves anything not given here
    # as it is, such as whether the automation is enabled.
    if (held.trigger, held.actions) != (automation.trigger, automation.actions):
        client.update_automation(held.id, automation)
    return held.id


@task(persist_result=True)
def read_gauge(station: str) -> float:
    """Read a rain gauge, which is slow and need not be done twice."""
    return float(len(station))


@flow
def measure_rain(stations: list[str]) -> float:
    """Return the mean reading of the gauges."""
    return sum(read_gauge.map(stations).result()) / len(stations)


def main() -> None:
    """Deploy a flow to a pool, set up the recovery of its runs, and print the automations."""
    with get_client(sync_client=True) as client:
        # On the command line: `prefect work-pool create gauges --type process`.
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name="gauges", type="process", base_job_template=template)
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(pool)
        deployment = client.create_deployment(
            flow_id=client.create_flow(measure_rain),
            name="recovered",
            work_pool_name=pool.name,
            job_variables=JOB_VARIABLES,
            path=str(Path(__file__).parent),
            entrypoint=f"{Path(__file__).name}:measure_rain",
        )
    for name, automation in recover_runs(deployment).items():
        print(f"{name}: automation {automation}")


if __name__ == "__main__":
    main()
