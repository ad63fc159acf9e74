# SPDX-License-Identifier: Apache-2.0
"""Proved patterns, a pytest plugin and benchmarks for Prefect 3 workflows.

Holds the names that tests import; each is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowgauge.clock.virtual_clock import UnskippedWait as UnskippedWait
    from flowgauge.clock.virtual_clock import VirtualClock as VirtualClock
    from flowgauge.faults.errors import FaultRefused as FaultRefused
    from flowgauge.faults.errors import InjectedFault as InjectedFault
    from flowgauge.faults.faults import Faults as Faults
    from flowgauge.measure.baselines import Baseline as Baseline
    from flowgauge.observe.events import Events as Events
    from flowgauge.observe.events import EventsError as EventsError
    from flowgauge.observe.events import RunEvent as RunEvent
    from flowgauge.observe.history import History as History
    from flowgauge.observe.history import HistoryError as HistoryError
    from flowgauge.observe.ledger import Effect as Effect
    from flowgauge.observe.ledger import EffectLedger as EffectLedger
    from flowgauge.observe.logs import LogLine as LogLine
    from flowgauge.observe.logs import Logs as Logs
    from flowgauge.observe.logs import LogsError as LogsError
    from flowgauge.plugin.paired import Paired as Paired
    from flowgauge.plugin.preflight import UntestedPrefectWarning as UntestedPrefectWarning
    from flowgauge.runners.started import StartedRunners as StartedRunners
    from flowgauge.runners.table import BaselineKind as BaselineKind
    from flowgauge.runners.table import ExecutionModel as ExecutionModel
    from flowgauge.runners.table import Runner as Runner
    from flowgauge.services.service import FailedRun as FailedRun
    from flowgauge.services.service import Service as Service
    from flowgauge.waiting import patience as patience
    from flowgauge.waiting import wait_until as wait_until

_MODULES = {
    "Baseline": "measure.baselines",
    "BaselineKind": "runners.table",
    "Effect": "observe.ledger",
    "EffectLedger": "observe.ledger",
    "Events": "observe.events",
    "EventsError": "observe.events",
    "ExecutionModel": "runners.table",
    "FailedRun": "services.service",
    "FaultRefused": "faults.errors",
    "Faults": "faults.faults",
    "History": "observe.history",
    "HistoryError": "observe.history",
    "InjectedFault": "faults.errors",
    "LogLine": "observe.logs",
    "Logs": "observe.logs",
    "LogsError": "observe.logs",
    "Paired": "plugin.paired",
    "RunEvent": "observe.events",
    "Runner": "runners.table",
    "Service": "services.service",
    "StartedRunners": "runners.started",
    "UnskippedWait": "clock.virtual_clock",
    "UntestedPrefectWarning": "plugin.preflight",
    "VirtualClock": "clock.virtual_clock",
    "patience": "waiting",
    "wait_until": "waiting",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
