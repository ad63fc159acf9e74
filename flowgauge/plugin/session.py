# SPDX-License-Identifier: Apache-2.0
"""What one pytest run was asked for, its folder, and the server that it may need."""

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
from flowgauge.server.isolation import isolated_environment

if TYPE_CHECKING:
    from flowgauge.server.lease import Lease, ServerProcess


@dataclass(frozen=True)
class RunOptions:
    """What one pytest run was asked for."""

    runners: tuple[str, ...]
    workers: int
    dask_address: str | None
    report_dir: Path


RUN_OPTIONS = pytest.StashKey[RunOptions]()
SERVER_LOST = pytest.StashKey[str]()
"""Why the server had to be ended while tests were running, in a few lines."""
_HOME = pytest.StashKey[Path]()
_LEASE = pytest.StashKey["Lease"]()
_SERVER = pytest.StashKey["ServerProcess"]()
_LONGEST_BASE = 60
"""Characters in the path that the run's folder is made in: it has sockets, whose paths must be
short."""
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
"""The options with which pytest tells something and runs no test."""


def run_home(config: pytest.Config) -> Path:
    """Return the folder for what Prefect writes in this run; the run is isolated from here on.

    Args:
        config: Of the pytest run.

    Returns:
        A folder that is removed at the end of the run.
    """
    if _HOME not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        base = tempfile.gettempdir()
        folder = tempfile.TemporaryDirectory(
            prefix="flowgauge-",
            dir=base if len(base) <= _LONGEST_BASE else "/tmp",
            ignore_cleanup_errors=True,
        )
        home = config.stash[_HOME] = Path(stack.enter_context(folder))
        stack.enter_context(isolated_environment(home, stock=is_stock(config)))
        # Fork servers have their sockets in a folder of multiprocessing's own, which nobody would
        # remove after a SIGKILL.
        process: Any = multiprocessing.current_process()
        stack.callback(process._config.update, tempdir=process._config.get("tempdir"))
        process._config["tempdir"] = str(home)
        stack.callback(release_server, config)
    return config.stash[_HOME]


def folder_of(config: pytest.Config) -> Path | None:
    """Return the folder of this run; None if it needed none."""
    return config.stash.get(_HOME, None)


def measures(config: pytest.Config) -> bool:
    """Say whether benchmarks are timed in this run."""
    enabled: bool = config.getoption("benchmark_enable", False)
    return enabled or not config.getoption("benchmark_disable", True)


def is_stock(config: pytest.Config) -> bool:
    """Say whether the run wants Prefect's own test harness as it is."""
    return bool(config.known_args_namespace.flow_stock_harness)


def start_early(config: pytest.Config) -> None:
    """Let the server start while pytest imports and collects, if the run may need one.

    Args:
        config: Of a run that is isolated.

    Raises:
        KeptError: If `--flow-keep-server` can't have its folder.
    """
    options = config.known_args_namespace
    if is_stock(config) or any(getattr(options, name, False) for name in RUNS_NOTHING):
        return
    if _only_distributes(options):
        _lease(config)
    else:
        leased_server(config)


def _only_distributes(options: object) -> bool:
    """Say whether pytest-xdist runs the tests in other processes, which share the zygote."""
    distributes = getattr(options, "numprocesses", None) or getattr(options, "tx", None)
    return bool(distributes) and "PYTEST_XDIST_WORKER" not in os.environ


def leased_server(config: pytest.Config) -> ServerProcess:
    """Return the server of this run, which may be starting still.

    Args:
        config: Of the run.

    Raises:
        KeptError: If `--flow-keep-server` can't have its folder.
    """
    if _SERVER not in config.stash:
        from flowgauge.server.harness import early_request
        from flowgauge.server.lease import ServerProcess

        config.stash[_SERVER] = ServerProcess.start(_lease(config), early_request(run_home(config)))
    return config.stash[_SERVER]


def _lease(config: pytest.Config) -> Lease:
    if _LEASE not in config.stash:
        from flowgauge.server.kept import lease_kept
        from flowgauge.server.lease import ZYGOTE, lease

        home = run_home(config)
        if config.known_args_namespace.flow_keep_server:
            taken = lease_kept(config.rootpath, home)
        else:
            taken = lease(home)
        config.stash[_LEASE] = taken
        if taken.zygote:
            # It forks the server when it has imported what that needs, maybe during a test.
            belongs_to_run(taken.zygote.pid)
        # Put back with the rest of the environment at the end.
        os.environ[ZYGOTE] = str(taken.socket_path)
    return config.stash[_LEASE]


def release_server(config: pytest.Config) -> None:
    """End the server of this run, if there is one."""
    if _SERVER in config.stash:
        del config.stash[_SERVER]
    if _LEASE in config.stash:
        config.stash[_LEASE].close()
        del config.stash[_LEASE]


def what_the_server_does(config: pytest.Config) -> str:
    """Return what the server of a run is doing, the innermost calls of each of its threads.

    Args:
        config: Of the run.

    Returns:
        Lines; empty where the run has no server that goes on.
    """
    if _SERVER not in config.stash:
        return ""
    from flowgauge.server.watch import what_it_does

    return "\n".join(
        ("the Prefect server of this run goes on", *what_it_does(config.stash[_SERVER]))
    )
