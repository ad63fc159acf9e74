# SPDX-License-Identifier: Apache-2.0
"""The results of a plausible run, for the tests of the report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowgauge.report import report_on, write_report
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Memory, Outcome, Results, Row

MakeRow = Callable[..., Row]

# Seconds for a plain submit, and for the same work on the pool without Prefect.
_SUBMITS = {
    "sequential": (0.0041, 25e-9, "plain function call"),
    "threads": (0.0052, 5.1e-6, "ThreadPoolExecutor"),
    "processes": (0.061, 48e-6, "ProcessPoolExecutor"),
    "dask-threads": (0.084, 1.6e-3, "distributed"),
    "dask-processes": (0.131, 2.9e-3, "distributed"),
}
_ADDED = {"map": 0.98, "retry": 2.2, "cache-miss": 1.45, "cache-hit": 0.8, "persisted-result": 1.3}
_PATTERNS = {"retries/backoff": 340.0, "caching/scope": 52.0, "subflows/side_by_side": 1270.0}


def row(
    id: str,
    value: float,
    ratio: float | None = None,
    *,
    group: str = "features",
    runner: str | None = "threads",
    reference: str | None = "submit of a plain task",
    spread: float = 0.03,
    **more: Any,
) -> Row:
    """Return a row whose intervals extend by the fraction `spread` to either side."""
    fields = {
        "id": id,
        "group": group,
        "runner": runner,
        "params": {"tasks": 50},
        "figure": "time per task run",
        "unit": "seconds",
        "value": Interval(value, value * (1 - spread), value * (1 + spread)),
        "rounds": 12,
        "reference": reference if ratio is not None else None,
        "ratio": None
        if ratio is None
        else Interval(ratio, ratio * (1 - spread), ratio * (1 + spread)),
    }
    return Row(**(fields | more))


def _rows() -> Iterator[Row]:
    for runner, (cost, baseline, reference) in _SUBMITS.items():
        yield row("submit", cost, cost / baseline, runner=runner, reference=reference)
        for id, times in _ADDED.items():
            yield row(id, cost * times, times, runner=runner)
        for id, times in _PATTERNS.items():
            yield row(id, cost * 3, times, group="patterns", runner=runner, reference="plain code")
        of = {"of": "features"}
        yield row("submit", cost, 1.01, group="noise", runner=runner, params=of, reference="itself")
        start: dict[str, Any] = {"group": "startup", "figure": "time to start", "params": {}}
        yield row("runner", cost * 90, runner=runner, **start)
        memory = {"memory": Memory(cost * 1000, 0.1), "reference": "the same on sequential"}
        yield row("first-task", cost * 9, cost, runner=runner, **start | memory)
    call: dict[str, Any] = {"reference": "plain function call", "runner": None}
    yield row("flow", 0.078, 3.1e6, figure="time per flow run", **call)
    yield row("task-call", 0.0031, 1.2e5, **call)
    yield row("server", 8.4, group="startup", figure="time to start", params={}, runner=None)
    pushed: dict[str, Any] = {"reference": "the same pushed", "params": {}}
    yield row("trigger-serve", 7.1, 2.2, group="deployments", runner=None, **pushed)
    yield row("runs-of-a-worker", 28.0, group="deployments", runner=None, unit="runs/min")
    harness: dict[str, Any] = {"reference": "Prefect's own test harness", "params": {}}
    yield from _curves()
    yield from _scaling()
    yield from _large_runs()
    yield row("first-flow-cold", 5.6, 0.34, group="harness", runner=None, **harness)


_WORK = {"sequential": 0.004, "threads": 0.015, "dask-processes": 0.15, "bare Dask": 0.004}


def _curves() -> Iterator[Row]:
    """Yield METG and the curves it was read from, for two kernels, and METG with a feature."""
    metg: dict[str, Any] = {"group": "metg"}
    for kernel, runner in itertools.product(("native", "python"), _WORK):
        cell = {"kernel": kernel, "shape": "trivial"}
        for times in (0, 1, 3):
            seconds = _WORK[runner] * times
            ratio = (seconds + _WORK[runner]) / seconds if seconds else None
            params = cell | {"work_seconds": seconds, "tasks": 8, "workers": 2}
            yield row("curve", _WORK[runner] + seconds, ratio, runner=runner, params=params, **metg)
        if runner == "sequential":
            never: dict[str, Any] = {"outcome": Outcome.NEVER, "spread": 0}
            yield row("metg-50", 0.48, runner=runner, params=cell, **metg, **never)
        else:
            yield row("metg-50", 2 * _WORK[runner], runner=runner, params=cell, **metg)
    feature = {"kernel": "native", "shape": "trivial", "feature": "retries"}
    yield row("metg-50", 0.033, params=feature, **metg)


def _scaling() -> Iterator[Row]:
    bound: dict[str, Any] = {"reference": "the least there can be", "params": {"tasks": 36}}
    yield row("random 6x6 of seed 1", 5.2, 1.3, group="workflows", **bound)
    measured: dict[str, Any] = {"reference": "what was measured", "params": {"tasks": 24}}
    for runner, times in (("threads", 0.9), ("processes", 1.02), ("dask-processes", 1.2)):
        yield row("fork-join", 0.6, times, group="prediction", runner=runner, **measured)
    for id, reference, ratio in (("map", "processes", 0.1), ("map-vs-baseline", "pool", 3.4)):
        lean: dict[str, Any] = {"runner": "lean-processes", "params": {"tasks": 200}}
        yield row(id, 0.004, ratio, group="lean", reference=reference, **lean)
    for kind in ("flow", "workers", "server"):
        yield row(f"processor-time-{kind}", 0.003, group="lean", runner="lean-processes")
    for number in (10, 100):
        yield row("tasks", 0.004, group="scaling", params={"tasks": number})
    for size in (0, 10**6):
        yield row("payload", 0.005, group="scaling", params={"payload_bytes": size})
    for kind, ratio in (("strong", 0.53), ("weak", 1.1)):
        one: dict[str, Any] = {"reference": "one worker", "params": {"workers": 2}}
        yield row(kind, 1.0, ratio, group="scaling", **one)


def _large_runs() -> Iterator[Row]:
    """Yield the task runs that a server takes, and what was computed from that."""
    for clients in (1, 4):
        params: dict[str, Any] = {"database": "SQLite", "clients": clients}
        load: dict[str, Any] = {"group": "load", "unit": "task runs/s", "runner": None}
        yield row("taken", 52.0, params=params, **load)
    measured: dict[str, Any] = {"reference": "what was measured", "params": {"tasks": 10_000}}
    computed: dict[str, Any] = {"group": "limits", "rounds": 0}
    for runner, each in (("processes", 0.02), ("dask-processes", 0.03)):
        yield row("many-tasks", 90.0, 1.05, group="limits", runner=runner, **measured)
        for workers in (10, 100):
            width = {"workers": workers}
            yield row("scheduler", 0.005 * workers, runner=runner, params=width, **computed)
            yield row("runner", each, runner=runner, params=width, **computed)
    for workers in (10, 100):
        server = {"workers": workers, "database": "SQLite"}
        yield row("server", workers / 52, runner=None, params=server, **computed)


@pytest.fixture(scope="session")
def make_row() -> MakeRow:
    """Return the function that makes a row."""
    return row


@pytest.fixture(scope="session")
def sample() -> Results:
    """Return results with every group of rows, on every task runner."""
    fingerprint = {
        "when": "2026-11-20T10:00:00+00:00",
        "git_commit": "0123456789ab",
        "command": "pytest --benchmark-only",
        "python": "CPython 3.11.7",
        "platform": "Linux x86_64",
        "cpu_model": "Example CPU @ 2.50GHz",
        "cores": 2,
        "memory_gib": 24.0,
        "load_1m": 0.41,
        "workers": 2,
        "benchmarks": {"metg": ["benchmarks/test_metg.py"], "features": ["benchmarks/test_a.py"]},
        "versions": {"prefect": "3.8.8", "distributed": "2026.8.0"},
    }
    return Results(fingerprint, tuple(_rows()))


@pytest.fixture(scope="session")
def report(sample: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report on the sample."""
    return write_report(report_on(sample), tmp_path_factory.mktemp("report")).parent
