# SPDX-License-Identifier: Apache-2.0
"""The options of a pytest run, its temporary folder, and the server that it may need."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.leftovers.processes import belongs_to_run
from flowgauge.server.existing import is_address
from flowgauge.server.isolation import isolated_environment

if TYPE_CHECKING:
    from flowgauge.server.lease import Lease, ServerProcess


@dataclass(frozen=True)
class RunOptions:
    """The options of one pytest run.

    Attributes:
        runners: The task runners to test on.
        workers: How many tasks may run concurrently.
        dask_address: An existing Dask scheduler to use, None to start one if needed.
        prefect_api: The API of an existing Prefect server to use, None to start one if needed.
        report_dir: The folder for the guarantee matrix and the report.
    """

    runners: tuple[str, ...]
    workers: int
    dask_address: str | None
    prefect_api: str | None
    report_dir: Path


RUN_OPTIONS = pytest.StashKey[RunOptions]()
SERVER_LOST = pytest.StashKey[str]()
"""Why the server had to be stopped while tests were running, in a few lines."""
_HOME = pytest.StashKey[Path]()
_LEASE = pytest.StashKey["Lease"]()
_SERVER = pytest.StashKey["ServerProcess"]()
_MAX_BASE_LENGTH = 60
"""Maximum length of the path in which the run's folder is created; it contains sockets, whose paths
must be short."""
RUNS_NOTHING = (
    "collectonly",
    "help",
    "version",
    "showfixtures",
    "show_fixtures_per_test",
    "markers",
    "cacheshow",
    "setupplan",
)
"""The options with which pytest only prints information and runs no test."""


def run_home(config: pytest.Config) -> Path:
    """Return the folder for what Prefect writes in this run; the first call isolates the run.

    Args:
        config: The configuration of the pytest run.

    Returns:
        A folder that is removed at the end of the run.
    """
    if _HOME not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        base = tempfile.gettempdir()
        folder = tempfile.TemporaryDirectory(
            prefix="flowgauge-",
            dir=base if len(base) <= _MAX_BASE_LENGTH else "/tmp",
            ignore_cleanup_errors=True,
        )
        home = config.stash[_HOME] = Path(stack.enter_context(folder))
        # With what is no address, Prefect could not even be imported; it is reported later.
        api = url if (url := existing_api(config)) and is_address(url) else None
        stack.enter_context(isolated_environment(home, stock=is_stock(config), api=api))
        # Fork servers put their sockets into multiprocessing's temporary folder, which would stay
        # after a SIGKILL if it were elsewhere.
        process: Any = multiprocessing.current_process()
        stack.callback(process._config.update, tempdir=process._config.get("tempdir"))
        process._config["tempdir"] = str(home)
        stack.callback(release_server, config)
    return config.stash[_HOME]


def folder_of(config: pytest.Config) -> Path | None:
    """Return the folder of this pytest run, None if it has none."""
    return config.stash.get(_HOME, None)


def measures(config: pytest.Config) -> bool:
    """Return whether benchmarks are timed in this pytest run."""
    enabled: bool = config.getoption("benchmark_enable", False)
    return enabled or not config.getoption("benchmark_disable", True)


def is_stock(config: pytest.Config) -> bool:
    """Return whether the run uses Prefect's own test harness, unmodified."""
    return bool(config.known_args_namespace.flow_stock_harness)


def existing_api(config: pytest.Config) -> str | None:
    """Return the API of the existing server that the run uses, None if it starts one."""
    url: str | None = config.known_args_namespace.flow_prefect_api
    return url.rstrip("/") if url else None


def runs_nothing(config: pytest.Config) -> bool:
    """Return whether pytest only prints information, and runs no test."""
    return any(getattr(config.known_args_namespace, name, False) for name in RUNS_NOTHING)


def start_early(config: pytest.Config) -> None:
    """Start the server while pytest imports and collects, if the run may need one.

    Args:
        config: The configuration of a pytest run that is isolated.

    Raises:
        KeptError: If `--flow-keep-server` can't use its folder.
    """
    if is_stock(config) or existing_api(config) or runs_nothing(config):
        return
    if _only_distributes(config.known_args_namespace):
        lease_of(config)
    else:
        leased_server(config)


def _only_distributes(options: object) -> bool:
    """Return whether pytest-xdist runs the tests in other processes, which share the zygote."""
    distributes = getattr(options, "numprocesses", None) or getattr(options, "tx", None)
    return bool(distributes) and "PYTEST_XDIST_WORKER" not in os.environ


def leased_server(config: pytest.Config) -> ServerProcess:
    """Return the server of this pytest run, which may still be starting.

    Args:
        config: The configuration of the pytest run.

    Returns:
        The server process, which is started by the first call.

    Raises:
        KeptError: If `--flow-keep-server` can't use its folder.
    """
    if _SERVER not in config.stash:
        from flowgauge.server.harness import early_request
        from flowgauge.server.lease import ServerProcess

        config.stash[_SERVER] = ServerProcess.start(
            lease_of(config), early_request(run_home(config))
        )
    return config.stash[_SERVER]


def lease_of(config: pytest.Config) -> Lease:
    """Return the lease of this pytest run, from whose zygote its servers are forked."""
    if _LEASE not in config.stash:
        from flowgauge.server.kept import lease_kept
        from flowgauge.server.lease import ZYGOTE, lease

        home = run_home(config)
        if config.known_args_namespace.flow_keep_server:
            leased = lease_kept(config.rootpath, home)
        else:
            leased = lease(home)
        config.stash[_LEASE] = leased
        if leased.zygote:
            # The zygote forks the server once its imports are done, possibly during a test.
            belongs_to_run(leased.zygote.pid)
        # Restored with the rest of the environment at the end.
        os.environ[ZYGOTE] = str(leased.socket_path)
    return config.stash[_LEASE]


def release_server(config: pytest.Config) -> None:
    """Stop the server of this pytest run, if there is one."""
    if _SERVER in config.stash:
        del config.stash[_SERVER]
    if _LEASE in config.stash:
        config.stash[_LEASE].close()
        del config.stash[_LEASE]


def what_the_server_does(config: pytest.Config) -> str:
    """Return what the run's server is doing: the innermost calls of each of its threads.

    Args:
        config: The configuration of the pytest run.

    Returns:
        Several lines; an empty string if the run has no server.
    """
    if _SERVER not in config.stash:
        return ""
    from flowgauge.server.watch import what_it_does

    return "\n".join(
        ("the Prefect server of this run is still running", *what_it_does(config.stash[_SERVER]))
    )
