# SPDX-License-Identifier: Apache-2.0
"""The isolated Prefect server that a test run works against."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from flowgauge.server_process import LOOP_FACTORY

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

STARTUP_TIMEOUT = 120
"""Seconds to wait for the server: a machine busy with other tests is slow, not broken."""


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Run Prefect's own test harness in an isolated environment, and stop it in any case.

    Args:
        home: The folder that the environment names as Prefect's home.

    Yields:
        The address of the server's API.
    """
    from flowgauge.isolation import forget_user_settings

    with contextlib.ExitStack() as stack:
        from prefect.server.api.server import SubprocessASGIServer
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )
        from prefect.testing.utilities import prefect_test_harness

        forget_user_settings()
        stack.callback(_stop_servers_but, frozenset(SubprocessASGIServer._instances.values()))
        # The server reads `.env` and `prefect.toml` from the folder it starts in.
        with contextlib.chdir(home), patch.dict(os.environ, UVICORN_LOOP=LOOP_FACTORY):
            stack.enter_context(prefect_test_harness(server_startup_timeout=STARTUP_TIMEOUT))
        # With heartbeats every synchronous flow run ends by joining a thread that sleeps in
        # steps of one second.
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        yield PREFECT_API_URL.value()


def _stop_servers_but(earlier: frozenset[SubprocessASGIServer]) -> None:
    """End the harness' server where the harness itself did not: it has no `finally`."""
    from prefect.server.api.server import SubprocessASGIServer

    for server in set(SubprocessASGIServer._instances.values()) - earlier:
        server.stop()
