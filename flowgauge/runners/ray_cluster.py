# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster that a pytest run starts; this process is its only driver."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flowgauge.compat.features import Feature, PrivateName, usable
from flowgauge.runners.starts import RunnerError
from flowgauge.server.isolation import environment_kept

LOOPBACK = Feature(
    "a Ray cluster that listens on loopback only, in the environment of pytest",
    (
        PrivateName("ray._private.services", "get_node_ip_address", ("ENABLE_RAY_CLUSTER",)),
        PrivateName(
            "ray._private.worker", "_maybe_modify_runtime_env", ("RAY_ENABLE_UV_RUN_RUNTIME_ENV",)
        ),
    ),
    instead="Ray listens on all interfaces, and `uv run pytest` starts its workers by `uv run`",
)

_LONGEST_SOCKET = 103
"""The length of the path of a Unix socket that every system allows, in bytes."""
_SESSION = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
"""The length of what Ray adds to its folder for the path of a socket."""
_OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory for results; beyond that, Ray writes to the run's folder."""


@contextmanager
def local_ray(workers: int, home: Path, *, as_shipped: bool) -> Iterator[str]:
    """Run a Ray cluster that listens on loopback only, with this process as its driver.

    A process has one Ray at most: Prefect's Ray task runners in this process use this one.

    Args:
        workers: How many tasks may run at once.
        home: The folder of the pytest run; the cluster writes there.
        as_shipped: Whether workers do all the work that stock Prefect does, for benchmarks.

    Yields:
        The address of the cluster.

    Raises:
        RunnerError: If this process uses Ray already.
    """
    import ray

    if ray.is_initialized():
        raise RunnerError("Ray runs in this process already, and there can be only one: end it")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_short_folder(home / "ray-cluster"))
        # Its processes have these variables; later, nothing needs them.
        with environment_kept(), _own_sigterm_handler(), _on_loopback(home):
            # By default, Ray writes a token into the user's home directory, and leaves it there.
            os.environ.setdefault("RAY_AUTH_TOKEN", _token())
            context = ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"worker_process_setup_hook": _prepare(str(home), as_shipped)},
                _temp_dir=str(folder),
            )
        stack.callback(ray.shutdown)
        yield str(context.address_info["address"])


def finish_sending(workers: int, home: Path) -> None:
    """Let the workers of this process's Ray cluster send what they have for the server.

    Args:
        workers: How many tasks may run at once.
        home: The folder of the pytest run.
    """
    import ray

    # Ray can't call a function in each worker, so each must take one of these tasks.
    meeting = str(home / f"ray-meeting-{uuid.uuid4()}")
    os.mkdir(meeting)
    send: Any = ray.remote(max_retries=0)(_send_together)
    ray.get([send.remote(meeting, workers) for _ in range(workers)])


def _send_together(meeting: str, workers: int) -> None:
    """Send what this process has, once all workers do this."""
    from flowgauge.server import fresh
    from flowgauge.waiting import wait_until

    Path(meeting, str(os.getpid())).touch()
    wait_until(lambda: len(os.listdir(meeting)) >= workers, "all Ray workers")
    fresh.finish_sending()


def _prepare(home: str, as_shipped: bool) -> Callable[[], None]:
    """Return what makes a worker process part of the pytest run; Ray wants a function."""

    def prepare() -> None:
        from flowgauge.runners.worker_setup import prepare_worker

        prepare_worker(home, as_shipped)

    return prepare


@functools.cache
def _token() -> str:
    """Return what the processes of this process's clusters know each other by; Ray caches it."""
    return secrets.token_hex(32)


@contextmanager
def _on_loopback(home: Path) -> Iterator[None]:
    """Make Ray listen on loopback, and start its workers with this Python.

    Ray takes the address of a local cluster from the default route, except on macOS, and changes
    127.0.0.1 into that one. Under `uv run`, it starts each worker by the same command.
    """
    if not usable(LOOPBACK, home):
        yield
        return
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    with (
        patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
        patch.object(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False),
    ):
        yield


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Restore the handler that Ray replaces when it starts in the main thread."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _short_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder, or a temporary one if the paths of sockets in it would be too long."""
    if len(os.fsencode(folder)) + _SESSION <= _LONGEST_SOCKET:
        yield folder
    else:
        with tempfile.TemporaryDirectory(
            prefix="fg-", dir="/tmp", ignore_cleanup_errors=True
        ) as short:
            yield Path(short)
