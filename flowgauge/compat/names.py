# SPDX-License-Identifier: Apache-2.0
"""The non-public names of Prefect that Flowgauge uses, and the features built on them."""

from __future__ import annotations

from flowgauge.compat.features import Feature, PrivateName
from flowgauge.compat.waits import ASYNC_WATCHES, DEADLINES, POLLS, SYNC_WATCHES, TIMED_SLOTS, TOLD

ENGINES = (
    PrivateName("prefect.task_engine", "SyncTaskRunEngine.initialize_run"),
    PrivateName("prefect.task_engine", "AsyncTaskRunEngine.initialize_run"),
    PrivateName("prefect.flow_engine", "FlowRunEngine.initialize_run"),
    PrivateName("prefect.flow_engine", "AsyncFlowRunEngine.initialize_run"),
)

NOW = PrivateName("prefect.types._datetime", "now", ("tz",))

VIRTUAL_CLOCK = Feature(
    "the virtual clock",
    (
        NOW,
        *DEADLINES,
        *POLLS,
        *ENGINES,
        PrivateName("prefect.client.base", "PrefectHttpxSyncClient.send"),
        PrivateName("prefect.client.base", "PrefectHttpxAsyncClient.send"),
        # Read from the frames of functions that wait for futures.
        PrivateName("prefect.futures", "PrefectFuture.task_run_id"),
        PrivateName("prefect.futures", "wait", ("not_done",)),
        PrivateName("prefect.futures", "as_completed", ("pending",)),
    ),
)

SKIPPED_WATCHES = Feature(
    "skipping waits for someone else",
    (
        *ASYNC_WATCHES,
        *SYNC_WATCHES,
        *TIMED_SLOTS,
    ),
    instead="flows that pause or wait for other runs do so in real time",
)

TOLD_WAITS = Feature(
    "reporting waits that are not skipped",
    TOLD,
    instead="runs that wait in real time are not reported",
)

LEASES = Feature(
    "giving back the concurrency slots of killed processes",
    (
        PrivateName("prefect.concurrency._leases", "_RENEWAL_FRACTION"),
        PrivateName(
            "prefect.concurrency._leases",
            "maintain_concurrency_lease",
            ("_start_lease_renewal_thread", "lease_duration"),
        ),
        PrivateName(
            "prefect.concurrency._leases",
            "amaintain_concurrency_lease",
            ("_start_lease_renewal_thread", "lease_duration"),
        ),
        PrivateName(
            "prefect.concurrency._leases",
            "_start_lease_renewal_thread.<locals>._run_with_failure_handler",
            ("_lease_renewal_loop",),
        ),
    ),
    instead="such a slot stays taken for minutes",
)

DEADLOCK_WATCH = Feature(
    "telling deadlocks of tasks",
    (
        # Read from the frames of threads that execute task runs and wait for futures,
        PrivateName("prefect.task_engine", "run_task_sync", ("task", "task_run_id")),
        PrivateName("prefect.task_engine", "run_task_async", ("task", "task_run_id")),
        PrivateName("prefect.futures", "PrefectFuture.task_run_id"),
        PrivateName("prefect.futures", "wait", ("not_done",)),
        PrivateName("prefect.futures", "as_completed", ("pending",)),
        # and from what a future calls when it is done.
        PrivateName(
            "prefect.task_runners",
            "ThreadPoolTaskRunner.submit",
            ("_executor", "add_done_callback"),
        ),
    ),
    instead="tests whose tasks wait for each other for ever hang",
)

VAIN_WAITS = Feature(
    "telling waits for flow runs that nobody executes",
    tuple(
        PrivateName(module, name, ("flow_run_id", "timeout"))
        for module, name in (
            ("prefect.deployments.flow_runs", "run_deployment"),
            ("prefect.deployments.flow_runs", "arun_deployment"),
            ("prefect.flow_runs", "wait_for_flow_run"),
        )
    ),
    instead="tests that wait for a deployment that nobody serves hang",
)

STUCK_SLOTS = Feature(
    "telling deadlocks of concurrency limits",
    (
        *LEASES.names,
        *(
            name
            for module, acquire in (
                ("prefect.concurrency._sync", "acquire_concurrency_slots_with_lease"),
                ("prefect.concurrency._asyncio", "aacquire_concurrency_slots_with_lease"),
            )
            for name in (
                PrivateName(module, "concurrency", ("names", "occupy", acquire)),
                PrivateName(
                    module, acquire, ("names", "slots", "mode", "timeout_seconds", "max_retries")
                ),
            )
        ),
        # Who waits, and whether it has a time limit, are read from frames.
        PrivateName("prefect.task_engine", "run_task_sync", ("task",)),
        PrivateName("prefect.task_engine", "run_task_async", ("task",)),
        PrivateName("prefect.flow_engine", "run_flow_sync", ("flow",)),
        PrivateName("prefect.flow_engine", "run_flow_async", ("flow",)),
    ),
    instead="tests whose tasks take limits in opposite orders hang",
)

