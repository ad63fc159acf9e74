# SPDX-License-Identifier: Apache-2.0
"""Private names of Prefect: a missing one switches off the features that need it, no others."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowgauge.compat import names
from flowgauge.compat.features import Feature, PrivateName, features_off, missing, usable
from tests.flowgauge.compat.renamed_prefect import (
    copied_prefect,
    hide,
    import_as,
    move,
    rename,
    rename_in,
)

FEATURES = [value for value in vars(names).values() if isinstance(value, Feature)]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_the_installed_prefect_has_every_name(feature: Feature) -> None:
    """The installed release has all private names that the features need."""
    assert [line for name in feature.names if (line := name.missing())] == []


MODULE = """
import time

def waits():
    def inner(seconds):
        time.sleep(seconds)
    return inner

class Engine:
    field: int

    def start(self):
        left = 1
        return left

    @property
    def speed(self):
        return time.time()
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module to inspect."""
    made = types.ModuleType("somebodys_engine")
    exec(MODULE, vars(made))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made.__name__


@pytest.mark.parametrize(
    ("path", "uses"),
    [
        ("Engine.start", ("left",)),
        ("Engine.field", ()),
        ("Engine.speed", ("time",)),
        ("waits", ()),
        ("waits.<locals>.inner", ("time", "sleep")),
        ("time.sleep", ()),
    ],
)
def test_an_existing_name_is_not_missing(module: str, path: str, uses: tuple[str, ...]) -> None:
    """Methods, fields of classes, nested functions and the names that code uses are found."""
    assert PrivateName(module, path, uses).missing() == ""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (PrivateName("no_such.module", "start"), "there is no module no_such.module"),
        (PrivateName("prefect.no_such", "start"), "there is no module prefect.no_such"),
        (PrivateName("somebodys_engine", "Motor.start"), "somebodys_engine has no Motor.start"),
        (PrivateName("somebodys_engine", "Engine.begin"), "somebodys_engine has no Engine.begin"),
        (
            PrivateName("somebodys_engine", "waits.<locals>.other"),
            "somebodys_engine has no waits.<locals>.other",
        ),
        (
            PrivateName("somebodys_engine", "time.<locals>.x"),
            "somebodys_engine has no time.<locals>.x",
        ),
        (
            PrivateName("somebodys_engine", "waits.<locals>.inner", ("anyio", "sleep")),
            "waits.<locals>.inner of somebodys_engine does not use anyio",
        ),
        (
            PrivateName("somebodys_engine", "Engine.start", ("right",)),
            "Engine.start of somebodys_engine does not use right",
        ),
    ],
)
def test_a_missing_name_is_reported(module: str, name: PrivateName, line: str) -> None:
    """Whichever part of a name is missing, the line says which module lacks what."""
    assert name.missing() == line


def test_a_feature_that_is_off_is_noted_once_per_run(module: str, tmp_path: Path) -> None:
    """However often it is found off, the pytest run has one line, with what is done instead."""
    gone = Feature("the flight", (PrivateName(module, "Wing.flap"),), instead="it walks")
    for _ in range(2):
        assert not usable(gone, tmp_path)
    (line,) = features_off(tmp_path)
    assert line.startswith("the flight: off with Prefect ")
    assert "where somebodys_engine has no Wing.flap" in line
    assert line.endswith(": it walks")
    assert usable(Feature("the walk", (PrivateName(module, "Engine.start"),)), tmp_path)
    assert not usable(gone, tmp_path / "on another machine")
    assert missing(gone) in line


PROJECT = """
import pytest
from prefect import flow, task

failures = []

@task
def double(number):
    return 2 * number

@task(retries=1, retry_delay_seconds=3600)
def fail_once():
    if not failures:
        failures.append(1)
        raise ValueError
    return "done"

@pytest.mark.runners("threads", "processes")
def test_plain(prefect_server, task_runner):
    @flow(task_runner=task_runner)
    def pipeline():
        return [future.result() for future in double.map(range(4))]

    assert pipeline() == [0, 2, 4, 6]

def test_clock(prefect_server, virtual_clock):
    assert flow(lambda: fail_once(), name="patient")() == "done"

def test_faults(prefect_server, faults):
    faults.on("double").fail_times(1)
    retried = double.with_options(retries=1)
    assert flow(lambda: retried(4), name="unlucky")() == 8
