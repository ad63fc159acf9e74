# SPDX-License-Identifier: Apache-2.0
"""A second server of a pytest run, forked for one test and used by it alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from flowgauge.server.harness import early_request
from flowgauge.server.lease import Lease, ServerProcess, connected
from flowgauge.server.watch import ServerWatch, wait_until_healthy
from flowgauge.waiting import patience

_API_URL = "PREFECT_API_URL"


@contextmanager
def fresh_server(home: Path, run: Lease, report: Callable[[str], None]) -> Iterator[str]:
    """Run a server with an empty database, and let Prefect in this process use it.

    Args:
        home: The folder of the pytest run.
        run: The lease of the pytest run's own server, from whose zygote this one is forked.
        report: Called with the reason, in a few lines, if the server must be ended in mid-test.

    Yields:
        The address of the server's API.

    Raises:
        ServerError: If the server does not start.
    """
    from prefect import context
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fresh-", dir=home))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lease = connected(run.socket_path, folder)
        stack.callback(lease.close)
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        request = early_request(home)
        environment = request.environment | settings
        # Of the other server.
        environment.pop(_API_URL, None)
        request = replace(
            request,
            environment=environment,
            log=str(folder / "server.log"),
            database=str(folder / "database" / "prefect-test.db"),
        )
        server = ServerProcess.start(lease, request)
        # Nothing of its database is needed.
        stack.callback(server.stop, patience=0)
        wait_until_healthy(server)
        stack.callback(ServerWatch(server, report).stop)
        url = f"http://127.0.0.1:{server.port}/api"
        if _API_URL in os.environ:
            stack.enter_context(patch.dict(os.environ, {_API_URL: url}))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        # Threads that were started without a context use these.
        stack.enter_context(
            patch.object(context, "GLOBAL_SETTINGS_CONTEXT", context.get_settings_context())
        )
        yield url


def finish_sending() -> None:
    """Send what this process still has for its server, and end the connections for logs and events.

    The next log and the next event open new ones, to the server that is then in use.
    """
    # Prefect returns something else where an event loop runs, as in Dask's workers.
    thread = threading.Thread(target=_drain, name="flowgauge-drain")
    thread.start()
    thread.join()


def _drain() -> None:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=patience(), at_exit=False)
    EventsWorker.drain_all(timeout=patience(), at_exit=False)
