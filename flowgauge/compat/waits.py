# SPDX-License-Identifier: Apache-2.0
"""Every wait of Prefect's client, and what the virtual clock does with it.

A test finds all calls of `sleep` in the installed Prefect, and fails if one is not listed here.
"""

from __future__ import annotations

from flowgauge.compat.features import PrivateName

DEADLINES = (
    PrivateName("prefect.task_engine", "SyncTaskRunEngine.wait_until_ready", ("time", "sleep")),
    PrivateName("prefect.task_engine", "AsyncTaskRunEngine.wait_until_ready", ("anyio", "sleep")),
    PrivateName(
        "prefect.utilities.engine",
        "propose_state_sync.<locals>.set_state_and_handle_waits",
        ("time", "sleep"),
    ),
    PrivateName(
        "prefect.utilities.engine",
        "propose_state.<locals>.set_state_and_handle_waits",
        ("anyio", "sleep"),
    ),
)
"""Functions that wait for a deadline; the first of their `uses` is the module whose `sleep` they
call."""

SLOTS = (
    PrivateName(
        "prefect.concurrency.services",
        "ConcurrencySlotAcquisitionService.acquire",
        ("asyncio", "sleep"),
    ),
    PrivateName(
        "prefect.concurrency.services",
        "ConcurrencySlotAcquisitionWithLeaseService.acquire",
        ("asyncio", "sleep"),
    ),
    PrivateName(
        "prefect.concurrency.v1.services",
        "ConcurrencySlotAcquisitionService.acquire",
        ("asyncio", "sleep"),
    ),
)
"""The same for functions that ask the server for a concurrency slot."""

TIMED_SLOTS = tuple(PrivateName(slot.module, slot.path, ("timeout_async",)) for slot in SLOTS)
"""What limits their time."""

POLLS = (
    *SLOTS,
    PrivateName("prefect.task_engine", "SyncTaskRunEngine.begin_run", ("time", "sleep")),
    PrivateName("prefect.task_engine", "AsyncTaskRunEngine.begin_run", ("anyio", "sleep")),
    PrivateName("prefect.flow_engine", "FlowRunEngine.begin_run", ("time", "sleep")),
    PrivateName("prefect.flow_engine", "AsyncFlowRunEngine.begin_run", ("asyncio", "sleep")),
    PrivateName(
        "prefect.locking.filesystem", "FileSystemLockManager.wait_for_lock", ("time", "sleep")
    ),
    PrivateName(
        "prefect.locking.filesystem", "FileSystemLockManager.await_for_lock", ("anyio", "sleep")
    ),
)
"""The same for functions that poll."""

ASYNC_WATCHES = (
    PrivateName("prefect.flow_runs", "apause_flow_run", ("anyio", "sleep", "move_on_after")),
    PrivateName("prefect.flow_runs", "wait_for_flow_run", ("anyio", "move_on_after")),
    PrivateName(
        "prefect.deployments.flow_runs",
        "arun_deployment",
        ("anyio", "sleep", "move_on_after", "flow_run_id"),
    ),
    PrivateName(
        "prefect.input.run_input", "GetInputHandler.anext", ("anyio", "sleep", "fail_after")
    ),
    PrivateName(
        "prefect.input.run_input",
        "GetAutomaticInputHandler.anext",
        ("anyio", "sleep", "fail_after"),
    ),
)
"""The same for functions that wait for someone else to act, and give up after a time."""

_TIMED = ("time", "sleep", "monotonic", "start_time", "timeout")

SYNC_WATCHES = (
    PrivateName("prefect.flow_runs", "pause_flow_run", _TIMED),
    PrivateName("prefect.deployments.flow_runs", "run_deployment", (*_TIMED, "flow_run_id")),
    PrivateName("prefect.input.run_input", "GetInputHandler.next", _TIMED),
    PrivateName("prefect.input.run_input", "GetAutomaticInputHandler.next", _TIMED),
)
"""The same for sync functions, which import `time` in their own code."""

TOLD = (
    PrivateName("prefect.client.base", "PrefectHttpxAsyncClient._send_with_retry", ("anyio",)),
    PrivateName("prefect.client.base", "PrefectHttpxSyncClient._send_with_retry", ("time",)),
)
"""Functions that wait for the server to answer: in real time, and a test that waits is told so."""

LEFT = {
    "prefect._flow_run_suspension": {
        "observe_flow_run_suspension.run_observer": "looks every 0.2 s whether its run is over",
    },
    "prefect._internal._observation_delivery": {
        "_sleep": "watches for cancellations next to a runner",
    },
    "prefect._internal.concurrency.services": {
        "_QueueServiceBase._get_item": "lets others go first, for no time",
        "_QueueServiceBase.drain_all": "lets others go first, for no time",
    },
    "prefect._internal.observers": {
        "_SuspensionWatch._confirm": "watches for suspensions next to a flow run",
        "FlowRunSuspendingObserver.watch_flow_run_id": "watches for suspensions next to a flow run",
    },
    "prefect._internal.retries": {
        "retry_async_fn.decorator.wrapper": "repeats what the process of a deployment pulls",
    },
    "prefect.client.subscriptions": {
        "Subscription.__anext__": "connects again to a server that went away",
    },
    "prefect.events.clients": {
        "PrefectEventsClient.__aenter__": "connects again to a server that went away",
        "PrefectEventsClient._checkpoint_loop": "runs next to what sends events",
        "PrefectEventsClient._emit": "connects again to a server that went away",
        "PrefectEventSubscriber.__aenter__": "connects again to a server that went away",
        "PrefectEventSubscriber.__anext__": "connects again to a server that went away",
    },
    "prefect.flow_engine": {
        "_send_heartbeats.heartbeat_loop": "sends a heartbeat, which no run waits for",
    },
    "prefect.flow_runs": {
        "wait_for_flow_run": "reads a run again whose end was announced",
    },
    "prefect.futures": {
        "PrefectFlowRunFuture.wait_async": "reads a run again whose end was announced",
    },
    "prefect.locking._filelock": {
        "FileLock.acquire": "lets another process finish writing a file",
        "FileLock.aacquire": "lets another process finish writing a file",
    },
    "prefect.logging.clients": {
        "PrefectLogsSubscriber.__anext__": "connects again to a server that went away",
    },
    "prefect.states": {
        "_get_state_result_data_with_retries": "lets another process finish writing a result",
    },
}
"""Other functions that sleep in real time, by module, and why: none is a wait of a run."""

ELSEWHERE = (
    "prefect._internal.buildx",
    "prefect._internal.testing",
    "prefect.cli",
    "prefect.runner",
    "prefect.server",
    "prefect.testing",
    "prefect.utilities.dockerutils",
    "prefect.utilities.services",
    "prefect.utilities.urls",
    "prefect.workers",
)
"""Modules whose code is no part of a run: commands, servers, workers, and what builds images."""