FAULTS = Feature(
    "injecting faults",
    (
        *(
            PrivateName("prefect.task_engine", f"{engine}.{method}")
            for engine in ("SyncTaskRunEngine", "AsyncTaskRunEngine")
            for method in ("start", "transaction_context", "handle_success", "call_hooks")
        ),
        # They take the code to run from the task.
        *(
            PrivateName("prefect.task_engine", caller, ("task", "fn"))
            for caller in (
                "SyncTaskRunEngine.call_task_fn",
                "AsyncTaskRunEngine.call_task_fn",
                "run_generator_task_sync",
                "run_generator_task_async",
            )
        ),
        PrivateName("prefect.context", "TaskRunContext.parameters"),
        PrivateName("prefect.transactions", "Transaction.commit"),
        PrivateName("prefect.transactions", "AsyncTransaction.commit"),
        PrivateName("prefect.transactions", "Transaction._staged_value"),
        PrivateName("prefect.transactions", "Transaction.on_commit_hooks"),
        PrivateName("prefect.transactions", "Transaction.write_on_commit"),
        PrivateName("prefect.results", "ResultStore.result_storage"),
        PrivateName("prefect.results", "ResultStore.cache"),
        PrivateName("prefect._internal.result_records", "ResultRecord"),
        PrivateName("prefect._internal.compatibility.blocks", "call_explicitly_sync_block_method"),
        # The queue to pytest's process, in a worker of a process pool.
        PrivateName("prefect.events.worker", "EventsWorker._client_override"),
        PrivateName("prefect.events.worker", "EventsWorker.wait_until_empty"),
        # Below Prefect's clients.
        PrivateName("httpx", "HTTPTransport.handle_request"),
        PrivateName("httpx", "AsyncHTTPTransport.handle_async_request"),
        PrivateName("websockets.asyncio.client", "ClientConnection.send"),
        PrivateName("websockets.asyncio.client", "connect.create_connection"),
    ),
)

SENT = Feature(
    "reading logs and events",
    (
        PrivateName("prefect.flow_engine", "FlowRunEngine.setup_run_context", ("flow_run_logger",)),
        PrivateName(
            "prefect.flow_engine", "AsyncFlowRunEngine.setup_run_context", ("flow_run_logger",)
        ),
        PrivateName("prefect.logging.handlers", "APILogHandler.emit", ("prepare",)),
        PrivateName("prefect.logging.handlers", "APILogWorker.max_batch_size"),
        PrivateName(
            "prefect._internal.concurrency.services",
            "BatchedQueueService._main_loop",
            ("max_batch_size",),
        ),
        PrivateName("prefect._internal.concurrency.services", "QueueService.send", ("_queue",)),
        PrivateName("prefect.events.worker", "EventsWorker.send"),
    ),
)

EVENTS_WHEN_AWAITED = Feature(
    "writing events when a test waits for them",
    (
        PrivateName(
            "prefect.server.events.services.event_persister",
            "EventPersister.start",
            ("create_handler", "batch_size"),
        ),
        PrivateName(
            "prefect.server.events.services.event_persister",
            "create_handler.<locals>.message_handler",
            ("qsize", "batch_size"),
        ),
    ),
    instead="run_events waits until the server writes them, for seconds",
)

LOG_TIMES = Feature(
    "virtual timestamps of logs",
    (PrivateName("prefect.logging.handlers", "APILogHandler.prepare", ("from_timestamp",)),),
    instead="logs have real timestamps",
)

SAVED_WORK = Feature(
    "doing repeated work once for all runs of a process",
    (
        PrivateName("prefect.client.orchestration", "ssl.create_default_context"),
        PrivateName("prefect.context", "SettingsContext.serialize"),
        PrivateName("prefect.context", "SettingsContext.__init__"),
        PrivateName("prefect.settings", "Settings.to_environment_variables"),
    ),
    instead="each run reads certificates, and serializes and builds settings again",
)

PRELOADED_POOL = Feature(
    "workers of the stock process pool that start with Prefect imported",
    (PrivateName("prefect.task_runners", "ProcessPoolTaskRunner.__enter__", ("multiprocessing",)),),
    instead="each worker imports Prefect when it starts",
)

POOL_WORKERS = Feature(
    "reaching the workers of your own process pools",
    (
        PrivateName(
            "prefect.task_runners", "ProcessPoolTaskRunner.__init__", ("_initializer", "_initargs")
        ),
    ),
    instead="the virtual clock and faults reach those of the task_runner fixture only",
)

DASK_WORKERS = Feature(
    "reaching the workers of your own Dask clusters",
    (
        PrivateName("prefect_dask.task_runners", "DaskTaskRunner.client", ("PrefectDaskClient",)),
        PrivateName("distributed", "SpecCluster._instances"),
    ),
    instead="the virtual clock and faults reach those of the task_runner fixture only",
)

