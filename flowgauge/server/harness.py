# SPDX-License-Identifier: Apache-2.0
"""Prefect's own test harness, run with a server forked by the zygote or with its own server."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from flowgauge.clock.leases import noted_leases
from flowgauge.clock.process import ClockProcess
from flowgauge.clock.slot_waits import noted_slot_waits
from flowgauge.compat.features import note_off, off, usable
from flowgauge.compat.names import LEASES, SAVED_WORK, STUCK_SLOTS, TIDY_HARNESS, WARM_SERVER
from flowgauge.compat.repeated_work import saved_work
from flowgauge.server.forked import DATABASE_URL, ServerRequest
from flowgauge.server.isolation import forget_user_settings
from flowgauge.server.lease import ServerProcess
from flowgauge.server.patches import LOOP_FACTORY, STOCK_LOOP_FACTORY
from flowgauge.server.supervisor import STOP_SECONDS
from flowgauge.server.watch import START_SECONDS, ServerWatch, wait_until_healthy

_HARNESS = "prefect.testing.utilities"
_EPHEMERAL = {
    # As Prefect sets them for the server of its harness.
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
_SERVER_PREFIXES = ("PREFECT_", "TZ")
"""Prefixes of the environment variables that affect a server."""


def early_request(home: Path) -> ServerRequest:
    """Return the request for a pytest run's server, as far as known before Prefect is imported.

    Args:
        home: The folder of the pytest run; its environment must be set already.

    Returns:
        The request.
    """
    return ServerRequest(
        environment={**os.environ, **_EPHEMERAL, "UVICORN_LOOP": LOOP_FACTORY},
        folder=str(home),
        log=str(home / "server.log"),
        database=str(home / "database" / "prefect-test.db"),
    )


@contextmanager
def leased_harness(
    home: Path, server: ServerProcess, report: Callable[[str], None], *, as_shipped: bool
) -> Iterator[str]:
    """Run Prefect's test harness with a server that was requested.

    Args:
        home: The folder of the pytest run.
        server: The server; it may still be starting.
        report: Called with the reason, in a few lines, if the server must be ended in mid-run.
        as_shipped: Whether this process does all the work that stock Prefect does, for benchmarks.

    Yields:
        The address of the server's API.

    Raises:
        ServerError: If the server does not start.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_CSRF_PROTECTION_ENABLED,
        temporary_settings,
    )

    forget_user_settings()
    leased = _LeasedServer(server, report)
    with contextlib.ExitStack() as stack:
        # The harness has no `finally`.
        stack.callback(leased.stop)
        with _instead_of_server_modules(leased):
            module, problem = _private_copy(_HARNESS)
            if not problem:
                stack.enter_context(_harness_in(module, home))
        if problem:
            note_off(off(WARM_SERVER, problem), WARM_SERVER, home)
            leased.stop()
            stack.enter_context(stock_harness(home))
        settings: dict[Any, Any] = {
            # With heartbeats, every synchronous flow run ends by joining a thread that sleeps in
            # steps of one second.
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None
        }
        if not PREFECT_SERVER_CSRF_PROTECTION_ENABLED.value():
            # Otherwise every client first requests a token, only to learn that there are none.
            settings[PREFECT_CLIENT_CSRF_SUPPORT_ENABLED] = False
        stack.enter_context(temporary_settings(settings))
        if not as_shipped:
            if usable(LEASES, home):
                stack.enter_context(noted_leases(ClockProcess(home), expendable=False))
            if usable(STUCK_SLOTS, home):
                stack.enter_context(noted_slot_waits(home))
            if usable(SAVED_WORK, home):
                stack.enter_context(saved_work())
        yield PREFECT_API_URL.value()