"""
CLOCK, FAULTS = names.VIRTUAL_CLOCK, names.FAULTS
Change = Callable[[Path], None]


def words(feature: Feature, *each: str) -> list[tuple[str, Change, Feature]]:
    """Return changes that rename a word everywhere."""
    return [(word, partial(rename, word=word), feature) for word in each]


CHANGES: list[tuple[str, Change, Feature]] = [
    *words(CLOCK, "wait_until_ready", "set_state_and_handle_waits", "initialize_run"),
    *words(CLOCK, "propose_state_sync", "AsyncFlowRunEngine"),
    *words(CLOCK, "PrefectHttpxSyncClient", "ConcurrencySlotAcquisitionWithLeaseService"),
    *words(FAULTS, "transaction_context", "handle_success", "call_hooks", "on_commit_hooks"),
    *words(FAULTS, "_staged_value", "write_on_commit", "ResultRecord", "_client_override"),
    *words(FAULTS, "call_explicitly_sync_block_method", "wait_until_empty", "AsyncTransaction"),
    *words(FAULTS, "result_storage", "call_task_fn", "run_generator_task_async"),
    *words(names.QUEUED_TRANSACTIONS, "AioSqliteConfiguration"),
    *words(names.DEADLOCK_WATCH, "_executor"),
    *words(names.STUCK_SLOTS, "aacquire_concurrency_slots_with_lease"),
    *words(names.POOL_WORKERS, "_initargs"),
    *words(names.WARM_SERVER, "SubprocessASGIServer", "temporary_database_interface"),
    *words(names.PREFECT_SERVICES, "_global_loop"),
    *words(names.OWN_SETTINGS, "PrefectBaseSettings"),
    *words(names.DATABASE_TEMPLATE, "run_block_auto_registration"),
    *(
        (module, partial(move, module=module), feature)
        for module, feature in (
            ("prefect.types._datetime", CLOCK),
            ("prefect.concurrency.v1.services", CLOCK),
            ("prefect._internal.result_records", FAULTS),
            ("prefect._internal.compatibility.blocks", FAULTS),
            ("prefect.events.worker", FAULTS),
            ("prefect.server.database.configurations", names.QUEUED_TRANSACTIONS),
            ("prefect._internal.concurrency.threads", names.PREFECT_SERVICES),
        )
    ),
    *(
        (f"{kind}.{method}", partial(hide, module=module, kind=kind, method=method), feature)
        for module, kind, method, feature in (
            ("prefect.task_engine", "SyncTaskRunEngine", "start", FAULTS),
            ("prefect.task_engine", "AsyncTaskRunEngine", "start", FAULTS),
            ("prefect.transactions", "Transaction", "commit", FAULTS),
            ("prefect.concurrency.services", "ConcurrencySlotAcquisitionService", "acquire", CLOCK),
            ("prefect.context", "SettingsContext", "serialize", names.SAVED_WORK),
            (
                "prefect.server.database.configurations",
                "AioSqliteConfiguration",
                "begin_transaction",
                names.QUEUED_TRANSACTIONS,
            ),
        )
    ),
    *(
        (f"{name} in {module}", partial(import_as, module=module, name=name), feature)
        for module, name, feature in (
            ("prefect.task_engine", "time", CLOCK),
            ("prefect.utilities.engine", "anyio", CLOCK),
            ("prefect.concurrency.services", "asyncio", CLOCK),
            ("prefect.client.orchestration", "ssl", names.SAVED_WORK),
            ("prefect.flow_runs", "anyio", names.SKIPPED_WATCHES),
            ("prefect.client.base", "anyio", names.TOLD_WAITS),
            ("prefect.task_runners", "multiprocessing", names.PRELOADED_POOL),
            ("prefect.testing.utilities", "mkdtemp", names.WARM_SERVER),
            ("prefect.testing.utilities", "atexit", names.WARM_SERVER),
        )
    ),
    ("not_done", partial(rename_in, module="prefect.futures", word="not_done"), CLOCK),
    ("pending", partial(rename_in, module="prefect.futures", word="pending"), CLOCK),
]


@pytest.fixture
def later(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of Prefect that the nested pytest runs use."""
    folder = pytester.mkdir("later")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    pytester.makepyfile(PROJECT)
    return copied_prefect(folder)


def outcomes(result: pytest.RunResult) -> dict[str, Any]:
    """Return the outcome of each test of the project."""
    found = {}
    for line in result.outlines:
        if told := re.search(r"::(test_\S+) (PASSED|FAILED|ERROR)\b", line):
            found[told[1]] = told[2]
    return found


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "change", "feature"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_renamed_name_switches_off_only_what_needs_it(
    pytester: pytest.Pytester, later: Path, name: str, change: Change, feature: Feature
) -> None:
    """Without a name, the feature that needs it is off and says so; all other tests pass."""
    change(later)
    result = pytester.runpytest_subprocess("-v", "-p", "no:randomly", timeout=300)
    judge(result, {feature})


@pytest.mark.nightly
def test_a_name_that_two_features_need_switches_off_both(
    pytester: pytest.Pytester, later: Path
) -> None:
    """If two features need the same name, each says that it is off."""
    rename(later, "SyncTaskRunEngine")
    judge(pytester.runpytest_subprocess("-v", "-p", "no:randomly", timeout=300), {CLOCK, FAULTS})


@pytest.mark.nightly
def test_with_many_names_missing_plain_tests_pass(pytester: pytest.Pytester, later: Path) -> None:
    """If several features each lack a name, all of them say that they are off; plain tests pass."""
    # Prefect's own harness needs nothing that the warm server needs; a server without its own
    # settings notes in another home what is off; only the clock says which of its waits are off.
    waits = (names.SKIPPED_WATCHES, names.TOLD_WAITS)
    others = (CLOCK, names.WARM_SERVER, names.OWN_SETTINGS, *waits)
    chosen = {feature.name: change for _, change, feature in CHANGES if feature not in others}
    chosen[CLOCK.name] = partial(rename, word="wait_until_ready")
    for change in chosen.values():
        change(later)
    result = pytester.runpytest_subprocess("-v", "-p", "no:randomly", timeout=300)
    judge(result, {feature for feature in FEATURES if feature.name in chosen})


def judge(result: pytest.RunResult, off: set[Feature]) -> None:
    """Check the run of a project with a Prefect that lacks what some features need."""
    output = result.stdout.str()
    found = outcomes(result)
    assert found["test_plain[threads]"] == found["test_plain[processes]"] == "PASSED", output
    for test, feature in (("test_clock", CLOCK), ("test_faults", FAULTS)):
        assert (found[test] == "PASSED") == (feature not in off), output
    lines = [line for line in result.outlines if ": off with Prefect " in line]
    for feature in off:
        assert any(feature.name in line for line in lines), output
    # A server with other settings has its database in another place.
    consequences = {names.MADE_BY_TESTS} if names.OWN_SETTINGS in off else set()
    for feature in set(FEATURES) - off - consequences - {names.TIDY_HARNESS}:
        assert not any(f"{feature.name}: off" in line for line in lines), output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
