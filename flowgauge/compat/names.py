# SPDX-License-Identifier: Apache-2.0
"""The names of Prefect that are not its public interface, and which feature stands on which.

A feature is used only where all its names are there; without one of them it is off, and says so.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_OFF = "off.txt"


@dataclass(frozen=True)
class Name:
    """Something in a module.

    Attributes:
        module: The module.
        path: Where it is in there, as `__qualname__` writes it.
        uses: What its code must use: the functions that are replaced there, and variables that
            are read.
    """

    module: str
    path: str
    uses: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The name itself."""
        return self.path.rpartition(".")[2]

    def missing(self) -> str:
        """Say what is not as it should be; empty if all is."""
        try:
            return self.missing_in(importlib.import_module(self.module))
        except ImportError:
            return f"there is no module {self.module}"

    def missing_in(self, module: ModuleType) -> str:
        """Say what is not as it should be in a module; empty if all is.

        Args:
            module: The module, or a copy of it.
        """
        place: Any = module
        try:
            for step in self.path.split("."):
                place = _step(place, step)
        except AttributeError:
            return f"{self.module} has no {self.path}"
        unused = [name for name in self.uses if name not in _used_by(place)]
        return f"{self.path} of {self.module} does not use {unused[0]}" if unused else ""


@dataclass(frozen=True)
class Feature:
    """What works only where certain names are there.

    Attributes:
        name: What people call it.
        names: What it stands on.
        instead: What is done without it; empty where tests that ask for it fail.
    """

    name: str
    names: tuple[Name, ...]
    instead: str = ""


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
    instead="each run reads certificates and writes settings, in some 40 ms",
)

PRELOADED_POOL = Feature(
    "workers of the stock process pool that begin with Prefect imported",
    (Name("prefect.task_runners", "ProcessPoolTaskRunner.__enter__", ("multiprocessing",)),),
    instead="each pool takes seconds to start",
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
    instead="Prefect's own harness starts one, in some 20 s",
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
    instead="each server makes its own, in some 10 s",
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
    instead="requests that meet a locked database take seconds longer",
)


def missing(feature: Feature) -> str:
    """Say why a feature does not work with the Prefect that is installed.

    Args:
        feature: It is looked for once in a process.

    Returns:
        One line; empty if it works.
    """
    return _missing(feature)


def usable(feature: Feature, home: Path) -> bool:
    """Return whether a feature works here; if not, that is noted for the end of the run.

    Args:
        feature: One that the run can do without.
        home: The folder of the run.
    """
    if line := missing(feature):
        note_off(line, feature, home)
    return not line


def note_off(line: str, feature: Feature, home: Path) -> None:
    """Note for the end of the run that a feature is off.

    Args:
        line: Why.
        feature: The feature.
        home: The folder of the run; nothing is noted where it is not, on another machine.
    """
    if home.is_dir():
        with (home / _OFF).open("a") as file:
            file.write(f"{line}: {feature.instead}\n")


def off(feature: Feature, what: str) -> str:
    """Return the line that says that a feature is off.

    Args:
        feature: The feature.
        what: What is missing.
    """
    import prefect

    from flowgauge.compat.tested_prefect import PROVED_WITH

    proved = " and ".join(PROVED_WITH)
    return (
        f"{feature.name}: off with Prefect {prefect.__version__}, where {what} (flowgauge was"
        f" proved with {proved})"
    )


def features_off(home: Path) -> list[str]:
    """Return what was noted of features that are off, each once.

    Args:
        home: The folder of the run.

    Returns:
        A line for each, in the order in which they were first noted.
    """
    file = home / _OFF
    return list(dict.fromkeys(file.read_text().splitlines())) if file.is_file() else []


@functools.cache
def _missing(feature: Feature) -> str:
    what = next((what for name in feature.names if (what := name.missing())), "")
    return off(feature, what) if what else ""


def _step(place: Any, step: str) -> Any:
    if isinstance(place, CodeType):
        found = [c for c in place.co_consts if isinstance(c, CodeType) and c.co_name == step]
        if not found:
            raise AttributeError(step)
        return found[0]
    if step == "<locals>":
        return _code_of(place)
    # Fields of models and annotated attributes are no attributes of a class.
    if inspect.isclass(place) and any(
        step in vars(c).get("__annotations__", {}) for c in place.__mro__
    ):
        return None
    return getattr(place, step)


def _code_of(function: Any) -> CodeType:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise AttributeError("__code__")
    return code  # type: ignore[no-any-return]


def _used_by(function: Any) -> set[str]:
    """Return the names that the code of a function uses, and those of its own variables."""
    code = function if isinstance(function, CodeType) else _code_of(function)
    return {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