@contextmanager
def stock_harness(home: Path) -> Iterator[str]:
    """Run Prefect's test harness as it is, in the isolated environment of a pytest run.

    Args:
        home: The folder of the pytest run.

    Yields:
        The address of the server's API.
    """
    from prefect.settings import PREFECT_API_URL
    from prefect.testing import utilities

    forget_user_settings()
    tidy = usable(TIDY_HARNESS, home)
    instances: dict[Any, Any] = {}
    if tidy:
        from prefect.server.api.server import SubprocessASGIServer

        instances = SubprocessASGIServer._instances
    existing = frozenset(instances.values())

    def stop_servers() -> None:
        # The harness has no `finally`.
        for server in set(instances.values()) - existing:
            server.stop()

    with contextlib.ExitStack() as stack:
        stack.callback(stop_servers)
        # The server reads `.env` and `prefect.toml` from the folder it starts in.
        with (
            contextlib.chdir(home),
            patch.dict(os.environ, UVICORN_LOOP=STOCK_LOOP_FACTORY),
        ):
            if tidy:
                stack.enter_context(_harness_in(utilities, home))
            else:
                harness = utilities.prefect_test_harness(server_startup_timeout=START_SECONDS)
                stack.enter_context(harness)
        yield PREFECT_API_URL.value()


@contextmanager
def _harness_in(module: Any, home: Path) -> Iterator[None]:
    """Run a module's harness with its database in the folder of the pytest run."""
    folder = home / "database"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        # The harness would keep its folder until this process exits, and forever if it is killed.
        at_the_end = SimpleNamespace(register=stack.callback)
        with (
            patch.object(module, "mkdtemp", lambda: str(folder)),
            patch.object(module, "atexit", at_the_end),
        ):
            stack.enter_context(module.prefect_test_harness(server_startup_timeout=START_SECONDS))
        yield


def _private_copy(name: str) -> tuple[ModuleType, str]:
    """Return a fresh copy of a module, and in what way it is unsuitable for `WARM_SERVER`."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        return module, f"{name} imports more of the server ({error})"
    problems = (name.missing_in(module) for name in WARM_SERVER.names)
    return module, next(filter(None, problems), "")


@contextmanager
def _instead_of_server_modules(leased: _LeasedServer) -> Iterator[None]:
    """Avoid importing Prefect's server by stubbing its modules: the harness needs two names."""
    names = ("", ".api", ".api.server", ".database", ".database.dependencies")
    before = {f"prefect.server{name}": sys.modules.get(f"prefect.server{name}") for name in names}
    sys.modules.update({name: ModuleType(name) for name in before})
    stand_ins: dict[str, Any] = sys.modules
    stand_ins["prefect.server.api.server"].SubprocessASGIServer = leased
    stand_ins["prefect.server.database.dependencies"].temporary_database_interface = getattr(
        # If a test has imported the real module, that may hold another database.
        before["prefect.server.database.dependencies"],
        "temporary_database_interface",
        contextlib.nullcontext,
    )
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _LeasedServer:
    """Stands in for both `SubprocessASGIServer` and its only instance in the harness."""

    def __init__(self, server: ServerProcess, report: Callable[[str], None]) -> None:
        self.server = server
        self._report = report
        self._watch: ServerWatch | None = None
        self._instances: dict[int | None, Any] = {}

    def __call__(self, port: int) -> _LeasedServer:
        # The supervisor that forks the server chooses the port, so that nothing else can take it.
        return self

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/api"

    def start(self, timeout: float) -> None:
        from prefect.settings import Settings, get_current_settings

        request = self.server.request
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        # The server reads `.env` and `prefect.toml` from the folder it starts in, this process
        # from the project's folder.
        with contextlib.chdir(request.folder):
            server_settings = Settings().to_environment_variables(exclude_unset=True)
        server_settings[DATABASE_URL] = settings.get(DATABASE_URL, "")
        environment = {**os.environ, **_EPHEMERAL, "UVICORN_LOOP": LOOP_FACTORY}
        variables = _server_variables(request.environment)
        if server_settings != settings or _server_variables(environment) != variables:
            self.server.stop(patience=0)
            Path(request.database).unlink(missing_ok=True)
            request = replace(request, environment=environment | settings)
            self.server = ServerProcess.start(self.server.lease, request)
        wait_until_healthy(self.server)
        self._watch = ServerWatch(self.server, self._report)

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self.server.stop(STOP_SECONDS)


def _server_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name.startswith(_SERVER_PREFIXES)}
