# SPDX-License-Identifier: Apache-2.0
"""Imported by the process that a pool's workers are forked from: they have what it has loaded.

Otherwise each worker of each flow run would need 100 ms to read certificates and settings, to
import what makes it part of a pytest run, and to build what Prefect builds at its first use.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from datetime import UTC, datetime

import anyio
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import LogCreate
from prefect.context import hydrated_context
from prefect.events import Event
from prefect.logging.highlighters import PrefectConsoleHighlighter
from rich.console import Console

import flowgauge.runners.reached_workers  # noqa: F401
from flowgauge.compat.features import missing
from flowgauge.compat.names import FAULTS, SAVED_WORK, SENT, VIRTUAL_CLOCK
from flowgauge.compat.repeated_work import saved_work
from flowgauge.server.isolation import forget_user_settings


def load() -> None:
    """Do what would be done again in each worker; start nothing, because threads are not forked."""
    forget_user_settings()
    if not any(map(missing, (VIRTUAL_CLOCK, FAULTS, SAVED_WORK))):
        importlib.import_module("flowgauge.faults.engine")
        with saved_work():
            SyncPrefectClient("http://127.0.0.1/api")
    if not missing(SENT):
        importlib.import_module("flowgauge.observe.sending")
    with hydrated_context():
        Event.model_validate({"event": "first", "resource": {"prefect.resource.id": "first"}})
        message = {"level": 0, "message": "first", "timestamp": datetime.now(UTC)}
        LogCreate.model_validate({"name": "first", **message})
    Console(file=io.StringIO(), highlighter=PrefectConsoleHighlighter()).print("first")
    anyio.run(anyio.sleep, 0)


# What fails here is done by each worker.
with contextlib.suppress(Exception):
    load()