WARM_SERVER = Feature(
    "the server that starts while pytest collects",
    (
        PrivateName(
            "prefect.testing.utilities",
            "prefect_test_harness",
            ("mkdtemp", "atexit", "SubprocessASGIServer", "temporary_database_interface"),
        ),
    ),
    instead="Prefect's own harness starts one, which is slow",
)

TIDY_HARNESS = Feature(
    "removing what Prefect's own harness leaves behind",
    (
        PrivateName("prefect.testing.utilities", "prefect_test_harness", ("mkdtemp", "atexit")),
        PrivateName("prefect.server.api.server", "SubprocessASGIServer._instances"),
    ),
    instead="its folder may stay, and so may its server if the run is interrupted",
)

DATABASE_TEMPLATE = Feature(
    "databases copied from a template",
    (
        PrivateName("prefect.plugins", "load_prefect_collections"),
        PrivateName("prefect.server.database", "provide_database_interface"),
        PrivateName("prefect.server.database.interface", "PrefectDBInterface.create_db"),
        PrivateName("prefect.server.database.interface", "PrefectDBInterface.session"),
        PrivateName("prefect.server.models.block_registration", "run_block_auto_registration"),
    ),
    instead="each server creates its own",
)

OWN_SETTINGS = Feature(
    "settings isolated from the user's",
    (
        PrivateName("prefect.context", "refresh_global_settings_context"),
        PrivateName("prefect.settings.base", "PrefectBaseSettings.model_config"),
    ),
    instead="a .env file in the working directory and settings read earlier take effect",
)

PREFECT_SERVICES = Feature(
    "distinguishing connections of Prefect's services from those of a test",
    (PrivateName("prefect._internal.concurrency.threads", "_global_loop"),),
    instead="a test may leave connections to the server",
)

QUEUED_TRANSACTIONS = Feature(
    "queueing of the server's transactions",
    (
        PrivateName(
            "prefect.server.database.configurations",
            "AioSqliteConfiguration.begin_transaction",
            ("with_for_update",),
        ),
    ),
    instead="requests that find the database locked are retried",
)

REPOSSESSOR = Feature(
    "taking back concurrency slots whose leases are over",
    (
        PrivateName("prefect.server.services.repossessor", "monitor_expired_leases"),
        PrivateName(
            "prefect.server.services.perpetual_services",
            "get_perpetual_services",
            ("_PERPETUAL_SERVICES", "run_in_ephemeral"),
        ),
        PrivateName(
            "prefect.server.services.perpetual_services", "PerpetualServiceConfig.function"
        ),
    ),
    instead="the slot of a killed process stays taken",
)

CALLS_IN_LOOP = Feature(
    "answering requests in one thread",
    (
        PrivateName(
            "aiosqlite.core", "Connection._execute", ("_running", "_connection", "put_nowait")
        ),
        PrivateName("fastapi.dependencies.utils", "solve_dependencies", ("run_in_threadpool",)),
    ),
    instead="the server hands each SQL statement over to another thread",
)

CHECKED_PROJECTS = Feature(
    "checking a project",
    (
        PrivateName("prefect.cli.deploy._models", "PrefectYamlModel"),
        PrivateName("prefect.cli.deploy._models", "DeploymentConfig"),
        PrivateName("prefect.cli.deploy._models", "WorkPoolConfig"),
        PrivateName("prefect.cli.deploy._models", "RawScheduleConfig"),
        PrivateName("prefect.cli.deploy._config", "_handle_deprecated_schedule_fields"),
        PrivateName("prefect.cli.deploy._schedules", "_schedule_config_to_deployment_schedule"),
        PrivateName("prefect.cli.deploy._triggers", "_initialize_deployment_triggers"),
        PrivateName("prefect.client.base", "PrefectHttpxSyncClient.send"),
        PrivateName("prefect.client.base", "PrefectHttpxAsyncClient.send"),
    ),
)

FRESH_SERVER = Feature(
    "a server for one test",
    (
        PrivateName("prefect.context", "GLOBAL_SETTINGS_CONTEXT"),
        PrivateName("prefect.events.worker", "EventsWorker.drain_all", ("at_exit",)),
        PrivateName("prefect.logging.handlers", "APILogWorker.drain_all", ("at_exit",)),
    ),
)

MADE_BY_TESTS = Feature(
    "removing what tests make on the server",
    # Tables of its database, which are read by name; to import them would take seconds.
    (),
    instead="blocks, variables, limits and others that a test makes are there in the next",
)

DASK_CLIENT = Feature(
    "a Dask client for the workers in this process only",
    (
        PrivateName("distributed.client", "_del_global_client"),
        PrivateName("distributed.worker", "Worker._get_client", ("_client", "default_client")),
    ),
    instead="once a task on a Dask worker here submits tasks, Dask task runners use its cluster",
)
