# SPDX-License-Identifier: Apache-2.0
"""The names of Prefect that are not its public interface, and which feature stands on which."""

from __future__ import annotations

from flowgauge.compat.features import Feature, Name

DEADLINES = (
    Name("prefect.task_engine", "SyncTaskRunEngine.wait_until_ready", ("time", "sleep")),
    Name("prefect.task_engine", "AsyncTaskRunEngine.wait_until_ready", ("anyio", "sleep")),
    Name(
        "prefect.utilities.engine",
        "propose_state_sync.<locals>.set_state_and_handle_waits",
        ("time", "sleep"),
    ),
    Name(
        "prefect.utilities.engine",
        "propose_state.<locals>.set_state_and_handle_waits",
        ("anyio", "sleep"),
    ),
)
"""Functions that wait for a deadline; the first that each uses is the module whose `sleep` it
calls."""

POLLS = (
    Name(
        "prefect.concurrency.services",
        "ConcurrencySlotAcquisitionService.acquire",
        ("asyncio", "sleep"),
    ),
    Name(
        "prefect.concurrency.services",
        "ConcurrencySlotAcquisitionWithLeaseService.acquire",
        ("asyncio", "sleep"),
    ),
    Name(
        "prefect.concurrency.v1.services",
        "ConcurrencySlotAcquisitionService.acquire",
        ("asyncio", "sleep"),
    ),
)
"""The same of functions that ask again and again, for a concurrency slot."""

ENGINES = (
    Name("prefect.task_engine", "SyncTaskRunEngine.initialize_run"),
    Name("prefect.task_engine", "AsyncTaskRunEngine.initialize_run"),
    Name("prefect.flow_engine", "FlowRunEngine.initialize_run"),
    Name("prefect.flow_engine", "AsyncFlowRunEngine.initialize_run"),
)

NOW = Name("prefect.types._datetime", "now", ("tz",))

VIRTUAL_CLOCK = Feature(
    "the virtual clock",
    (
        NOW,
        *DEADLINES,
        *POLLS,
        *ENGINES,
        Name("prefect.client.base", "PrefectHttpxSyncClient.send"),
        Name("prefect.client.base", "PrefectHttpxAsyncClient.send"),
        # Read from the frames of whoever waits for futures.
        Name("prefect.futures", "PrefectFuture.task_run_id"),
        Name("prefect.futures", "wait", ("not_done",)),
        Name("prefect.futures", "as_completed", ("pending",)),
    ),
)

UNSKIPPED = (
    ("prefect.client.base", "anyio", "waits for the Prefect server to answer"),
    ("prefect.client.base", "time", "waits for the Prefect server to answer"),
    ("prefect.flow_runs", "anyio", "waits for another flow run, or for someone to resume it"),
    ("prefect.deployments.flow_runs", "anyio", "waits for the run of a deployment"),
)
"""Module, the module whose `sleep` it calls, and what it does in real time all the same."""

UNSKIPPED_WAITS = Feature(
    "telling of waits that are not skipped",
    tuple(Name(module, f"{sleeper}.sleep") for module, sleeper, _ in UNSKIPPED),
    instead="a run that waits in real time waits without a word",
)

FAULTS = Feature(
    "injecting faults",
    (
        *(
            Name("prefect.task_engine", f"{engine}.{method}")
            for engine in ("SyncTaskRunEngine", "AsyncTaskRunEngine")
            for method in ("start", "transaction_context", "handle_success", "call_hooks")
        ),
        Name("prefect.transactions", "Transaction.commit"),
        Name("prefect.transactions", "AsyncTransaction.commit"),
        Name("prefect.transactions", "Transaction._staged_value"),
        Name("prefect.transactions", "Transaction.on_commit_hooks"),
        Name("prefect.transactions", "Transaction.write_on_commit"),
        Name("prefect.results", "ResultStore.result_storage"),
        Name("prefect.results", "ResultStore.cache"),
        Name("prefect._internal.result_records", "ResultRecord"),
        Name("prefect._internal.compatibility.blocks", "call_explicitly_sync_block_method"),
        # The queue to pytest's process, in a worker of a process pool.
        Name("prefect.events.worker", "EventsWorker._client_override"),
        Name("prefect.events.worker", "EventsWorker.wait_until_empty"),
        # Below Prefect's clients.
        Name("httpx", "HTTPTransport.handle_request"),
        Name("httpx", "AsyncHTTPTransport.handle_async_request"),
        Name("websockets.asyncio.client", "ClientConnection.send"),
        Name("websockets.asyncio.client", "connect.create_connection"),
    ),
)

SAVED_WORK = Feature(
    "work that is done once for all runs of a process",
    (
        Name("prefect.client.orchestration", "ssl.create_default_context"),
        Name("prefect.context", "SettingsContext.serialize"),
    ),
    instead="each run reads certificates and writes settings anew",
)

PRELOADED_POOL = Feature(
    "workers of the stock process pool that begin with Prefect imported",
    (Name("prefect.task_runners", "ProcessPoolTaskRunner.__enter__", ("multiprocessing",)),),
    instead="each worker imports Prefect when it starts",
)

WARM_SERVER = Feature(
    "the server that starts while pytest collects",
    (
        Name(
            "prefect.testing.utilities",
            "prefect_test_harness",
            ("mkdtemp", "atexit", "SubprocessASGIServer", "temporary_database_interface"),
        ),
    ),
    instead="Prefect's own harness starts one, which is slow",
)

TIDY_HARNESS = Feature(
    "removing what Prefect's own harness leaves",
    (
        Name("prefect.testing.utilities", "prefect_test_harness", ("mkdtemp", "atexit")),
        Name("prefect.server.api.server", "SubprocessASGIServer._instances"),
    ),
    instead="its folder may stay, and its server if the run is broken off",
)

DATABASE_TEMPLATE = Feature(
    "databases copied from one that was made before",
    (
        Name("prefect.plugins", "load_prefect_collections"),
        Name("prefect.server.database", "provide_database_interface"),
        Name("prefect.server.database.interface", "PrefectDBInterface.create_db"),
        Name("prefect.server.database.interface", "PrefectDBInterface.session"),
        Name("prefect.server.models.block_registration", "run_block_auto_registration"),
    ),
    instead="each server makes its own",
)

OWN_SETTINGS = Feature(
    "settings apart from the user's",
    (
        Name("prefect.context", "refresh_global_settings_context"),
        Name("prefect.settings.base", "PrefectBaseSettings.model_config"),
    ),
    instead="a .env file in the working directory counts, and settings that were read before",
)

PREFECT_SERVICES = Feature(
    "telling connections of Prefect's services from those of a test",
    (Name("prefect._internal.concurrency.threads", "_global_loop"),),
    instead="a test may leave connections to the server",
)

QUEUED_TRANSACTIONS = Feature(
    "transactions of the server that wait for each other",
    (
        Name(
            "prefect.server.database.configurations",
            "AioSqliteConfiguration.begin_transaction",
            ("with_for_update",),
        ),
    ),
    instead="requests that meet a locked database are sent again",
)
